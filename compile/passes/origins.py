"""Maps the calls of a network to ONNX nodes after TVM has grouped its operators."""

from __future__ import annotations

from collections import defaultdict

import tvm
from tvm import relax

from mobilenet_tvm.compile.passes.names import node_index
from mobilenet_tvm.compile.passes.values import bindings_of

_CALL_TIR = tvm.ir.Op.get("relax.call_tir")
_CALL_PACKED = tvm.ir.Op.get("relax.call_dps_packed")


def origins_of_calls(unfused: tvm.IRModule, fused: tvm.IRModule) -> list[int | None]:
    """Return the ONNX node of each call of `main`, although TVM's FuseOps renames variables.

    Parameters
    ----------
    unfused, fused : IRModule
        `main` before and after FuseOps.

    Returns
    -------
    list of int or None
        For each call, in order, the index of the node of its first operator.
    """
    # An operator is identified by its function and the values that it reads.
    waiting: dict[tuple[object, ...], list[relax.Var]] = defaultdict(list)
    for binding in bindings_of(unfused["main"]):
        if isinstance(binding.value, relax.Call):
            waiting[_key(binding.value, {})].append(binding.var)
    parameters = zip(fused["main"].params, unfused["main"].params, strict=True)
    same: dict[relax.Var, relax.Var] = dict(parameters)
    found = []
    for binding in bindings_of(fused["main"]):
        call = binding.value
        if not isinstance(call, relax.Call):
            if isinstance(call, relax.Var):
                same[binding.var] = same.get(call, call)
            continue
        group = fused[call.op] if isinstance(call.op, tvm.ir.GlobalVar) else None
        if not isinstance(group, relax.Function):
            inner = [(binding.var, call)]
        else:
            arguments = [
                same.get(argument, argument) if isinstance(argument, relax.Var) else argument
                for argument in call.args
            ]
            same |= dict(zip(group.params, arguments, strict=True))
            inner = [
                (b.var, b.value) for b in bindings_of(group) if isinstance(b.value, relax.Call)
            ]
        members = []
        for var, value in inner:
            candidates = waiting.get(_key(value, same))
            if candidates:
                members.append(candidates.pop(0))
                same[var] = members[-1]
        if members:
            same[binding.var] = members[-1]
        nodes = (node_index(member) for member in members)
        found.append(next((node for node in nodes if node is not None), None))
    return found


def _key(call: relax.Call, same: dict[relax.Var, relax.Var]) -> tuple[object, ...]:
    """Return the identity of a call: its callee and the variables that it reads."""
    callee = call.args[0] if call.op in (_CALL_TIR, _CALL_PACKED) else call.op
    values = [
        same.get(argument, argument) if isinstance(argument, relax.Var) else argument
        for value in call.args
        for argument in (value.fields if isinstance(value, relax.Tuple) else [value])
    ]
    # The constants of a group are its parameters, so they are ignored.
    read = [value for value in values if isinstance(value, relax.Var)]
    if isinstance(callee, tvm.ir.GlobalVar):
        return callee.name_hint, *read
    return callee.global_symbol if isinstance(callee, relax.ExternFunc) else callee.name, *read
