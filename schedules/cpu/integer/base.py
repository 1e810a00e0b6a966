"""Base class of the integer schedules: parameters, padded operands, and the epilogue."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T  # noqa: N812

from mobilenet_tvm.schedules.base import Array, D, Schedule, W
from mobilenet_tvm.schedules.cpu.dot import Dot, Tile, dots_of
from mobilenet_tvm.schedules.cpu.dot.base import Vectors
from mobilenet_tvm.schedules.cpu.dot.lookup import lookup, lookup_width
from mobilenet_tvm.schedules.stages import operand_name
from mobilenet_tvm.schedules.workloads import OPERANDS, TENSOR_STEPS, Step, Workload
from mobilenet_tvm.schedules.workloads.dtypes import vector_type
from mobilenet_tvm.schedules.workloads.epilogue import ROUNDING
from mobilenet_tvm.targets.target import Target


class IntegerSchedule(Schedule[W, D]):
    """A schedule of integer layers for an instruction set of the target."""

    def takes(self, workload: Workload, target: Target) -> bool:
        """Return whether this schedule computes a layer."""
        plain = bool(dots_of(target, workload.types)) and not workload.gates
        return plain and super().takes(workload, target)

    def default(self, workload: W, target: Target) -> D:
        """Choose the first decision with the fewest cycles in a model of its instructions."""
        return min(
            self.decisions(workload, target),
            key=lambda decision: self.cycles(workload, decision, target),
        )

    def build(self, workload: W, decision: D, target: Target) -> tirx.PrimFunc:
        """Return the scheduled function."""
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name("main")
            T.func_attr({"tirx.noalias": True})
            self.emit(workload, decision, target)
        return builder.get()

    @abstractmethod
    def emit(self, workload: W, decision: D, target: Target) -> None:
        """Emit the function's parameters and body."""


def parameter(name: str, size: int, dtype: str) -> Any:
    """Emit a parameter: a flat tensor."""
    return T.arg(name, T.Buffer((size,), dtype, align=64))


def load(buffer: Any, index: Any, lanes: int) -> Any:
    """Return consecutive elements of a flat tensor."""
    return buffer[T.ramp(index, 1, lanes)] if lanes > 1 else buffer[index]


def store(buffer: Any, index: Any, values: Any, lanes: int, count: int) -> None:
    """Emit the store of the first `count` of a vector's lanes."""
    if count == lanes:
        T.buffer_store(buffer, values, [T.ramp(index, 1, lanes) if lanes > 1 else index])
        return
    values, first = T.bind(values), 0
    while first < count:
        size = 1 << ((count - first).bit_length() - 1)
        part = tirx.Shuffle([values], list(range(first, first + size)))
        place = index + first
        T.buffer_store(buffer, part, [T.ramp(place, 1, size) if size > 1 else place])
        first += size


def load_some(buffer: Any, index: Any, lanes: int, count: int) -> Any:
    """Return a vector whose first `count` lanes are loaded, and no byte behind them."""
    if count == lanes:
        return load(buffer, index, lanes)
    parts, first = [], 0
    while first < count:
        size = 1 << ((count - first).bit_length() - 1)
        parts.append(load(buffer, index + first, size))
        first += size
    zeros = tirx.Broadcast(tirx.const(0, str(buffer.ty.dtype)), lanes)
    return tirx.Shuffle([*parts, zeros], list(range(lanes)))


def repeated(values: Any, copies: int, lanes: int) -> Any:
    """Return a vector of some lanes that repeats a shorter one."""
    return values if copies == 1 else tirx.Shuffle([values] * copies, list(range(lanes)))


def copy_row(
    source: Any, start: Any, count: int, copy: Any, place: Any, padded: int, lanes: int
) -> None:
    """Emit the copy of some elements to another type, padded with zeros."""
    dtype = str(copy.ty.dtype)
    whole = count // lanes
    if whole:
        with T.serial(0, whole) as part:
            values = load(source, start + part * lanes, lanes)
            values = values.astype(vector_type(dtype, lanes))
            T.buffer_store(copy, values, [T.ramp(place + part * lanes, 1, lanes)])
    for index in range(whole * lanes, padded):
        value = source[start + index].astype(dtype) if index < count else tirx.const(0, dtype)
        T.buffer_store(copy, value, [place + index])


def either(whole: Any, size: int, rest: int, total: int, emit: Callable[[int], None]) -> None:
    """Emit the code for a whole tile, or for the last, which is smaller, by a condition.

    Parameters
    ----------
    whole : Expr
        Whether the tile is whole.
    size, rest, total : int
        Elements of a whole tile, of the last if it is smaller, else 0, and of all.
    emit : callable
        Emits the code for a number of elements.
    """
    if not rest or total < size:
        emit(min(size, total))
        return
    with T.If(whole):
        with T.Then():
            emit(size)
        with T.Else():
            emit(rest)


