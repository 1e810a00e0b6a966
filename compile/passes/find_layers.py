"""Analysis that finds the layers of a network: convolutions and the operators fused into them.

It does not pack, schedule or rewrite anything.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import tvm
from tvm import relax

from mobilenet_tvm.compile.passes import quantized_ops as ops
from mobilenet_tvm.compile.passes.heads import DTYPES, Head, head_of
from mobilenet_tvm.compile.passes.names import node_index
from mobilenet_tvm.compile.passes.recognize_hard import HARD_SIGMOID, HARD_SWISH
from mobilenet_tvm.compile.passes.recognize_smooth import ELU, MISH, SOFTPLUS
from mobilenet_tvm.compile.passes.to_nhwc import TO_NHWC
from mobilenet_tvm.compile.passes.values import (
    Array,
    bindings_of,
    constant_value,
    count_uses,
    op_name,
    shape_of,
)
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.workloads import (
    Convolution,
    Depthwise,
    Pointwise,
    Step,
    Workload,
)
from mobilenet_tvm.targets.target import Target

#: Functions of one value that are steps.
_FUNCTIONS = (
    "nn.relu",
    "nn.silu",
    "nn.gelu",
    "sigmoid",
    "tanh",
    HARD_SIGMOID,
    HARD_SWISH,
    ELU,
    MISH,
    SOFTPLUS,
)
#: The most layers that any schedule fuses.
MAX_FUSED = 3
#: The most steps of a layer: more than networks have.
MAX_STEPS = 16


@dataclass(frozen=True)
class FoundLayer:
    """A part of the network that a scheduled function computes.

    Parameters
    ----------
    stages : tuple of Workload
        Workloads to compute one after the other; usually a single one.
    data : Expr
        The input of the first stage.
    weights : tuple of ndarray
        Weights of all layers fused in it, of the shapes given by the workload's `weights`.
    operands : tuple of tuple
        Gates and operands of the epilogue, for each of these layers: values of the network, or
        constants.
    node : int, optional
        Index of the ONNX node that the first of these layers comes from.
    """

    stages: tuple[Workload, ...]
    data: relax.Expr
    weights: tuple[Array, ...]
    operands: tuple[tuple[relax.Expr | Array, ...], ...]
    node: int | None = None


@dataclass
class _Chain:
    """A layer's first operator and the element-wise operators fused into it."""

    head: relax.Var
    kind: Head
    #: Number of gate vectors, one per image, that multiply the input; they are the first operand.
    gates: int = 0
    steps: list[Step] = field(default_factory=list)
    operands: list[relax.Expr | Array] = field(default_factory=list)
    #: The type of the result, if it differs from that of the head's sums.
    result: str = ""
    #: The preceding layer fused into this one, which may itself have one.
    before: _Chain | None = None
    #: The workload of this layer with those fused into it.
    fused: Workload | None = None


