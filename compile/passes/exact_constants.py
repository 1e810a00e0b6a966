"""A compiler pass that keeps constants exact, of which TVM writes only seven digits in C."""

from __future__ import annotations

import math

import numpy as np
import tvm
import tvm_ffi
from tvm import ir, tirx

from mobilenet_tvm.targets.gpu import Gpu

#: The functions that make a float of its bits.
_FROM_BITS = {"opencl": "as_float", "cuda": "__int_as_float"}


def exact_constants(mod: tvm.IRModule, gpu: Gpu) -> tvm.IRModule:
    """Write as bits the constants that seven digits do not tell from their neighbours.

    The last digit decides which pixel is the nearest, and how a quantised value is rounded.

    Parameters
    ----------
    mod : IRModule
        A network; its TensorIR functions are changed.
    gpu : Gpu
        The GPU that its functions are for.
    """

    def exact(constant: tirx.FloatImm) -> ir.Expr:
        value = constant.value
        if str(constant.ty) != "float32" or not math.isfinite(value):
            return constant
        stored = np.float32(value)
        if np.float32(f"{value:.6e}") == stored:
            return constant
        return tirx.call_pure_extern("float32", _FROM_BITS[gpu.kind], int(stored.view(np.int32)))

    functions = {
        name: tvm_ffi.structural_map(func, (tirx.FloatImm, exact))
        if isinstance(func, tirx.PrimFunc)
        else func
        for name, func in mod.functions.items()
    }
    return tvm.IRModule(functions, attrs=mod.attrs)
