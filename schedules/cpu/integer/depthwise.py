"""Depthwise convolution on integers: dot products over neighbouring pixels of each channel.

The bytes of neighbouring pixels are interleaved, so that each 32-bit lane holds a channel's inputs
for a few taps, which one dot product multiplies. Where a vector of inputs serves two outputs, its
taps are shifted and padded with zeros.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from mobilenet_tvm.schedules.base import Array
from mobilenet_tvm.schedules.base import Decision as BaseDecision
from mobilenet_tvm.schedules.cpu.dot import DOTS, SETS, Dot, dots_of
from mobilenet_tvm.schedules.cpu.dot.base import PARTS, FilterTile, Vectors
from mobilenet_tvm.schedules.cpu.emit import load, load_some, parameter, repeated
from mobilenet_tvm.schedules.cpu.finish import Finish
from mobilenet_tvm.schedules.cpu.integer.base import IntegerSchedule, in_order
from mobilenet_tvm.schedules.cpu.registers import tile_features
from mobilenet_tvm.schedules.loops import divisor_at_most, divisors
from mobilenet_tvm.schedules.workloads import Depthwise, Window
from mobilenet_tvm.schedules.workloads.dtypes import lanes_of
from mobilenet_tvm.targets.target import Target

#: How much longer a single output takes at the border, where each pixel has a condition.
BORDER = 1.5
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
        Rows of output tiles that are computed at once, for which a padded input is copied; divides
        their number.
    direct : bool
        Whether tiles inside the picture read it where it is, which takes more code; those at its
        border are then computed pixel by pixel. What is left over of the channels is always copied.
    interleaved : bool
        Whether operands are in the order of `Dot.order`, as sums are; determined by the layer.
    """

    dot: str
    tile_y: int
    tile_x: int
    band: int
    direct: bool
    interleaved: bool


@dataclass(frozen=True)
class Chunk:
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


@dataclass(frozen=True)
class Cells:
    """Where some neighbouring pixels of a chunk of channels are stored.

    Parameters
    ----------
    buffer : Buffer
        A padded band of rows.
    start : Expr
        The first byte of the first pixel.
    step : int
        Bytes from a pixel to the next.
    size : int
        Bytes of the chunk in a pixel, of which the last may not be used.
    """

    buffer: Any
    start: Any
    step: int
    size: int


class Source(Protocol):
    """What a band of rows is filled with."""

    def fill(self, cells: Cells, pixel: Any, columns: int, first: Any, count: int) -> None:
        """Emit the stores of some neighbouring pixels of a row.

        Parameters
        ----------
        cells : Cells
            Where to store them.
        pixel : Expr
            The first of them, counted from the first of all pictures.
        columns : int
            Their number.
        first : Expr
            The first channel.
        count : int
            Number of channels.
        """