def multiply(
    dot: Dot,
    shape: tuple[int, int],
    inputs: int,
    data: Callable[[int, Any, int], Any],
    weights: Callable[[Any, int, int], Any],
    start: Callable[[int], Any],
) -> list[Vectors]:
    """Emit a register tile of dot products, and return its sums.

    Parameters
    ----------
    dot : Dot
        The instruction set.
    shape : tuple of int
        Rows of data, and vectors of outputs.
    inputs : int
        Whole groups.
    data, weights : callable
        As in `Tile`.
    start : callable
        Returns what a vector of sums begins with.

    Returns
    -------
    list of Vectors
        For each row, its vectors of sums.
    """
    rows, vectors = shape
    sums = dot.begin(rows, vectors, start)
    tile = Tile(rows, vectors, data, weights, sums)
    whole = inputs // dot.depth
    first = 1 if dot.peeled and whole > 1 else 0
    if first:
        dot.multiply(tile, 0, dot.depth)
    if whole:
        with T.serial(first, whole) as step:
            dot.multiply(tile, step * dot.depth, dot.depth)
    if inputs % dot.depth:
        dot.multiply(tile, whole * dot.depth, inputs % dot.depth)
    return dot.end(sums, rows, vectors, start)


def is_interleaved(workload: Workload) -> bool:
    """Return whether a layer's sums may be in another order, which `Dot.narrow` undoes."""
    tensors = any(step.op in TENSOR_STEPS for step in workload.epilogue)
    return workload.types.result in ("uint8", "int8") and not tensors


