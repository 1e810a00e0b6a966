"""A compiler pass that lowers each convolution with what follows it to one scheduled function."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx

from mobilenet_tvm.compile.passes.recognize_hard import HARD_SIGMOID, HARD_SWISH
from mobilenet_tvm.compile.passes.rewriter import (
    GraphRewriter,
    constant,
    constant_value,
    op_name,
    shape_of,
    straight_line,
)
from mobilenet_tvm.compile.passes.to_nhwc import TO_NHWC
from mobilenet_tvm.schedules import registry as operators
from mobilenet_tvm.schedules.workloads import (
    Block,
    Convolution,
    Depthwise,
    DepthwisePointwise,
    GlobalPool,
    Pointwise,
    Step,
    Workload,
)
from mobilenet_tvm.targets.target import Target

Array = np.ndarray[Any, Any]

#: The stem's schedule unrolls all input channels.
MOST_STEM_CHANNELS = 8

#: What layers compute in.
DTYPES = ("float32", "float16")

#: Chooses how to compute a layer.
Decide = Callable[[Workload, Target], Any]


@dataclass(frozen=True)
class Layer:
    """One lowered layer; several places of the network may call it.

    Parameters
    ----------
    name : str
        The function's name in the artifact.
    workload : Workload
        What it computes.
    decision : object
        How: an instance of the `Decision` of the workload's schedule.
    func : PrimFunc
        The scheduled function.
    """

    name: str
    workload: Workload
    decision: Any
    func: tirx.PrimFunc


@dataclass
class _Chain:
    """A convolution, and the element-wise operators that its function applies as well."""

    head: relax.Var
    #: Gates that multiply what it reads, one for each picture; they are its first operand.
    gates: int = 0
    steps: list[Step] = field(default_factory=list)
    operands: list[relax.Expr | Array] = field(default_factory=list)
    #: The layer before, which is fused into this one and may itself have another before it.
    first: _Chain | None = None


class LowerLayers(GraphRewriter):
    """Replace layers by calls of their functions, which `layers` lists after `run`.

    The calls name their function instead of referring to it, since it sees pictures as
    matrices of pixels x channels, while the graph sees NHWC.
    """

    def __init__(self, mod: tvm.IRModule, target: Target, decide: Decide) -> None:
        super().__init__(mod)
        self.layers: list[Layer] = []
        #: The layers in the order in which the network calls them.
        self.calls: list[Layer] = []
        self._target = target
        self._decide = decide
        self._by_workload: dict[Workload, Layer] = {}
        bindings = [b for block in straight_line(mod["main"]).blocks for b in block.bindings]
        self._values = {binding.var: binding.value for binding in bindings}
        self._consumers: dict[relax.Var, list[relax.Var]] = defaultdict(list)
        for binding in bindings:
            if isinstance(binding.value, relax.Call):
                for argument in binding.value.args:
                    self._consumers[argument].append(binding.var)
        #: Last variable of each chain, and the variables that a chain swallows.
        self._chains: dict[relax.Var, _Chain] = {}
        self._inside: set[relax.Var] = set()
        #: What gates multiply, by the variable of the product, which chains swallow.
        self._gated: dict[relax.Var, relax.Var] = {}
        for binding in bindings:
            if has_schedule(binding.value):
                self._grow(binding.var)
        for chain in list(self._chains.values()):
            self._gate(chain)
            self._fuse(chain)

    def visit_binding(self, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        """Emit a whole layer where its last variable is bound."""
        if var in self._chains:
            return self._lower(var, self._chains[var])
        # Nobody reads what is inside a chain, so its input stands for it.
        if var in self._gated:
            return self.substitute(self._gated[var])
        return value.args[0] if var in self._inside else None

    def _grow(self, head: relax.Var) -> None:
        """Extend a chain from its head as long as the only reader is an element-wise operator."""
        chain, last = _Chain(head), head
        while self._uses[last] == 1 and len(self._consumers[last]) == 1:
            reader = self._consumers[last][0]
            step = _step(self._values[reader], last)
            if step is None or reader in self._inside or reader in self._chains:
                break
            chain.steps.append(step[0])
            if step[1] is not None:
                chain.operands.append(step[1])
            self._inside.add(last)
            last = reader
            if step[0].op == "float32":
                break
        self._chains[last] = chain

    def _gate(self, chain: _Chain) -> None:
        """Let a pointwise layer multiply what it reads by a factor per channel, where that pays."""
        workload, data = self._workload(chain), self._values[chain.head].args[0]
        swallowed = data in self._inside or data in self._chains
        if not isinstance(workload, Pointwise) or swallowed or self._uses[data] > 1:
            return
        factors = _pictures_and_gates(self._values.get(data))
        if factors is None:
            return
        pictures, gate = factors
        gates = shape_of(gate)[0]
        if operators.pays(replace(workload, gates=gates), self._target):
            self._gated[data] = pictures
            chain.gates = gates
            chain.operands.insert(0, gate)

    def _fuse(self, chain: _Chain) -> None:
        """Let a pointwise layer compute the one or two layers before it, where that pays."""
        if not isinstance(self._workload(chain), Pointwise):
            return
        depthwise = self._only_before(chain)
        if depthwise is None or not isinstance(self._workload(depthwise), Depthwise):
            return
        candidates = [[depthwise, chain]]
        first = self._only_before(depthwise)
        if first is not None and first.first is None:
            candidates.insert(0, [first, depthwise, chain])
        for chains in candidates:
            fused = _fused([self._workload(link) for link in chains])
            if isinstance(fused, Block | DepthwisePointwise) and operators.pays(
                fused, self._target
            ):
                self._swallow(chains)
                return

    def _swallow(self, chains: list[_Chain]) -> None:
        for before, chain in itertools.pairwise(chains):
            last = self._values[chain.head].args[0]
            chain.first = before
            del self._chains[last]
            self._inside.add(last)

    def _only_before(self, chain: _Chain) -> _Chain | None:
        """Return the chain whose result only this one reads, if it is one."""
        data = self._values[chain.head].args[0]
        return self._chains.get(data) if self._uses[data] == 1 else None

    def _workload(self, chain: _Chain) -> Workload:
        return self._describe(self._values[chain.head], chain)[0]

    def _lower(self, last: relax.Var, chain: _Chain) -> relax.Expr:
        chains = [chain]
        while (before := chains[0].first) is not None:
            chains.insert(0, before)
        # The layers after the first read what the new function does not hold.
        heads = [self._values[link.head] for link in chains]
        heads[0] = self.substitute(heads[0])
        described = [self._describe(head, link) for head, link in zip(heads, chains, strict=True)]
        workload = _fused([part for part, _ in described])
        assert workload is not None  # noqa: S101
        *earlier, workload = operators.stages(workload, self._target)
        data = self._data(heads[0], workload)
        for stage in earlier:
            data = self._reduced(stage, data)
        layer = self._layer(workload)
        weights = [weight for _, weight in described if weight is not None]
        packed = operators.pack(workload, weights, layer.decision)
        arguments = [data]
        for weight, link in itertools.zip_longest(packed, chains):
            arguments += [] if weight is None else [constant(weight)]
            arguments += self._operands(link)
        self.calls.append(layer)
        return relax.call_dps_packed(layer.name, arguments, last.ty)

    def _reduced(self, stage: Workload, data: relax.Expr) -> relax.Expr:
        """Call a layer that leaves a mean of each part of the pixels."""
        assert isinstance(stage, GlobalPool)  # noqa: S101
        layer = self._layer(stage)
        self.calls.append(layer)
        result = relax.TensorType((stage.batch, stage.channels), stage.dtype)
        return self.emit(relax.call_dps_packed(layer.name, [data], result))

    def _operands(self, chain: _Chain) -> list[relax.Expr]:
        return [
            constant(operand) if isinstance(operand, np.ndarray) else self.substitute(operand)
            for operand in chain.operands
        ]

    def _data(self, head: relax.Call, workload: Workload) -> relax.Expr:
        """Return what a layer reads: a stem reads a picture in float32, and in NCHW, as it is."""
        picture = self._nchw_picture(head)
        if picture is not None:
            return picture
        if not isinstance(workload, Convolution | Block):
            return head.args[0]
        data = self._uncast(head.args[0])
        if str(data.ty.dtype) == "float32":
            return data
        return self.emit(relax.op.astype(data, "float32"))

    def _uncast(self, data: relax.Expr) -> relax.Expr:
        """Return what float16 data were before, if they were float32."""
        call = self.producer(data, "astype")
        return data if call is None or str(data.ty.dtype) != "float16" else call.args[0]

    def _nchw_picture(self, head: relax.Call) -> relax.Expr | None:
        call = self.producer(self._uncast(head.args[0]), "permute_dims")
        if call is None or tuple(map(int, call.attrs.axes or ())) != TO_NHWC:
            return None
        full = op_name(head) == "nn.conv2d" and int(head.attrs.groups) == 1
        if str(call.ty.dtype) != "float32":
            return None
        return call.args[0] if full and tuple(shape_of(head.args[1])[:2]) != (1, 1) else None

    def _describe(self, head: relax.Call, chain: _Chain) -> tuple[Workload, Array | None]:
        """Return what a layer computes, and its weights."""
        shape = shape_of(head.args[0])
        rest = (tuple(chain.steps), str(head.args[0].ty.dtype))
        if op_name(head) == "mean":
            batch, height, width, channels = shape
            return GlobalPool(batch, height * width, channels, *rest), None
        weight = np.asarray(constant_value(head.args[1]))
        if op_name(head) == "matmul":
            return Pointwise(shape[0], shape[1], weight.shape[1], *rest), weight
        attrs = head.attrs
        batch, height, width, inputs = shape
        kernel = (weight.shape[0], weight.shape[1])
        stride = (int(attrs.strides[0]), int(attrs.strides[1]))
        top, left, bottom, right = (int(extent) for extent in attrs.padding)
        window = (kernel, stride, (top, left, bottom, right))
        if attrs.groups > 1:
            taps = weight.reshape(*kernel, inputs)
            return Depthwise(batch, height, width, inputs, *window, *rest), taps
        outputs = weight.shape[3]
        if kernel == (1, 1) and _is_dense(attrs):
            matrix = weight.reshape(inputs, outputs)
            pixels = batch * height * width
            return Pointwise(pixels, inputs, outputs, *rest, chain.gates), matrix
        nchw = self._nchw_picture(head) is not None
        return Convolution(batch, height, width, inputs, outputs, *window, nchw, *rest), weight

    def _layer(self, workload: Workload) -> Layer:
        if workload not in self._by_workload:
            decision = self._decide(workload, self._target)
            name = f"{operators.operator(workload)}_{len(self.layers)}"
            func = operators.build(workload, decision, self._target)
            layer = Layer(name, workload, decision, func.with_attr("global_symbol", name))
            self._by_workload[workload] = layer
            self.layers.append(layer)
        return self._by_workload[workload]


def has_schedule(value: relax.Expr) -> bool:
    """Tell whether a bound value, in NHWC, is what a schedule of its own computes."""
    if not isinstance(value, relax.Call) or not isinstance(value.ty, relax.TensorType):
        return False
    if str(value.ty.dtype) not in DTYPES:
        return False
    name, args = op_name(value), value.args
    if name == "mean":
        axes = [int(axis) for axis in value.attrs.axis or ()]
        return len(shape_of(args[0])) == 4 and axes == [1, 2]
    if name not in ("nn.conv2d", "matmul") or constant_value(args[1]) is None:
        return False
    if name == "matmul":
        return len(shape_of(args[0])) == len(shape_of(args[1])) == 2
    attrs = value.attrs
    if attrs.data_layout != "NHWC" or [int(d) for d in attrs.dilation] != [1, 1]:
        return False
    channels, outputs = shape_of(args[0])[3], shape_of(args[1])[3]
    groups = int(attrs.groups)
    if groups == 1:
        pointwise = shape_of(args[1])[:2] == (1, 1) and _is_dense(attrs)
        return pointwise or channels <= MOST_STEM_CHANNELS
    return groups == channels == outputs


def _fused(workloads: Sequence[Workload]) -> Workload | None:
    """Return layers, each read by the next alone, as one; None where no schedule does that."""
    match workloads:
        case [workload]:
            return workload
        case [Depthwise() as first, Pointwise() as last]:
            return DepthwisePointwise(first, last.outputs, last.epilogue)
        case [Convolution() as first, Depthwise() as second, Pointwise() as last]:
            return Block(first, DepthwisePointwise(second, last.outputs, last.epilogue))
        case [Pointwise(gates=0) as first, Depthwise() as second, Pointwise() as last]:
            size = (second.batch, second.height, second.width, first.inputs, first.outputs)
            window = ((1, 1), (1, 1), (0, 0, 0, 0))
            convolution = Convolution(*size, *window, epilogue=first.epilogue)
            return Block(convolution, DepthwisePointwise(second, last.outputs, last.epilogue))
    return None


def _is_dense(attrs: Any) -> bool:
    """Tell whether a convolution reads each pixel once: no stride, no padding."""
    return [int(s) for s in attrs.strides] == [1, 1] and not any(int(p) for p in attrs.padding)


def _step(call: relax.Expr, data: relax.Var) -> tuple[Step, relax.Expr | Array | None] | None:
    """Return an element-wise call as a step on `data` with its operand, or None."""
    if not isinstance(call, relax.Call):
        return None
    name = op_name(call)
    if name in ("nn.relu", HARD_SIGMOID, HARD_SWISH, "sigmoid"):
        return Step(name.rpartition(".")[2]), None
    if name == "clip":
        return Step("clip", (float(call.args[1].value), float(call.args[2].value))), None
    if name == "astype" and (str(data.ty.dtype), str(call.ty.dtype)) == ("float16", "float32"):
        return Step("float32"), None
    if name not in ("add", "subtract", "multiply", "divide"):
        return None
    left, right = call.args
    if left.same_as(right):
        return None
    other = right if left.same_as(data) else left
    vector = _channels(constant_value(other), shape_of(data), shape_of(call))
    if vector is not None:
        if name in ("subtract", "divide") and not left.same_as(data):
            return None
        vector = {"subtract": np.negative, "divide": np.reciprocal}.get(name, np.asarray)(vector)
        return Step("add_channel" if name in ("add", "subtract") else "mul_channel"), vector
    same = shape_of(other) == shape_of(data) == shape_of(call)
    floats = str(other.ty.dtype) == str(data.ty.dtype) in DTYPES
    if same and floats and name in ("add", "multiply"):
        return Step("add" if name == "add" else "mul"), other
    return None


def _pictures_and_gates(product: relax.Expr | None) -> tuple[relax.Var, relax.Var] | None:
    """Return pictures and their gates, one factor per channel, if a product is of these."""
    if not isinstance(product, relax.Call) or op_name(product) != "multiply":
        return None
    pictures, gates = sorted(product.args, key=lambda factor: -math.prod(shape_of(factor)))
    if not (isinstance(pictures, relax.Var) and isinstance(gates, relax.Var)):
        return None
    shape = shape_of(pictures)
    fit = len(shape) == 4 and shape_of(gates) == (shape[0], 1, 1, shape[3])
    return (pictures, gates) if fit and shape == shape_of(product) else None


def _channels(value: Array | None, shape: tuple[int, ...], result: tuple[int, ...]) -> Array | None:
    """Return a constant as one number per channel (the last axis), if it is that."""
    if value is None or str(value.dtype) not in DTYPES or shape != result:
        return None
    if value.size != 1 and (value.size != shape[-1] or value.shape[-1:] != shape[-1:]):
        return None
    return np.ascontiguousarray(np.broadcast_to(value.reshape(-1), (shape[-1],)))