@dataclass(frozen=True)
class Picture:
    """Pixels that are copied from a tensor in NHWC."""

    data: Any
    channels: int

    def fill(self, cells: Cells, pixel: Any, columns: int, first: Any, count: int) -> None:
        """Emit the copy of some neighbouring pixels of a row."""
        together = divisor_at_most(columns, MAX_COPIED)
        with T.serial(0, columns // together) as part:
            place = T.bind((pixel + part * together) * self.channels + first)
            for column in range(together):
                value = load_some(self.data, place + column * self.channels, cells.size, count)
                target = cells.start + (part * together + column) * cells.step
                T.buffer_store(cells.buffer, value, [T.ramp(target, 1, cells.size)])


class IntegerDepthwise(IntegerSchedule[Depthwise, Decision]):
    """Copies a padded band of rows of a chunk of channels, and slides a register tile over it."""

    workload_type = Depthwise
    decision_type = Decision

    def space(self, workload: Depthwise, target: Target) -> dict[str, list[Any]]:
        """Return the candidate values of each part of a decision."""
        height = workload.output[0]
        return {
            "tile": _tiles(workload, target),
            "band": divisors(height, height),
            "direct": [False, True],
        }

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
        name, height = dots_of(target, workload.types)[0].name, workload.output[0]
        parts = self.space(workload, target)
        return [
            Decision(name, y, x, band, direct, True)
            for (y, x), band, direct in itertools.product(*parts.values())
            if height % (y * band) == 0
        ]

    def pack(self, weights: Sequence[Array], decision: Decision) -> list[Array]:
        """Return weights [height, width, channels] as [chunks, height, groups of taps, parts]."""
        (weight,) = weights
        height, width, channels = weight.shape
        packed = []
        for chunk in chunks_of(DOTS[decision.dot], channels):
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

    def arrange(self, operand: Array, decision: Decision, part: int = 0) -> Array:  # noqa: ARG002
        """Return values of the channels, padded and in the order of the sums."""
        parts = []
        for chunk in chunks_of(DOTS[decision.dot], len(operand)):
            values = operand[chunk.first : chunk.first + chunk.repeats * chunk.count]
            parts.append(in_order(values, chunk.dot, chunk.dot.channels, decision.interleaved))
        return np.concatenate(parts)

    def emit(self, workload: Depthwise, decision: Decision, target: Target) -> None:
        """Emit data, packed weights, the padding's value, operands, and the output, in NHWC."""
        size = workload.height * workload.width * workload.channels
        data = parameter("data", workload.batch * size, workload.types.data)
        emit_filter(workload, decision, target, Picture(data, workload.channels), data)

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
        dot, window = DOTS[decision.dot], workload.window
        height, width = workload.output
        bands = workload.batch * height // (decision.tile_y * decision.band)
        tasks = bands * -(-workload.channels // dot.channels)
        few = 1.0 if tasks >= MIN_TASKS else 1.2
        inner = filter_cycles(workload, decision, target)
        if decision.direct:
            plan = _Plan.of(window, decision.tile_y, decision.tile_x, dot)
            rows = max(
                0, height - 2 * -(-max(window.padding[::2]) // decision.tile_y) * decision.tile_y
            )
            sides = (window.padding[1], window.padding[3] + plan.pixels - window.inputs(1, 1)[1])
            tiles = [-(-side // (decision.tile_x * window.stride[1])) for side in sides]
            columns = max(0, width - sum(tiles) * decision.tile_x)
            inside = rows * columns / (height * width)
            border = _tile_cycles(window, 1, 1, dot, target)
            return few * (inside * inner + (1 - inside) * BORDER * border)
        rows = window.inputs(decision.tile_y * decision.band, 1)[0]
        copied = rows * workload.width / (decision.tile_y * decision.band * width)
        plane = workload.height * workload.width * workload.channels
        cycles = dot.copy_cycles(plane > target.l1d_bytes)
        return few * (inner + cycles * copied)


def filter_cycles(workload: Depthwise, decision: Decision, target: Target) -> float:
    """Estimate the cycles of a vector of bytes of the output, given the copy of the input."""
    width, tile_x = workload.output[1], decision.tile_x
    ragged = -(-width // tile_x) * tile_x / width
    dot = DOTS[decision.dot]
    return ragged * _tile_cycles(workload.window, decision.tile_y, tile_x, dot, target)


def _tile_cycles(window: Window, tile_y: int, tile_x: int, dot: Dot, target: Target) -> float:
    """Estimate the cycles of an output of a tile."""
    plan = _Plan.of(window, tile_y, tile_x, dot)
    taps = window.kernel[0] * len(plan.offsets)
    outputs = tile_y * tile_x
    work = dot.filter_cycles(outputs, plan.dots, plan.loads, taps, target.vector_registers)
    return work / outputs


def emit_filter(
    workload: Depthwise, decision: Decision, target: Target, source: Source, data: Any = None
) -> None:
    """Emit the other parameters and the body of a depthwise layer.

    Parameters
    ----------
    workload : Depthwise
        The layer.
    decision : Decision
        How to compute it.
    target : Target
        The machine.
    source : Source
        What the bands of rows are filled with.
    data : Buffer, optional
        The input, if there is one, for a decision that reads it where it is.
    """
    (height, width), channels, batch = workload.output, workload.channels, workload.batch
    widest = DOTS[decision.dot]
    chunks = chunks_of(widest, channels)
    weights = [_weights(chunk.dot, workload.window) for chunk in chunks]
    counts = [chunk.repeats for chunk in chunks]
    weight = parameter("weight", int(np.dot(weights, counts)), workload.types.weights)
    zero = parameter("zero", 1, workload.types.data) if any(workload.window.padding) else None
    last = chunks[-1]
    padded = channels + last.dot.channels - last.count
    result = batch * height * width * channels
    finish = Finish(workload, target, channels, padded, result, decision.interleaved)
    bands = batch * height // (decision.tile_y * decision.band)
    copies = [_copies(chunk, widest, bands) for chunk in chunks]
    # The chunks of a few bands follow each other, so that their inputs stay in cache.
    together = max(copies)
    units = [
        chunk.repeats * (together // count) for chunk, count in zip(chunks, copies, strict=True)
    ]

    def emit(group: Any, unit: Any, index: int) -> None:
        """Emit the code for a unit of a group of bands, given that no earlier chunk has it."""

        def here() -> None:
            chunk, count = chunks[index], copies[index]
            repeat = T.bind(unit % chunk.repeats)
            first = T.bind(chunk.first + repeat * chunk.count)
            begin = sum(w * r for w, r in zip(weights[:index], counts, strict=False))
            start = T.bind(begin + repeat * weights[index])
            number = T.bind(group * together + unit // chunk.repeats * count)
            these = [T.bind(T.min(number + i, bands - 1)) for i in range(count)]
            wide = _as_wide(chunk.dot, count)
            band = _Band(workload, decision, wide, chunk.dot, chunk.count, finish, source)
            band.emit(data, weight, zero, start, first, these)

        if index == len(chunks) - 1:
            here()
            return
        with T.If(unit < units[index]):
            with T.Then():
                here()
            with T.Else():
                emit(group, unit - units[index], index + 1)

    count = sum(units)
    with T.parallel(0, -(-bands // together) * count) as task:
        emit(T.bind(task // count), T.bind(task % count), 0)


@dataclass(frozen=True)
class _Plan:
    """Which vectors of pixels a tile reads, and which taps they meet.

    Parameters
    ----------
    rows, pixels : int
        Rows of inputs, and their columns.
    interleaved : int
        Pixels of a row in all groups of neighbours.
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
class _Inputs:
    """Where a tile's inputs are: a tensor, the first of them, and the steps to the next ones."""

    buffer: Any
    start: Any
    row: int
    pixel: int


@dataclass(frozen=True)
class _Band:
    """Emits the code for a chunk of channels of some rows.

    Parameters
    ----------
    workload : Depthwise
        The layer.
    decision : Decision
        How to compute it.
    dot : Dot
        What computes it. Its vectors hold the chunk of several bands side by side.
    stored : Dot
        In whose order the weights and operands of the chunk are.
    count : int
        Channels of the chunk.
    finish : Finish
        The epilogue.
    source : Source
        What the rows are filled with.
    """

    workload: Depthwise
    decision: Decision
    dot: Dot
    stored: Dot
    count: int
    finish: Finish
    source: Source

    @property
    def copies(self) -> int:
        """Bands that are computed side by side."""
        return self.dot.channels // self.stored.channels

    @property
    def _plan(self) -> _Plan:
        """What a tile reads."""
        decision = self.decision
        return _Plan.of(self.workload.window, decision.tile_y, decision.tile_x, self.dot)

    def emit(
        self, data: Any, weight: Any, zero: Any, start: Any, first: Any, bands: list[Any]
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
        bands : list of Expr
            Which bands of rows, of all pictures.
        """
        decision, dot, stored = self.decision, self.dot, self.stored
        window, (height, width) = self.workload.window, self.workload.output
        plan = self._plan
        down, across = window.stride
        high = decision.tile_y * decision.band
        taps = self._taps(weight, start, plan.offsets)
        direct = decision.direct and self.count == dot.channels
        columns = (width - decision.tile_x) * across + plan.pixels
        rows = window.inputs(high, 1)[0]
        whole = T.bind(height // high)
        if not direct:
            size = rows * columns * dot.channels
            copy = T.alloc_buffer((size,), self.workload.types.data, align=64)
            for number, band in enumerate(bands):
                image, top = T.bind(band // whole), T.bind(band % whole * high)
                with T.serial(0, rows) as row:
                    place = (row * columns) * dot.channels + number * stored.channels
                    self._fill_row(zero, image, top * down + row, first, copy, place, columns)
        with T.grid(decision.band, -(-width // decision.tile_x)) as (step, place):
            x = T.bind(T.min(place * decision.tile_x, width - decision.tile_x))
            pixels = [
                T.bind(
                    ((band * high + step * decision.tile_y) * width + x) * self.workload.channels
                    + first
                )
                for band in bands
            ]
            if direct:
                (band,) = bands
                y = T.bind(band % whole * high + step * decision.tile_y)
                image = T.bind(band // whole)
                self._inside_or_not(data, zero, image, y, x, taps, plan, first, pixels)
            else:
                corner = (step * (decision.tile_y * down) * columns + x * across) * dot.channels
                source = _Inputs(copy, T.bind(corner), columns * dot.channels, dot.channels)
                self._tile(source, taps, plan, first, pixels)

    def _inside_or_not(
        self,
        data: Any,
        zero: Any,
        image: Any,
        y: Any,
        x: Any,
        taps: Vectors,
        plan: _Plan,
        first: Any,
        pixels: list[Any],
    ) -> None:
        """Emit a tile that reads the picture where it is, or single pixels at the border."""
        workload, decision = self.workload, self.decision
        (top, left, *_), (down, across) = workload.window.padding, workload.window.stride
        channels, row_size = workload.channels, workload.width * workload.channels
        row, column = T.bind(y * down - top), T.bind(x * across - left)
        corner = T.bind((image * workload.height + row) * row_size + column * channels + first)
        inside = tirx.all(
            row >= 0,
            row + plan.rows <= workload.height,
            column >= 0,
            column + plan.pixels <= workload.width,
        )
        with T.If(inside):
            with T.Then():
                source = _Inputs(data, corner, row_size, channels)
                self._tile(source, taps, plan, first, pixels)
            with T.Else(), T.grid(decision.tile_y, decision.tile_x) as (dy, dx):
                place = pixels[0] + (dy * workload.output[1] + dx) * channels
                start = T.bind(corner + (dy * down) * row_size + (dx * across) * channels)
                at = T.bind(row + dy * down), T.bind(column + dx * across)
                self._border_pixel(data, zero, start, at, taps, first, T.bind(place))

    def _border_pixel(
        self,
        data: Any,
        zero: Any,
        start: Any,
        at: tuple[Any, Any],
        taps: Vectors,
        first: Any,
        place: Any,
    ) -> None:
        """Emit an output whose window may begin or end outside the picture."""
        dot, workload = self.dot, self.workload
        row_size = workload.width * workload.channels
        nothing = tirx.const(0, workload.types.data) if zero is None else zero[0]

        def pixel(row: Any, column: int, channel: int, count: int) -> Any:
            y, x = at[0] + row, at[1] + column
            inside = tirx.all(y >= 0, y < workload.height, x >= 0, x < workload.width)
            step = row * row_size + column * workload.channels + channel
            value = load(data, start + step, count)
            return T.bind(tirx.if_then_else(inside, value, tirx.Broadcast(nothing, count)))

        plan = _Plan.of(workload.window, 1, 1, dot)
        tile = self._filter_tile((1, 1), plan, pixel, taps, first, [place])
        sums = {output: tile.begin() for output in tile.outputs}
        with T.serial(0, plan.rows) as row:
            dot.input_row(tile, sums, row, row)
        tile.end(sums)

    def _fill_row(
        self,
        zero: Any,
        image: Any,
        row: Any,
        first: Any,
        copy: Any,
        start: Any,
        columns: int,
    ) -> None:
        """Emit a row of the padded input, of which some columns may not be used."""
        workload, size = self.workload, self.stored.channels
        top, left, _, _ = workload.window.padding
        source = T.bind(row - top)
        begin = T.bind((image * workload.height + source) * workload.width)
        inside = min(workload.width, columns - left)
        step = self.dot.channels

        def blank(column: Any) -> None:
            place = T.ramp(start + column * step, 1, size)
            T.buffer_store(copy, tirx.Broadcast(zero[0], size), [place])

        def filled(columns_of: range) -> None:
            if zero is not None:
                for column in columns_of:
                    blank(column)

        def copied() -> None:
            filled(range(left))
            cells = Cells(copy, T.bind(start + left * step), step, size)
            self.source.fill(cells, begin, inside, first, self.count)
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
                        blank(part * together + column)

    def _taps(self, weight: Any, start: Any, offsets: list[int]) -> Vectors:
        """Emit the taps: [rows of the filter, offsets, parts]."""
        dot, (rows, width) = self.dot, self.workload.window.kernel
        groups, parts = -(-width // dot.pixels), dot.parts
        taps = Vectors(rows * len(offsets) * parts, dot.taps_type)
        with T.serial(0, rows) as row:
            begin = T.bind(start + row * (groups * dot.pixels * self.stored.channels))
            for number, offset in enumerate(offsets):
                loaded = dot.load_taps(partial(self._loaded, weight, begin), groups, offset)
                for part, value in enumerate(loaded):
                    taps[(row * len(offsets) + number) * parts + part] = value
        return taps

    def _loaded(self, weight: Any, start: Any, number: int) -> Any:
        """Return a vector of a row's taps, once for each band."""
        size = self.stored.channels * self.dot.pixels // self.dot.parts
        taps = self.stored.taps(load(weight, start + number * size, size))
        return repeated(taps, self.copies, lanes_of(str(taps.ty)) * self.copies)

    def _tile(
        self,
        source: _Inputs,
        taps: Vectors,
        plan: _Plan,
        first: Any,
        pixels: list[Any],
    ) -> None:
        """Emit a tile of outputs."""
        begin = T.bind(source.start)

        def pixel(row: Any, column: int, place: int, count: int) -> Any:
            step = row * source.row + column * source.pixel + place
            return load(source.buffer, begin + step, count)

        shape = (self.decision.tile_y, self.decision.tile_x)
        self.dot.convolve(self._filter_tile(shape, plan, pixel, taps, first, pixels))

    def _filter_tile(
        self,
        shape: tuple[int, int],
        plan: _Plan,
        pixel: Callable[[Any, int, int, int], Any],
        taps: Vectors,
        first: Any,
        pixels: list[Any],
    ) -> FilterTile:
        """Return the description of a tile of outputs for the instruction set."""
        dot, window, channels = self.dot, self.workload.window, self.workload.channels
        row_size = self.workload.output[1] * channels

        def begin() -> Vectors:
            sums = Vectors(PARTS, dot.sums_type)
            for part in range(PARTS):
                channel = first + part * self.stored.lanes
                sums[part] = self.finish.start(dot.lanes, channel, self.copies)
            return sums

        def end(sums: dict[tuple[int, int], Vectors]) -> None:
            for y in sorted({y for y, _ in sums}):
                across = [x for row, x in sums if row == y]
                starts = [start + (y * row_size + across[0] * channels) for start in pixels]
                rows = [
                    [
                        self._finished(sums[y, x], part, first, [s + i * channels for s in starts])
                        for part in range(PARTS)
                    ]
                    for i, x in enumerate(across)
                ]
                self.finish.store(dot, rows, self.count, starts, channels)

        outputs = list(itertools.product(range(shape[0]), range(shape[1])))
        return FilterTile(
            outputs,
            plan.rows,
            window.kernel,
            window.stride,
            pixel,
            taps,
            self._plan.offsets,
            begin,
            end,
        )

    def _finished(self, sums: Vectors, part: int, first: Any, places: list[Any]) -> Any:
        """Return the epilogue of a vector of sums, given where its chunks begin in the result."""
        dot = self.dot

        def tensor(buffer: Any) -> Any:
            order = dot.order(PARTS)[part * dot.lanes : (part + 1) * dot.lanes]
            size = self.stored.channels
            return tirx.Shuffle([load_some(buffer, p, size, self.count) for p in places], order)

        channel = first + part * self.stored.lanes
        return T.bind(self.finish.apply(dot.lanes, sums[part], channel, tensor, self.copies))


def _unrolled(window: Window, tile_y: int, tile_x: int, dot: Dot) -> int:
    """Return the dot products of a tile that are unrolled."""
    dots = _Plan.of(window, tile_y, tile_x, dot).dots
    return dots // window.kernel[0] if tile_y == 1 else dots


def _weights(dot: Dot, window: Window) -> int:
    """Return the number of packed weights of a chunk."""
    return window.kernel[0] * -(-window.kernel[1] // dot.pixels) * dot.pixels * dot.channels


def _copies(chunk: Chunk, widest: Dot, bands: int) -> int:
    """Return how many bands of a chunk are computed side by side: a power of two."""
    most = widest.channels // chunk.dot.channels
    return next(copies for copies in (8, 4, 2, 1) if copies <= min(most, bands))


def _as_wide(dot: Dot, copies: int) -> Dot:
    """Return the instruction set whose vectors are as many times longer."""
    dots = next(dots for sets in SETS.values() for dots in sets if dot in dots)
    return next(wide for wide in dots if wide.channels == copies * dot.channels)


def chunks_of(widest: Dot, channels: int) -> list[Chunk]:
    """Divide channels into widest vectors of bytes, and what is left over, which is code apart."""
    dots = next(dots for sets in SETS.values() for dots in sets if dots[0] == widest)
    repeats, rest = divmod(channels, widest.channels)
    found = [Chunk(widest, 0, widest.channels, repeats)] if repeats else []
    if rest:
        narrowest = min((dot for dot in dots if dot.channels >= rest), key=lambda dot: dot.channels)
        found.append(Chunk(narrowest, channels - rest, rest, 1))
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
