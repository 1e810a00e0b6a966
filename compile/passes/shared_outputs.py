"""Finds the outputs whose memory is not theirs alone."""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.ir import GenericConst

from mobilenet_tvm.compile.passes.values import bindings_of


def shared_outputs(mod: tvm.IRModule) -> list[int]:
    """Return the outputs that are inputs, constants, other outputs, or reshapes of these.

    Parameters
    ----------
    mod : IRModule
        `main` in the form of the virtual machine, where a reshape is a view.

    Returns
    -------
    list of int
        Their places. The virtual machine returns the memory of the caller's array, of the weights,
        or of the earlier output for them.
    """
    main = mod["main"]
    taken: set[relax.Expr] = set(main.params)
    sources: dict[relax.Var, relax.Expr] = {}

    def source(value: relax.Expr) -> relax.Expr:
        return sources.get(value, value) if isinstance(value, relax.Var) else value

    for binding in bindings_of(main):
        value = binding.value
        if _is_view(value):
            value = value.args[0]
        if isinstance(value, relax.Var | GenericConst | relax.Tuple):
            sources[binding.var] = source(value)
    result = source(main.body.body)
    found = []
    for index, value in enumerate(result.fields if isinstance(result, relax.Tuple) else [result]):
        origin = source(value)
        if isinstance(origin, GenericConst) or origin in taken:
            found.append(index)
        taken.add(origin)
    return found


def _is_view(value: relax.Expr) -> bool:
    return (
        isinstance(value, relax.Call)
        and isinstance(value.op, relax.ExternFunc)
        and value.op.global_symbol == "vm.builtin.reshape"
    )
