"""Maximum and minimum of floats that are NaN where a value is, as ONNX Runtime's.

TVM's are the second value where either is NaN: one instruction of x86 (MAXPS), which keeps a NaN
beside a constant if the constant comes first. On ARM, FMAX and FMIN keep any, and TVM's are FMAXNM
and FMINNM, or two instructions. On GPUs they are TVM's: OpenCL leaves NaN undefined, and CUDA has
no such instruction in C++.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.ir import Op, _ffi_api, register_op_attr


def maximum(left: Any, right: Any, dtype: str) -> Any:
    """Return the larger value, or NaN if a value is NaN.

    Parameters
    ----------
    left, right : Expr
        Numbers, or vectors of them.
    dtype : str
        Their type; integers have no NaN.
    """
    return _limit("maximum", tirx.max, left, right, dtype)


def minimum(left: Any, right: Any, dtype: str) -> Any:
    """Return the smaller value, or NaN if a value is NaN; arguments as of `maximum`."""
    return _limit("minimum", tirx.min, left, right, dtype)


def _limit(name: str, native: Callable[..., Any], left: Any, right: Any, dtype: str) -> Any:
    if not dtype.startswith("float"):
        return native(left, right)
    return tirx.call_intrin(dtype, f"mobilenet.{name}", left, right)


def _is_constant(value: Any) -> bool:
    return isinstance(value.value if isinstance(value, tirx.Broadcast) else value, tirx.FloatImm)


def _register(name: str, native: Callable[..., Any]) -> None:
    """Register an operator of TensorIR and what it is on ARM, on other CPUs and on GPUs."""
    full = f"mobilenet.{name}"
    _ffi_api.RegisterOp(full, f"{name}, or NaN if a value is NaN")
    _ffi_api.OpSetNumInputs(Op.get(full), 2)

    def lower(call: tirx.Call) -> Any:
        left, right = call.args
        if _is_constant(right):
            return native(right, left)
        if _is_constant(left):
            return native(left, right)
        value = tirx.Var("value", str(call.ty))
        return tirx.Let(value, right, tirx.Select(tirx.isnan(value), value, native(value, left)))

    def on_arm(call: tirx.Call) -> Any:
        return tirx.call_llvm_pure_intrin(str(call.ty), f"llvm.{name}", *call.args)

    register_op_attr(full, "TCallEffectKind", tirx.CallEffectKind.Pure.value)
    register_op_attr(full, "TVectorizable", True)
    register_op_attr(full, "default.FLowerIntrinsic", lower)
    # TVM would prefer a rule for all of LLVM's targets.
    register_op_attr(full, "llvm.aarch64.FLowerIntrinsic", on_arm)
    for kind in ("opencl", "cuda"):
        register_op_attr(full, f"{kind}.FLowerIntrinsic", lambda call: native(*call.args))


_register("maximum", tirx.max)
_register("minimum", tirx.min)