class Finish:
    """The epilogue of a layer: its operands' parameters, and its steps on vectors of sums.

    Parameters
    ----------
    workload : Workload
        The layer.
    target : Target
        The machine.
    outputs : int
        Channels of the result.
    padded : int
        Values of the operands that have one per channel: `outputs`, rounded up.
    size : int
        Elements of the result.
    interleaved : bool
        Whether the lanes of vectors of sums are in the order of `Dot.order`.
    """

    def __init__(
        self,
        workload: Workload,
        target: Target,
        outputs: int,
        padded: int,
        size: int,
        interleaved: bool,
    ) -> None:
        self._target, self._interleaved = target, interleaved
        self._types, self.outputs = workload.types, outputs
        self._steps = []
        for index, step in enumerate(workload.epilogue):
            buffers = []
            for operand in OPERANDS[step.op]:
                shape = {"channel": padded, "tensor": size}.get(str(operand.extent), operand.extent)
                dtype = operand.dtype(self._types)
                buffers.append(parameter(operand_name(step, operand, index), int(shape), dtype))
            self._steps.append((step, buffers))
        self.result = parameter("result", size, self._types.result)
        self._bias = self._table = None
        if self._steps and self._steps[0][0].op == "add_channel":
            (self._bias,) = self._steps.pop(0)[1]
        if self._steps and self._steps[-1][0].op == "lookup":
            (self._table,) = self._steps.pop()[1]
        self._rounds, self._numbers = False, None
        if self._steps and self._steps[-1][0].op in ROUNDING:
            self._rounds, self._numbers = True, self._bounds(*self._steps[-1])

    @staticmethod
    def _bounds(step: Step, buffers: list[Any]) -> list[Any]:
        """Return the last numbers of a rounding step, which are those of `quantization_bounds`."""
        count = int(OPERANDS[step.op][-1].extent)
        return [buffers[-1][i] for i in range(count - 3, count)]

    def start(self, dot: Dot, channel: Any, copies: int = 1) -> Any:
        """Return a vector of sums before any product: the bias; arguments as of `apply`."""
        if self._bias is not None:
            return repeated(load(self._bias, channel, dot.lanes // copies), copies, dot.lanes)
        return tirx.Broadcast(tirx.const(0, "int32"), dot.lanes)

    def apply(
        self,
        dot: Dot,
        sums: Any,
        channel: Any,
        tensor: Callable[[Any], Any],
        copies: int = 1,
    ) -> Any:
        """Return what the steps make of a vector of sums, up to the last rounding.

        Parameters
        ----------
        dot : Dot
            The instruction set.
        sums : Expr
            They began with `start`.
        channel : Expr
            Where the vector's part of an operand with a value per channel begins.
        tensor : callable
            Returns the vector's part of a tensor of the result's shape.
        copies : int
            How often the same channels are in the vector.
        """
        value = sums
        for number, (step, buffers) in enumerate(self._steps):
            elements = []
            for operand, buffer in zip(OPERANDS[step.op], buffers, strict=True):
                if operand.extent == "tensor":
                    elements.append(tensor(buffer))
                elif operand.extent == "channel":
                    values = load(buffer, channel, dot.lanes // copies)
                    elements.append(repeated(values, copies, dot.lanes))
                else:
                    elements.append(buffer)
            if self._rounds and number == len(self._steps) - 1:
                return step.scaled(value, elements, str(value.ty))
            value = step.apply(value, elements, str(value.ty))
        return value

    def store(
        self, dot: Dot, rows: list[list[Any]], whole: Any, places: list[Any], stride: int
    ) -> None:
        """Emit the rounding, the lookup and the store of rows of neighbouring outputs.

        Parameters
        ----------
        dot : Dot
            The instruction set.
        rows : list of list of Expr
            What `apply` returned, for each row and vector.
        whole : int or Expr
            The number of outputs of a row that exist, or whether all do; else the last ones of the
            layer do not.
        places : list of Expr
            Where the first row begins in the result; several, if it is in pieces.
        stride : int
            From a row to the next.
        """
        size = len(rows[0]) * dot.lanes // len(places)
        if self._rounds:
            narrow = dot.narrow(rows, self._numbers, self._types.result, self._interleaved)
        else:
            narrow = [self._natural(dot, row) for row in rows]

        def emit(count: int) -> None:
            for number, place in enumerate(places):
                for row, values in enumerate(narrow):
                    piece = values
                    if len(places) > 1:
                        piece = tirx.Shuffle(
                            [values], list(range(number * size, (number + 1) * size))
                        )
                    store(self.result, place + row * stride, piece, size, count)
                self._look_up(len(rows), place, stride, count)

        if isinstance(whole, int):
            emit(whole)
        else:
            either(whole, size, self.outputs % size, self.outputs, emit)

    def _natural(self, dot: Dot, row: list[Any]) -> Any:
        """Return the values of a row in the result's type, and in order."""
        size = len(row) * dot.lanes
        places = list(range(size))
        if self._interleaved:
            for lane, output in enumerate(dot.order(len(row))):
                places[output] = lane
        values = row[0] if len(row) == 1 and places == sorted(places) else tirx.Shuffle(row, places)
        result = vector_type(self._types.result, size)
        return T.bind(values if str(values.ty) == result else values.astype(result))

    def _look_up(self, rows: int, place: Any, stride: int, count: int) -> None:
        """Emit the lookup of values that are stored, if it is a step, which then is the last.

        A loop of its own takes less code than a lookup for each vector of a tile.

        Parameters
        ----------
        rows : int
            Number of rows of values.
        place : Expr
            Where the first begins in the result.
        stride : int
            From a row to the next.
        count : int
            Values of a row.
        """
        if self._table is None:
            return
        width = lookup_width(self._target)
        with T.serial(0, rows) as row:
            for first in range(0, count, width):
                start, size = place + row * stride + first, min(width, count - first)
                values = load_some(self.result, start, width, size)
                mapped = lookup(self._table, values, self._target)
                store(self.result, start, mapped, width, size)


def finish_tile(
    dot: Dot,
    finish: Finish,
    sums: Sequence[Vectors | list[Any]],
    whole: Any,
    channel: Any,
    place: Any,
    stride: int,
) -> None:
    """Emit the epilogue of a matrix product's tile.

    Parameters
    ----------
    dot : Dot
        The instruction set.
    finish : Finish
        The epilogue.
    sums : list of Vectors
        For each row, its vectors of sums.
    whole : Expr
        Whether all outputs of the tile exist; the last panel's may not.
    channel : Expr
        The first output.
    place : Expr
        Where the tile begins in the result.
    stride : int
        From the outputs of a row to those of the next.
    """
    lanes, last = dot.lanes, len(sums[0]) - 1
    rest = finish.outputs % lanes

    def value(row: int, vector: int) -> Any:
        start = place + (row * stride + vector * lanes)

        def tensor(buffer: Any) -> Any:
            full = load(buffer, start, lanes)
            if not rest or vector < last:
                return full
            # Nothing is read beyond the tensor's end.
            return tirx.if_then_else(whole, full, load_some(buffer, start, lanes, rest))

        return finish.apply(dot, sums[row][vector], channel + vector * lanes, tensor)

    rows = [[T.bind(value(row, v)) for v in range(last + 1)] for row in range(len(sums))]
    finish.store(dot, rows, whole, [place], stride)


def in_order(operand: Array, dot: Dot, tile: int, interleaved: bool) -> Array:
    """Return values of the outputs, the last axis, padded to whole tiles, in the order of the sums.

    Parameters
    ----------
    operand : ndarray
        [..., outputs].
    dot : Dot
        The instruction set.
    tile : int
        Outputs of a tile.
    interleaved : bool
        Whether the order of a tile is that of `Dot.order`.
    """
    count = operand.shape[-1]
    full = np.pad(operand, [(0, 0)] * (operand.ndim - 1) + [(0, -count % tile)])
    if not interleaved:
        return full
    order = np.array(dot.order(tile // dot.lanes))
    tiles = full.reshape(*full.shape[:-1], -1, tile)
    return np.ascontiguousarray(tiles[..., order].reshape(full.shape))


def pack_panels(weight: Array, dot: Dot, tile: int, interleaved: bool) -> Array:
    """Return weights [inputs, outputs] as [panels, groups, vectors of the instruction set], flat.

    Parameters
    ----------
    weight : ndarray
        [inputs, outputs].
    dot : Dot
        The instruction set.
    tile : int
        Outputs of a panel.
    interleaved : bool
        As for `in_order`.
    """
    full = np.pad(weight, ((0, -len(weight) % dot.group), (0, 0)))
    ordered = in_order(full, dot, tile, interleaved)
    parts = ordered.reshape(-1, dot.group, ordered.shape[1] // tile, tile // dot.lanes, dot.lanes)
    return np.ascontiguousarray(dot.arrange(parts.transpose(2, 0, 3, 1, 4))).reshape(-1)
