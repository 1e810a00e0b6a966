"""Base class of the integer schedules: parameters, padded operands, and the epilogue."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T  # noqa: N812

from mobilenet_tvm.schedules.base import D, Schedule, W
from mobilenet_tvm.schedules.cpu.dot import Dot, Tile, dots_of
from mobilenet_tvm.schedules.cpu.dot.base import PARTS, Vectors
from mobilenet_tvm.schedules.cpu.dot.lookup import lookup, lookup_width
from mobilenet_tvm.schedules.stages import operand_name
from mobilenet_tvm.schedules.workloads import OPERANDS, Workload
from mobilenet_tvm.schedules.workloads.dtypes import vector_type
from mobilenet_tvm.targets.target import Target


class IntegerSchedule(Schedule[W, D]):
    """A schedule of integer layers for an instruction set of the target."""

    def takes(self, workload: Workload, target: Target) -> bool:
        """Return whether this schedule computes a layer."""
        plain = bool(dots_of(target, workload.types)) and not workload.gates
        return plain and super().takes(workload, target)

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
    weights: Callable[[int, Any], Any],
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
    sums = [Vectors(vectors, dot.sums_type) for _ in range(rows)]
    for row, vector in itertools.product(range(rows), range(vectors)):
        sums[row][vector] = start(vector)
    tile = Tile(rows, vectors, data, weights, sums)
    depth = dot.depth if inputs >= dot.depth else dot.group
    with T.serial(0, inputs // depth) as step:
        dot.multiply(tile, step * depth, depth)
    for k in range(inputs - inputs % depth, inputs, dot.group):
        dot.multiply(tile, k, dot.group)
    return sums


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
    """

    def __init__(
        self, workload: Workload, target: Target, outputs: int, padded: int, size: int
    ) -> None:
        self._target = target
        self._types, self._outputs, self._padded = workload.types, outputs, padded
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

    def start(self, dot: Dot, load_channels: Callable[[Any], Any]) -> Any:
        """Return a vector of sums before any product: the bias, loaded by a function."""
        if self._bias is not None:
            return load_channels(self._bias)
        return tirx.Broadcast(tirx.const(0, "int32"), dot.lanes)

    def apply(
        self,
        dot: Dot,
        sums: Any,
        load_channels: Callable[[Any], Any],
        load_tensor: Callable[[Any], Any],
    ) -> Any:
        """Return what the steps make of a vector of sums.

        Parameters
        ----------
        dot : Dot
            The instruction set.
        sums : Expr
            They began with `start`.
        load_channels, load_tensor : callable
            Return the vector's part of an operand with a value per channel, and of a tensor of the
            result's shape.
        """
        value = sums
        for step, buffers in self._steps:
            elements = []
            for operand, buffer in zip(OPERANDS[step.op], buffers, strict=True):
                loads = {"tensor": load_tensor, "channel": load_channels}
                elements.append(loads.get(str(operand.extent), lambda whole: whole)(buffer))
            value = step.apply(value, elements, str(value.ty))
        return value

    def look_up(self, rows: int, place: Callable[[Any], Any], count: int) -> None:
        """Emit the lookup of values that are stored, if it is a step, which then is the last.

        A loop of its own takes less code than a lookup for each vector of a tile.

        Parameters
        ----------
        rows : int
            Number of places with values.
        place : callable
            Returns where the values of a row begin in the result.
        count : int
            Values of a row.
        """
        if self._table is None:
            return
        width = lookup_width(self._target)
        with T.serial(0, rows) as row:
            for first in range(0, count, width):
                start, size = place(row) + first, min(width, count - first)
                values = load_some(self.result, start, width, size)
                mapped = lookup(self._table, values, self._target)
                store(self.result, start, mapped, width, size)

    def store_tile(
        self, dot: Dot, sums: list[Vectors], whole: Any, channel: Any, place: Any, stride: int
    ) -> None:
        """Emit the steps on all sums of a matrix product's tile, and their stores.

        Parameters
        ----------
        dot : Dot
            The instruction set.
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
        lanes, vectors = dot.lanes, sums[0].count
        result = vector_type(self._types.result, lanes)
        for row, vector in itertools.product(range(len(sums)), range(vectors)):
            rest = self._outputs % lanes if vector == vectors - 1 else 0

            def emit(count: int, row: int = row, vector: int = vector) -> None:
                offset = vector * lanes
                start = place + (row * stride + offset)
                value = self.apply(
                    dot,
                    sums[row][vector],
                    lambda buffer: load(buffer, channel + offset, lanes),
                    lambda buffer: load_some(buffer, start, lanes, count),
                )
                value = value if str(value.ty) == result else value.astype(result)
                store(self.result, start, value, lanes, count)

            either(whole, lanes, rest, self._outputs, emit)

        def look_up(count: int) -> None:
            self.look_up(len(sums), lambda row: place + row * stride, count)

        if self._table is not None:
            size = vectors * lanes
            either(whole, size, self._outputs % size, self._outputs, look_up)

    def parts_of(self, dot: Dot, channel: Any) -> dict[str, list[Any]]:
        """Emit the loads of a chunk's operands with a value per channel.

        Parameters
        ----------
        dot : Dot
            The instruction set.
        channel : Expr
            The chunk's first channel.

        Returns
        -------
        dict of str to list of Expr
            For each operand by its name, what meets each vector of sums.
        """
        buffers = [] if self._bias is None else [self._bias]
        for step, operands in self._steps:
            for operand, buffer in zip(OPERANDS[step.op], operands, strict=True):
                buffers += [buffer] if operand.extent == "channel" else []
        return {
            buffer.name: [T.bind(_load_part(dot, buffer, channel, part)) for part in range(PARTS)]
            for buffer in buffers
        }

    def store_chunk(
        self, dot: Dot, sums: Vectors, parts: dict[str, list[Any]], place: Any, count: int
    ) -> None:
        """Emit the steps on the sums of a chunk of channels, and their store.

        Parameters
        ----------
        dot : Dot
            The instruction set.
        sums : Vectors
            `PARTS` vectors of sums, in its order.
        parts : dict of str to list of Expr
            As `parts_of` returns them.
        place : Expr
            Where the chunk begins in the result.
        count : int
            Channels to store.
        """
        size = dot.channels
        values = [
            self.apply(
                dot,
                sums[part],
                lambda buffer, part=part: parts[buffer.name][part],
                lambda buffer, part=part: tirx.Shuffle(
                    [load_some(buffer, place, size, count)], dot.order(part)
                ),
            )
            for part in range(PARTS)
        ]
        if self._types.result in ("uint8", "int8"):
            narrow = dot.narrow(values)
            result = vector_type(self._types.result, size)
            narrow = narrow if str(narrow.ty) == result else tirx.reinterpret(result, narrow)
        else:
            places = [0] * size
            for part in range(PARTS):
                for lane, position in enumerate(dot.order(part)):
                    places[position] = part * dot.lanes + lane
            narrow = tirx.Shuffle(values, places)
        store(self.result, place, narrow, size, count)


def _load_part(dot: Dot, buffer: Any, channel: Any, part: int) -> Any:
    """Return a chunk's operands with a value per channel, for one vector of sums."""
    starts = dot.order(part)[::4]
    pieces = [load(buffer, channel + start, 4) for start in starts]
    return pieces[0] if len(pieces) == 1 else tirx.Shuffle(pieces, list(range(dot.lanes)))
