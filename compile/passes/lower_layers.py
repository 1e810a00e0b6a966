"""A compiler pass that replaces each layer by a call of its scheduled function."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import tvm
from tvm import relax, tirx

from mobilenet_tvm.compile.passes.find_layers import FindLayers, FoundLayer
from mobilenet_tvm.compile.passes.names import node_index
from mobilenet_tvm.compile.passes.rewriter import GraphRewriter
from mobilenet_tvm.compile.passes.values import constant
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.stages import is_per_channel
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.target import Target

#: Chooses how to compute a layer.
Decide = Callable[[Workload, Target], Decision]


@dataclass(frozen=True)
class Layer:
    """One lowered layer, which the network may call several times.

    Parameters
    ----------
    name : str
        The function's name in the artifact.
    workload : Workload
        What it computes.
    decision : Decision
        How it is computed.
    func : PrimFunc
        The scheduled function.
    """

    name: str
    workload: Workload
    decision: Decision
    func: tirx.PrimFunc


class LowerLayers(GraphRewriter):
    """Replace layers by calls of their functions, which are in `layers` after `run`.

    The calls name their functions instead of referring to them, since a function may see an
    image as a matrix of pixels x channels where the graph has NHWC.
    """

    def __init__(self, mod: tvm.IRModule, target: Target, decide: Decide) -> None:
        super().__init__(mod)
        self.layers: list[Layer] = []
        #: The layers in call order, and the indices of the first and last nodes in them.
        self.calls: list[Layer] = []
        self.nodes: list[tuple[int | None, int | None]] = []
        self._target = target
        self._decide = decide
        self._found = FindLayers(mod, target)
        self._by_workload: dict[Workload, Layer] = {}

    def visit_binding(self, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        """Emit a layer where its last variable is bound."""
        if var in self._found.found:
            return self._lower(var, self._found.found[var])
        # Values inside a layer have no readers left, so the input can replace them.
        return value.args[0] if var in self._found.inside else None

    def _lower(self, last: relax.Var, found: FoundLayer) -> relax.Expr:
        *earlier, workload = found.stages
        self.nodes += [(found.node, node_index(last))] * len(found.stages)
        data = self.substitute(found.data)
        if str(data.ty.dtype) != found.stages[0].reads:
            data = self.emit(relax.op.astype(data, found.stages[0].reads))
        for stage in earlier:
            layer = self._call(stage)
            result = relax.TensorType(stage.output_shape, stage.types.result)
            data = self.emit(relax.call_dps_packed(layer.name, [data], result))
        layer = self._call(workload)
        packed = registry.pack(layer.decision, found.weights)
        arguments = [data]
        names = [parameter.name for parameter in layer.func.params]
        for part, (weight, operands) in enumerate(itertools.zip_longest(packed, found.operands)):
            arguments += [] if weight is None else [constant(weight)]
            for operand in operands or ():
                if isinstance(operand, relax.Expr):
                    arguments.append(self.substitute(operand))
                    continue
                if is_per_channel(names[len(arguments)]):
                    operand = registry.arrange(layer.decision, operand, part)
                arguments.append(constant(operand))
        return relax.call_dps_packed(layer.name, arguments, last.ty)

    def _call(self, workload: Workload) -> Layer:
        """Record a call, and return its layer, which is built once."""
        if workload not in self._by_workload:
            decision = self._decide(workload, self._target)
            name = f"{workload.operator}_{len(self.layers)}"
            func = registry.build(workload, decision, self._target)
            layer = Layer(name, workload, decision, func.with_attr("global_symbol", name))
            self._by_workload[workload] = layer
            self.layers.append(layer)
        self.calls.append(self._by_workload[workload])
        return self._by_workload[workload]