class FindLayers:
    """Finds the layers of a network in NHWC.

    Parameters
    ----------
    mod : IRModule
        The network, in `main`.
    target : Target
        The machine, which determines the layers that are fused.

    Attributes
    ----------
    found : dict of Var to FoundLayer
        Layers by the variable of their result, in the order of the network.
    inside : set of Var
        Variables inside layers, which are not computed separately.
    """

    def __init__(self, mod: tvm.IRModule, target: Target) -> None:
        self._target = target
        bindings = bindings_of(mod["main"])
        self._uses = count_uses(mod["main"])
        self._values = {binding.var: binding.value for binding in bindings}
        self._consumers: dict[relax.Var, list[relax.Var]] = defaultdict(list)
        for binding in bindings:
            if isinstance(binding.value, relax.Call):
                for argument in binding.value.args:
                    self._consumers[argument].append(binding.var)
        self.inside: set[relax.Var] = set()
        #: Chains by their last variable.
        self._chains: dict[relax.Var, _Chain] = {}
        for binding in bindings:
            kind = head_of(binding.value)
            if kind is not None and registry.find(kind.describe(binding.value), target):
                self._grow(_Chain(binding.var, kind))
        for chain in list(self._chains.values()):
            data, pad = self._values[chain.head].args[0], self._zero_point_pad(chain)
            if self._quantized_image(chain) is not None:
                self.inside.add(data if pad is None else pad.args[0])
            if pad is not None:
                self.inside.add(data)
            self._gate(chain)
            self._fuse(chain)

    @cached_property
    def found(self) -> dict[relax.Var, FoundLayer]:
        """The layers by the variable of their result, in the order of the network."""
        return {var: self._layer(self._chains[var]) for var in self._values if var in self._chains}

    def calls(self) -> list[Workload]:
        """Return the workloads that have schedules of their own, in call order."""
        return [stage for layer in self.found.values() for stage in layer.stages]

    def _grow(self, chain: _Chain) -> None:
        """Extend a chain from its head while the only consumer is an element-wise operator."""
        last = chain.head
        while (reader := self._only_reader(last)) is not None and not _is_done(chain):
            call = self._values[reader]
            if _widens(call, last):
                chain.result = "float32"
            elif (scaled := self._dequantized(last, reader)) is not None:
                self.inside.add(reader)
                reader, scale = scaled
                chain.steps.append(Step("dequantize"))
                chain.operands.append(scale)
                chain.result = "float32"
            else:
                step = _step(call, last)
                if step is None:
                    break
                chain.steps.append(step[0])
                chain.operands += step[1]
                if str(last.ty.dtype) == "int32":
                    chain.result = str(reader.ty.dtype)
            self.inside.add(last)
            last = reader
        self._chains[last] = chain

    def _only_reader(self, var: relax.Var) -> relax.Var | None:
        """Return the only variable whose value reads another, unless it is in a layer."""
        if self._uses[var] != 1 or len(self._consumers[var]) != 1:
            return None
        reader = self._consumers[var][0]
        return None if reader in self.inside or reader in self._chains else reader

    def _dequantized(self, sums: relax.Var, reader: relax.Var) -> tuple[relax.Var, Array] | None:
        """Return the float value of sums, which are converted and then scaled, and the scale."""
        call = self._values[reader]
        if not isinstance(call, relax.Call) or op_name(call) != "astype":
            return None
        if (str(sums.ty.dtype), str(call.ty.dtype)) != ("int32", "float32"):
            return None
        product = self._only_reader(reader)
        step = None if product is None else _step(self._values[product], reader)
        if product is None or step is None or step[0].op != "mul_channel":
            return None
        scale = step[1][0]
        return (product, scale) if isinstance(scale, np.ndarray) else None

    def _gate(self, chain: _Chain) -> None:
        """Fuse a multiplication of a pointwise layer's input by gates, if it pays."""
        workload, data = self._workload(chain), self._values[chain.head].args[0]
        fused = data in self.inside or data in self._chains
        if not isinstance(workload, Pointwise) or fused or self._uses[data] > 1:
            return
        factors = _images_and_gates(self._values.get(data))
        if factors is None:
            return
        gates = shape_of(factors[1])[0]
        if registry.pays(replace(workload, gates=gates), self._target):
            self.inside.add(data)
            chain.gates = gates
            chain.operands.insert(0, factors[1])

    def _fuse(self, chain: _Chain) -> None:
        """Fuse as many preceding layers into a layer as pays."""
        chains = [chain]
        while len(chains) < MAX_FUSED:
            before = self._only_before(chains[0])
            if before is None or before.before is not None:
                break
            chains.insert(0, before)
        while len(chains) > 1:
            parts = [self._workload(link) for link in chains]
            chain.fused = registry.fuse(parts, self._target)
            if chain.fused is not None:
                self._merge(chains)
                return
            chains.pop(0)

    def _merge(self, chains: Sequence[_Chain]) -> None:
        for before, chain in itertools.pairwise(chains):
            last = self._read(chain)
            chain.before = before
            del self._chains[last]
            self.inside.add(last)

    def _only_before(self, chain: _Chain) -> _Chain | None:
        """Return the chain whose result is read only by this one, if there is one."""
        data = self._read(chain)
        return self._chains.get(data) if self._uses[data] == 1 else None

    def _read(self, chain: _Chain) -> relax.Expr:
        """Return the data of a layer, before their padding if it is part of the layer."""
        pad = self._zero_point_pad(chain)
        data: relax.Expr = self._values[chain.head].args[0] if pad is None else pad.args[0]
        return data

    def _layer(self, chain: _Chain) -> FoundLayer:
        chains = [chain]
        while (before := chains[0].before) is not None:
            chains.insert(0, before)
        workload = chain.fused or self._workload(chain)
        weights = [link.kind.weights(self._values[link.head]) for link in chains]
        operands: list[tuple[relax.Expr | Array, ...]] = []
        for link in chains:
            pad = self._zero_point_pad(link)
            image = self._quantized_image(link)
            numbers = [] if image is None else [ops.numbers_of(image)]
            zero = [] if pad is None else [_zero_point(pad)]
            operands.append((*numbers, *zero, *link.operands))
        return FoundLayer(
            tuple(registry.stages(workload, self._target)),
            self._data(chains[0], workload),
            tuple(itertools.chain.from_iterable(weights)),
            tuple(operands),
            node_index(chains[0].head),
        )

    def _data(self, chain: _Chain, workload: Workload) -> relax.Expr:
        """Return the input of a layer; a stem reads float32 and NCHW images without conversion."""
        head = self._values[chain.head]
        image = self._nchw_image(chain)
        if image is not None:
            return image
        if chain.gates:
            factors = _images_and_gates(self._values[head.args[0]])
            assert factors is not None  # noqa: S101
            return factors[0]
        image, pad = self._quantized_image(chain), self._zero_point_pad(chain)
        if image is not None:
            return image.args[0]
        if pad is not None:
            return pad.args[0]
        data = head.args[0]
        return data if workload.reads == str(data.ty.dtype) else self._uncast(data)

    def _zero_point_pad(self, chain: _Chain) -> relax.Call | None:
        """Return the padding of an integer convolution's data, which is part of the layer."""
        head = self._values[chain.head]
        pad = self._producer(head.args[0], "nn.pad")
        if pad is None or str(head.ty.dtype) != "int32" or self._uses[head.args[0]] > 1:
            return None
        widths = [int(width) for width in pad.attrs.pad_width]
        return pad if len(widths) == 8 and not any(widths[:2] + widths[6:]) else None

    def _quantized_image(self, chain: _Chain) -> relax.Call | None:
        """Return the quantisation of an integer stem's image, which is part of the layer."""
        head = self._values[chain.head]
        if op_name(head) != "nn.conv2d" or not isinstance(chain.kind.describe(head), Convolution):
            return None
        pad = self._zero_point_pad(chain)
        data = head.args[0] if pad is None else pad.args[0]
        return self._producer(data, ops.QUANTIZE) if self._uses[data] == 1 else None

    def _uncast(self, data: relax.Expr) -> relax.Expr:
        """Return the float32 value that float16 data were converted from, or the data."""
        call = self._producer(data, "astype")
        return data if call is None or str(data.ty.dtype) != "float16" else call.args[0]

    def _nchw_image(self, chain: _Chain) -> relax.Expr | None:
        """Return the float32 image in NCHW that a stem can read without conversion."""
        head = self._values[chain.head]
        quantized = self._quantized_image(chain)
        data = self._uncast(head.args[0]) if quantized is None else quantized.args[0]
        call = self._producer(data, "permute_dims")
        if call is None or tuple(map(int, call.attrs.axes or ())) != TO_NHWC:
            return None
        workload = chain.kind.describe(head)
        stem = isinstance(workload, Convolution) and workload.is_stem
        return call.args[0] if stem and str(call.ty.dtype) == "float32" else None

    def _producer(self, expr: relax.Expr, name: str) -> relax.Call | None:
        """Return the call that produced a value, if it is of the named operator."""
        value = self._values.get(expr) if isinstance(expr, relax.Var) else None
        return value if isinstance(value, relax.Call) and op_name(value) == name else None

    def _workload(self, chain: _Chain) -> Workload:
        """Return the workload of a layer."""
        head = self._values[chain.head]
        workload = chain.kind.describe(head)
        if isinstance(workload, Convolution) and self._nchw_image(chain) is not None:
            workload = replace(workload, reads_nchw=True)
        if isinstance(workload, Pointwise):
            workload = replace(workload, gates=chain.gates)
        pad = self._zero_point_pad(chain)
        if pad is not None and isinstance(workload, Convolution | Depthwise):
            top, bottom, left, right = (int(width) for width in pad.attrs.pad_width[2:6])
            _, height, width, _ = shape_of(pad.args[0])
            window = replace(workload.window, padding=(top, left, bottom, right))
            workload = replace(workload, height=height, width=width, window=window)
        data = workload.types.data if self._quantized_image(chain) is None else "float32"
        result = chain.result or workload.types.result
        types = replace(workload.types, data=data, result=result)
        return workload.followed_by(tuple(chain.steps), types)


