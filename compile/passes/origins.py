"""Which ONNX node a value comes from: passes keep it in the names of variables."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import tvm
from tvm import relax

from mobilenet_tvm.compile.passes.values import straight_line

#: A builder adds digits to a name that it has already.
_NAME = re.compile(r"(.+)_([0-9]+)_[0-9]*")
_CALL_TIR = tvm.ir.Op.get("relax.call_tir")

#: The attribute of an imported module: the names of the ONNX nodes, in the graph's order.
NODE_NAMES = "onnx_node_names"


def variable_name(operator: str, index: int) -> str:
    """Return a name for what a node computes, from its operator and its place in the graph."""
    return f"{operator}_{index}_"


def node_index(var: relax.Var) -> int | None:
    """Return the place of the node that a variable comes from; None where that is not known."""
    match = _NAME.fullmatch(var.name)
    return int(match[2]) if match else None


def origins_of_calls(unfused: tvm.IRModule, fused: tvm.IRModule) -> list[int | None]:
    """Return where the calls of `main` come from, after TVM's FuseOps has renamed variables.

    Parameters
    ----------
    unfused, fused : IRModule
        `main` before and after FuseOps.

    Returns
    -------
    list of int or None
        For each call, in order: the node of the first operator in it.
    """
    # An operator is known by its function and the values that it reads.
    waiting: dict[tuple[object, ...], list[relax.Var]] = defaultdict(list)
    for binding in _bindings(unfused["main"]):
        if isinstance(binding.value, relax.Call):
            waiting[_key(binding.value, {})].append(binding.var)
    same: dict[relax.Var, relax.Var] = {}
    found = []
    for binding in _bindings(fused["main"]):
        call = binding.value
        if not isinstance(call, relax.Call):
            if isinstance(call, relax.Var):
                same[binding.var] = same.get(call, call)
            continue
        group = fused[call.op] if isinstance(call.op, tvm.ir.GlobalVar) else None
        if not isinstance(group, relax.Function):
            inner = [(binding.var, call)]
        else:
            arguments = [same.get(argument, argument) for argument in call.args]
            same |= dict(zip(group.params, arguments, strict=True))
            inner = [(b.var, b.value) for b in _bindings(group) if isinstance(b.value, relax.Call)]
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


def _bindings(func: relax.Function) -> Sequence[relax.VarBinding]:
    return [binding for block in straight_line(func).blocks for binding in block.bindings]


def _key(call: relax.Call, same: dict[relax.Var, relax.Var]) -> tuple[object, ...]:
    """Return what tells a call from others: what it calls, and the variables that it reads."""
    callee, *_ = call.args if call.op == _CALL_TIR else (call.op,)
    read = [
        same.get(argument, argument)
        for value in call.args
        for argument in (value.fields if isinstance(value, relax.Tuple) else [value])
        if isinstance(argument, relax.Var)
    ]
    name = callee.name_hint if isinstance(callee, tvm.ir.GlobalVar) else str(callee)
    return name, *read
