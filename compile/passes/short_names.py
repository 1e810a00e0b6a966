"""A compiler pass that shortens the names of fused functions."""

from __future__ import annotations

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import GlobalVar
from tvm.relax.expr import _update_type

#: An OpenCL driver may make a file's name of a kernel's: PoCL ended the process at 247 characters.
MAX_LENGTH = 100


def short_names(mod: tvm.IRModule) -> tvm.IRModule:
    """Return a module in which no TensorIR function has a name of more than `MAX_LENGTH`.

    TVM names a function after all operators in it. What is cut off becomes a number.
    """
    new: dict[str, GlobalVar] = {}
    for number, var in enumerate(mod.functions):
        if isinstance(mod[var], tirx.PrimFunc) and len(var.name_hint) > MAX_LENGTH:
            end = f"_{number}"
            shorter = GlobalVar(var.name_hint[: MAX_LENGTH - len(end)] + end)
            _update_type(shorter, var.ty)
            new[var.name_hint] = shorter
    if not new:
        return mod

    def renamed(var: GlobalVar) -> GlobalVar:
        return new.get(var.name_hint, var)

    functions = {}
    for var, func in mod.functions.items():
        if isinstance(func, tirx.PrimFunc):
            name = renamed(var).name_hint
            changed = func if name == var.name_hint else func.with_attr("global_symbol", name)
        else:
            changed = tvm_ffi.structural_map(func, (GlobalVar, renamed))
        functions[renamed(var)] = changed
    return tvm.IRModule(functions, attrs=mod.attrs)