def _is_done(chain: _Chain) -> bool:
    """Return whether nothing can follow in a layer: its type has changed, or a table was read.

    Or it has many steps: TVM and LLVM walk the nested expression that they are recursively.
    """
    looked_up = bool(chain.steps) and chain.steps[-1].op == "lookup"
    return chain.result == "float32" or looked_up or len(chain.steps) >= MAX_STEPS


def _widens(call: relax.Expr, data: relax.Var) -> bool:
    """Return whether a call converts float16 data to float32."""
    if not isinstance(call, relax.Call) or op_name(call) != "astype":
        return False
    return (str(data.ty.dtype), str(call.ty.dtype)) == ("float16", "float32")


def _step(call: relax.Expr, data: relax.Var) -> tuple[Step, list[relax.Expr | Array]] | None:
    """Return an element-wise call as a step on `data` with its operands, or None."""
    if not isinstance(call, relax.Call):
        return None
    name = op_name(call)
    if name in _FUNCTIONS:
        return Step(name.rpartition(".")[2]), []
    if name == "nn.leakyrelu":
        return Step("leaky_relu", (float(call.attrs.alpha),)), []
    if name == "nn.prelu":
        slopes = _channels(constant_value(call.args[1]), shape_of(data), shape_of(call))
        last = int(call.attrs.axis) in (-1, len(shape_of(data)) - 1)
        return (Step("prelu"), [slopes]) if last and slopes is not None else None
    if name == "clip":
        return Step("clip", (float(call.args[1].value), float(call.args[2].value))), []
    if name in (ops.REQUANTIZE, ops.ADD, ops.LOOKUP):
        return _quantized_step(call, data)
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
        return Step("add_channel" if name in ("add", "subtract") else "mul_channel"), [vector]
    same = shape_of(other) == shape_of(data) == shape_of(call)
    floats = str(other.ty.dtype) == str(data.ty.dtype) in DTYPES
    if same and floats and name in ("add", "multiply"):
        return Step("add" if name == "add" else "mul"), [other]
    return None


