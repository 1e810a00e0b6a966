"""The calls of a network: their functions, ONNX nodes, work and bytes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import tvm
from tvm import relax, tirx
from tvm.s_tir.analysis import estimate_tir_flops

from mobilenet_tvm.compile.passes.lower_layers import Layer, LowerLayers
from mobilenet_tvm.compile.passes.values import bindings_of
from mobilenet_tvm.schedules.workloads import size_of


@dataclass(frozen=True)
class NetworkCall:
    """One call of a compiled function.

    Parameters
    ----------
    function : str
        Its name in the artifact.
    node : str
        The ONNX node that its first operator comes from; empty if unknown.
    flops, bytes : int
        Operations, and bytes of data, weights and output, each counted once.
    layer : Layer, optional
        The layer, if it has a schedule of its own.
    """

    function: str
    node: str
    flops: int
    bytes: int
    layer: Layer | None = None


def network_calls(
    mod: tvm.IRModule,
    lowering: LowerLayers,
    origins: Sequence[int | None],
    names: Sequence[str],
) -> list[NetworkCall]:
    """Return the calls of `main`, in order.

    Parameters
    ----------
    mod : IRModule
        The module after fusion and before scheduling.
    lowering : LowerLayers
        The pass that has created the layers with schedules of their own.
    origins : sequence of int or None
        For each call, the index of its node.
    names : sequence of str
        Names of the ONNX nodes.
    """
    # TVM's FuseOps orders branches anew, so layers are found by name, and by node if it repeats.
    layers = defaultdict(list)
    for layer, (first, last) in zip(lowering.calls, lowering.nodes, strict=True):
        layers[layer.name].append((last, first, layer))
    found = []
    values = (binding.value for binding in bindings_of(mod["main"]))
    calls = [value for value in values if isinstance(value, relax.Call)]
    for call, origin in zip(calls, origins, strict=True):
        callee = call.args[0] if call.args else None
        if isinstance(callee, relax.ExternFunc):
            waiting = layers[str(callee.global_symbol)]
            index = next((i for i, (last, *_) in enumerate(waiting) if last == origin), 0)
            _, node, layer = waiting.pop(index)
            work = (layer.workload.flops, layer.workload.bytes)
            found.append(NetworkCall(layer.name, _name(node, names), *work, layer))
        elif isinstance(callee, tvm.ir.GlobalVar):
            func = mod[callee]
            work = (_flops(func), _bytes(func))
            found.append(NetworkCall(callee.name_hint, _name(origin, names), *work))
    return found


def _name(node: int | None, names: Sequence[str]) -> str:
    return "" if node is None else names[node]


def _flops(func: tirx.PrimFunc) -> int:
    try:
        return int(estimate_tir_flops(tvm.IRModule({"main": func})))
    except tvm.error.TVMError:
        # TVM counts only loops of constant extents.
        return 0


def _bytes(func: tirx.PrimFunc) -> int:
    tensors = (param.ty for param in func.params if hasattr(param.ty, "shape"))
    return sum(math.prod(map(int, type_.shape)) * size_of(str(type_.dtype)) for type_ in tensors)
