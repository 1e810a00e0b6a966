"""Depthwise convolution on integers: dot products over neighbouring pixels of each channel.

The bytes of neighbouring pixels are interleaved, so that each 32-bit lane holds a channel's inputs
for a few taps, which one dot product multiplies. Where a vector of inputs serves two outputs, its
taps are shifted and padded with zeros.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from mobilenet_tvm.schedules.base import Array
from mobilenet_tvm.schedules.base import Decision as BaseDecision
from mobilenet_tvm.schedules.cpu.dot import DOTS, SETS, Dot, dots_of
from mobilenet_tvm.schedules.cpu.dot.base import PARTS, FilterTile, Vectors
from mobilenet_tvm.schedules.cpu.integer.base import (
    Finish,
    IntegerSchedule,
    in_order,
    load,
    load_some,
    parameter,
)
from mobilenet_tvm.schedules.cpu.registers import tile_features
from mobilenet_tvm.schedules.loops import divisor_at_most, divisors
from mobilenet_tvm.schedules.workloads import Depthwise, Window
from mobilenet_tvm.targets.target import Target

#: Pixels whose copy is unrolled.
MAX_COPIED = 8
#: Dot products of a tile: more take long to compile.
MAX_UNROLLED = 160
#: Parts of the work that threads can divide well.
MIN_TASKS = 8


@dataclass(frozen=True)
class Decision(BaseDecision):
    """How to compute an integer depthwise layer.

    Parameters
    ----------
    dot : str
        The instruction set, in whose order weights are packed.
    tile_y, tile_x : int
        Rows and columns of the output tile; the rows divide the output's.
    band : int
        Rows of output tiles for which the padded input is copied at once; divides their number.
    interleaved : bool
        Whether operands are in the order of `Dot.order`, as sums are; determined by the layer.
    """

    dot: str
    tile_y: int
    tile_x: int
    band: int
    interleaved: bool


@dataclass(frozen=True)
class _Chunk:
    """Some channels that are computed together.

    Parameters
    ----------
    dot : Dot
        What multiplies them.
    first : int
        The first channel.
    count : int
        How many there are: as many as a vector has bytes, or fewer.
    repeats : int
        How many such chunks follow each other.
    """

    dot: Dot
    first: int
    count: int
    repeats: int


class IntegerDepthwise(IntegerSchedule[Depthwise, Decision]):
    """Copies a padded band of rows of a chunk of channels, and slides a register tile over it."""

    workload_type = Depthwise
    decision_type = Decision

    def default(self, workload: Depthwise, target: Target) -> Decision:
        """Choose the tile with the fewest cycles in a model of its instructions."""
        return min(
            self.decisions(workload, target),
            key=lambda decision: self.cycles(workload, decision, target),
        )

    def space(self, workload: Depthwise, target: Target) -> dict[str, list[Any]]:
        """Return the candidate values of each part of a decision."""
        height = workload.output[0]
        return {"tile": _tiles(workload, target), "band": divisors(height, height)}

    def valid(self, workload: Depthwise, decision: Decision, target: Target) -> bool:
        """Return whether `build` accepts a decision."""
        return (
            decision.dot == dots_of(target, workload.types)[0].name
            and decision.interleaved
            and (decision.tile_y, decision.tile_x) in _tiles(workload, target)
            and decision.band > 0
            and workload.output[0] % (decision.tile_y * decision.band) == 0
        )

    def decisions(self, workload: Depthwise, target: Target) -> list[Decision]:
        """Return the valid decisions in the space, without duplicates."""
        name = dots_of(target, workload.types)[0].name
        parts = self.space(workload, target)
        every = (
            Decision(name, y, x, band, True)
            for (y, x), band in itertools.product(parts["tile"], parts["band"])
        )
        return [decision for decision in every if self.valid(workload, decision, target)]

    def pack(self, weights: Sequence[Array], decision: Decision) -> list[Array]:
        """Return weights [height, width, channels] as [chunks, height, groups of taps, parts]."""
        (weight,) = weights
        height, width, channels = weight.shape
        packed = []
        for chunk in _chunks(DOTS[decision.dot], channels):
            dot = chunk.dot
            groups = -(-width // dot.pixels)
            for repeat in range(chunk.repeats):
                first = chunk.first + repeat * chunk.count
                taps = np.zeros((height, groups * dot.pixels, dot.channels), weight.dtype)
                taps[:, :width, : chunk.count] = weight[..., first : first + chunk.count]
                packed += [
                    dot.arrange_taps(part).reshape(-1)
                    for part in taps.reshape(-1, dot.pixels, dot.channels)
                ]
        return [np.concatenate(packed)]

    def arrange(self, operand: Array, decision: Decision) -> Array:
        """Return values of the channels, padded and in the order of the sums."""
        parts = []
        for chunk in _chunks(DOTS[decision.dot], len(operand)):
            values = operand[chunk.first : chunk.first + chunk.repeats * chunk.count]
            parts.append(in_order(values, chunk.dot, chunk.dot.channels, decision.interleaved))
        return np.concatenate(parts)

    def emit(self, workload: Depthwise, decision: Decision, target: Target) -> None:
        """Emit data, packed weights, the padding's value, operands, and the output, in NHWC."""
        height, width = workload.output
        channels, batch = workload.channels, workload.batch
        chunks = _chunks(DOTS[decision.dot], channels)
        padding = any(workload.window.padding)
        data = parameter(
            "data", batch * workload.height * workload.width * channels, workload.types.data
        )
        sizes = [_weights(chunk.dot, workload.window) * chunk.repeats for chunk in chunks]
        weight = parameter("weight", sum(sizes), workload.types.weights)
        zero = parameter("zero", 1, workload.types.data) if padding else None
        last = chunks[-1]
        padded = channels + last.dot.channels - last.count
        finish = Finish(
            workload,
            target,
            channels,
            padded,
            batch * height * width * channels,
            decision.interleaved,
        )
        bands = height // (decision.tile_y * decision.band)
        count = sum(chunk.repeats for chunk in chunks)

        with T.parallel(0, batch * bands * count) as task:
            number = T.bind(task % count)
            image = T.bind(task // count // bands)
            band = T.bind(task // count % bands)

            def emit(remaining: list[_Chunk], done: int, place: int) -> None:
                chunk, *others = remaining
                here = number - done

                def one() -> None:
                    first = T.bind(chunk.first + here * chunk.count)
                    start = T.bind(place + here * _weights(chunk.dot, workload.window))
                    _Band(workload, decision, chunk.dot, chunk.count, finish).emit(
                        data, weight, zero, start, first, image, band
                    )

                if not others:
                    one()
                    return
                with T.If(number < done + chunk.repeats):
                    with T.Then():
                        one()
                    with T.Else():
                        size = _weights(chunk.dot, workload.window) * chunk.repeats
                        emit(others, done + chunk.repeats, place + size)

            emit(chunks, 0, 0)

    def features(self, workload: Depthwise, decision: Decision, target: Target) -> dict[str, float]:
        """Describe a decision: the tile, its instructions and its share of the caches."""
        dot = DOTS[decision.dot]
        plan = _Plan.of(workload.window, decision.tile_y, decision.tile_x, dot)
        outputs = decision.tile_y * decision.tile_x
        rows = (decision.tile_y * decision.band - 1) * workload.window.stride[0]
        rows += workload.window.kernel[0]
        band = rows * (workload.width + plan.pixels) * dot.channels
        return tile_features(outputs, PARTS, plan.pixels / outputs, 1.0, target) | {
            "dots_per_output": plan.dots / outputs,
            "loads_per_output": plan.loads / outputs,
            "ragged": -workload.output[1] % decision.tile_x / decision.tile_x,
            "band_share_of_l1": band / target.l1d_bytes,
            "copied": rows / (decision.tile_y * decision.band),
            "stride": workload.window.stride[0],
            "taps": workload.window.taps,
            "chunks": workload.channels / dot.channels,
            "cycles": self.cycles(workload, decision, target),
        }

    def cycles(self, workload: Depthwise, decision: Decision, target: Target) -> float:
        """Estimate the cycles of a vector of bytes of the output."""
        dot = DOTS[decision.dot]
        window, (height, width) = workload.window, workload.output
        plan = _Plan.of(window, decision.tile_y, decision.tile_x, dot)
        outputs = decision.tile_y * decision.tile_x
        tiles = -(-width // decision.tile_x) * decision.tile_x / width
        taps = window.kernel[0] * len(plan.offsets)
        tile = dot.filter_cycles(outputs, plan.dots, plan.loads, taps, target.vector_registers)
        rows = (decision.tile_y * decision.band - 1) * window.stride[0] + window.kernel[0]
        copied = rows * workload.width / (decision.tile_y * decision.band * width)
        columns = workload.width + plan.pixels
        cached = 1.0 if rows * columns * dot.channels <= 0.75 * target.l1d_bytes else 2.0
        tasks = workload.batch * height // (decision.tile_y * decision.band)
        few = 1.0 if tasks * workload.channels >= MIN_TASKS * dot.channels else 1.3
        loaded = taps / (decision.tile_y * decision.band * width)
        return few * (tile * tiles / outputs + dot.band_cycles(cached * copied, loaded))


@dataclass(frozen=True)
class _Plan:
    """Which vectors of pixels a tile reads, and which taps they meet.

    Parameters
    ----------
    rows, pixels : int
        Rows of inputs, and their columns.
    interleaved : int
        Pixels in all groups of neighbours of a row.
    dots : int
        Dot products of the tile, each of a group of pixels and taps.
    offsets : list of int
        Taps that the first pixels of groups meet.
    """

    rows: int
    pixels: int
    interleaved: int
    dots: int
    offsets: list[int]

    @staticmethod
    def of(window: Window, tile_y: int, tile_x: int, dot: Dot) -> _Plan:
        """Plan a tile."""
        columns = [x * window.stride[1] for x in range(tile_x)]
        met = [(group, x) for x in columns for group in dot.groups(x, window.kernel[1])]
        groups = {group for group, _ in met}
        return _Plan(
            window.inputs(tile_y, 1)[0],
            max(groups) + dot.pixels,
            len(groups) * dot.pixels,
            tile_y * window.kernel[0] * len(met),
            sorted({group - x for group, x in met}),
        )

    @property
    def loads(self) -> int:
        """Vectors of pixels that are loaded."""
        return self.rows * self.interleaved


@dataclass(frozen=True)
class _Band:
    """Emits the code for a chunk of channels of some rows."""

    workload: Depthwise
    decision: Decision
    dot: Dot
    count: int
    finish: Finish

    def emit(
        self, data: Any, weight: Any, zero: Any, start: Any, first: Any, image: Any, band: Any
    ) -> None:
        """Emit the copy of the inputs, and the tiles.

        Parameters
        ----------
        data, weight, zero : Buffer
            The function's parameters.
        start : Expr
            Where the chunk's weights begin.
        first : Expr
            The chunk's first channel.
        image, band : Expr
            Which picture, and which of its bands of rows.
        """
        workload, decision, dot = self.workload, self.decision, self.dot
        window, (height, width) = workload.window, workload.output
        plan = _Plan.of(window, decision.tile_y, decision.tile_x, dot)
        down, across = window.stride
        columns = (width - decision.tile_x) * across + plan.pixels
        top = band * (decision.tile_y * decision.band)
        rows = window.inputs(decision.tile_y * decision.band, 1)[0]
        # A load of half a pixel may read the first half of the next.
        size = rows * columns * dot.channels + dot.channels // 2
        copy = T.alloc_buffer((size,), workload.types.data, align=64)
        with T.serial(0, rows) as row:
            self._copy_row(data, zero, image, top * down + row, first, copy, row * columns, columns)
        taps = self._taps(weight, start, plan.offsets)
        with T.serial(0, decision.band) as step, T.serial(0, -(-width // decision.tile_x)) as place:
            x = T.bind(T.min(place * decision.tile_x, width - decision.tile_x))
            corner = T.bind((step * (decision.tile_y * down) * columns + x * across) * dot.channels)
            y = top + step * decision.tile_y
            pixel = T.bind(((image * height + y) * width + x) * workload.channels + first)
            self._tile(copy, corner, columns, taps, plan, first, pixel)

    def _copy_row(
        self,
        data: Any,
        zero: Any,
        image: Any,
        row: Any,
        first: Any,
        copy: Any,
        start: Any,
        columns: int,
    ) -> None:
        """Emit the copy of a row of the padded input, of which some columns may not be used."""
        workload, size = self.workload, self.dot.channels
        top, left, _, _ = workload.window.padding
        source = T.bind(row - top)
        begin = T.bind((image * workload.height + source) * workload.width)
        inside = min(workload.width, columns - left)

        def store(column: Any, value: Any) -> None:
            T.buffer_store(copy, value, [T.ramp((start + column) * size, 1, size)])

        def filled(columns_of: range) -> None:
            if zero is not None:
                for column in columns_of:
                    store(column, tirx.Broadcast(zero[0], size))

        def copied() -> None:
            filled(range(left))
            together = divisor_at_most(inside, MAX_COPIED)
            with T.serial(0, inside // together) as part:
                place = T.bind((begin + part * together) * workload.channels + first)
                for column in range(together):
                    value = load_some(data, place + column * workload.channels, size, self.count)
                    store(left + part * together + column, value)
            filled(range(left + inside, columns))

        if zero is None:
            copied()
            return
        with T.If(tirx.all(source >= 0, source < workload.height)):
            with T.Then():
                copied()
            with T.Else():
                together = divisor_at_most(columns, MAX_COPIED)
                with T.serial(0, columns // together) as part:
                    for column in range(together):
                        store(part * together + column, tirx.Broadcast(zero[0], size))

    def _taps(self, weight: Any, start: Any, offsets: list[int]) -> Vectors:
        """Emit the taps: [rows of the filter, offsets, parts]."""
        dot, (rows, width) = self.dot, self.workload.window.kernel
        groups = -(-width // dot.pixels)
        parts = dot.parts
        taps = Vectors(rows * len(offsets) * parts, dot.taps_type)
        with T.serial(0, rows) as row:
            begin = T.bind(start + row * (groups * dot.pixels * dot.channels))
            for number, offset in enumerate(offsets):
                loaded = dot.load_taps(
                    lambda place, count, begin=begin: load(weight, begin + place, count),
                    groups,
                    offset,
                )
                for part, value in enumerate(loaded):
                    taps[(row * len(offsets) + number) * parts + part] = value
        return taps

    def _tile(
        self,
        copy: Any,
        corner: Any,
        columns: int,
        taps: Vectors,
        plan: _Plan,
        first: Any,
        pixel: Any,
    ) -> None:
        """Emit a tile of outputs."""
        dot, decision, window = self.dot, self.decision, self.workload.window
        channels, size = self.workload.channels, dot.channels

        def begin() -> Vectors:
            sums = Vectors(PARTS, dot.sums_type)
            for part in range(PARTS):
                sums[part] = self.finish.start(dot, first + part * dot.lanes)
            return sums

        def end(sums: dict[tuple[int, int], Vectors]) -> None:
            for y in sorted({y for y, _ in sums}):
                across = [x for row, x in sums if row == y]
                start = pixel + (y * self.workload.output[1] + across[0]) * channels
                rows = [
                    [
                        self._finished(sums[y, x], part, first, start + i * channels)
                        for part in range(PARTS)
                    ]
                    for i, x in enumerate(across)
                ]
                self.finish.store(dot, rows, self.count, start, channels)

        def input_pixel(row: Any, column: int, place: int, count: int) -> Any:
            return load(copy, corner + (row * (columns * size) + column * size + place), count)

        outputs = list(itertools.product(range(decision.tile_y), range(decision.tile_x)))
        dot.convolve(
            FilterTile(
                outputs,
                plan.rows,
                window.kernel,
                window.stride,
                input_pixel,
                taps,
                plan.offsets,
                begin,
                end,
            )
        )

    def _finished(self, sums: Vectors, part: int, first: Any, place: Any) -> Any:
        """Return the epilogue of a vector of sums, whose chunk begins at a place in the result."""
        dot = self.dot

        def tensor(buffer: Any) -> Any:
            order = dot.order(PARTS)[part * dot.lanes : (part + 1) * dot.lanes]
            return tirx.Shuffle([load_some(buffer, place, dot.channels, self.count)], order)

        return T.bind(self.finish.apply(dot, sums[part], first + part * dot.lanes, tensor))


def _unrolled(window: Window, tile_y: int, tile_x: int, dot: Dot) -> int:
    """Return the dot products of a tile that are unrolled."""
    dots = _Plan.of(window, tile_y, tile_x, dot).dots
    return dots // window.kernel[0] if tile_y == 1 else dots


def _weights(dot: Dot, window: Window) -> int:
    """Return the number of packed weights of a chunk."""
    return window.kernel[0] * -(-window.kernel[1] // dot.pixels) * dot.pixels * dot.channels


def _chunks(widest: Dot, channels: int) -> list[_Chunk]:
    """Divide channels into widest vectors of bytes, and what is left over, which is code apart."""
    dots = next(dots for sets in SETS.values() for dots in sets if dots[0] == widest)
    repeats, rest = divmod(channels, widest.channels)
    found = [_Chunk(widest, 0, widest.channels, repeats)] if repeats else []
    if rest:
        narrowest = min((dot for dot in dots if dot.channels >= rest), key=lambda dot: dot.channels)
        found.append(_Chunk(narrowest, channels - rest, rest, 1))
    return found


def _tiles(workload: Depthwise, target: Target) -> list[tuple[int, int]]:
    """Return the tiles of outputs whose sums fit the registers, nearly."""
    height, width = workload.output
    dot = dots_of(target, workload.types)[0]
    return [
        (y, x)
        for y in divisors(height, 4)
        for x in range(1, min(width, 8) + 1)
        if PARTS * y * x <= 1.5 * target.vector_registers
        and PARTS * _unrolled(workload.window, y, x, dot) <= MAX_UNROLLED
    ] or [(1, 1)]


SCHEDULE = IntegerDepthwise()