def _quantized_step(
    call: relax.Call, data: relax.Var
) -> tuple[Step, list[relax.Expr | Array]] | None:
    """Return a call on quantised values as a step, or None."""
    name, shape = op_name(call), shape_of(call)
    if shape != shape_of(data):
        return None
    if name == ops.LOOKUP:
        table = constant_value(call.args[1])
        return None if table is None else (Step("lookup"), [table])
    if name == ops.REQUANTIZE:
        scale = _channels(constant_value(call.args[1]), shape, shape)
        return None if scale is None else (Step("requantize"), [scale, ops.numbers_of(call)])
    left, right = call.args[:2]
    numbers = ops.numbers_of(call)
    if left.same_as(right) or shape_of(left) != shape_of(right):
        return None
    if right.same_as(data):
        return Step("add_quantized_second"), [left, numbers]
    return Step("add_quantized"), [right, numbers]


def _zero_point(pad: relax.Call) -> Array:
    """Return the value of a padding as an operand."""
    return np.array([int(pad.attrs.pad_value)], str(pad.ty.dtype))


def _images_and_gates(product: relax.Expr | None) -> tuple[relax.Var, relax.Var] | None:
    """Return the images and gates (one factor per channel) of a product, or None."""
    if not isinstance(product, relax.Call) or op_name(product) != "multiply":
        return None
    images, gates = sorted(product.args, key=lambda factor: -math.prod(shape_of(factor)))
    if not (isinstance(images, relax.Var) and isinstance(gates, relax.Var)):
        return None
    shape = shape_of(images)
    fit = len(shape) == 4 and shape_of(gates) == (shape[0], 1, 1, shape[3])
    return (images, gates) if fit and shape == shape_of(product) else None


def _channels(value: Array | None, shape: tuple[int, ...], result: tuple[int, ...]) -> Array | None:
    """Return a constant as one number per channel (the last axis), or None if it is not."""
    if value is None or str(value.dtype) not in (*DTYPES, "int32") or shape != result:
        return None
    if value.size != 1 and (value.size != shape[-1] or value.shape[-1:] != shape[-1:]):
        return None
    return np.ascontiguousarray(np.broadcast_to(value.reshape(-1), (shape[-1],)))
