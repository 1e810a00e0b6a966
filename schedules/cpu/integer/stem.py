"""The stem on integers: a full convolution of an image with few channels.

The padded image is first copied, quantised if it is float32, so that the channels of a pixel fill
whole words and the inputs of a row of the filter follow each other.
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
from mobilenet_tvm.schedules.cpu.dot import DOTS, Dot, dots_of
from mobilenet_tvm.schedules.cpu.dot.base import Tile, Vectors, intrinsic
from mobilenet_tvm.schedules.cpu.emit import load, parameter
from mobilenet_tvm.schedules.cpu.finish import Finish, finish_tile
from mobilenet_tvm.schedules.cpu.integer.base import IntegerSchedule, in_order, is_interleaved
from mobilenet_tvm.schedules.cpu.registers import tile_features
from mobilenet_tvm.schedules.loops import divisors
from mobilenet_tvm.schedules.workloads import Convolution, Workload
from mobilenet_tvm.schedules.workloads.dtypes import lanes_of, vector_type
from mobilenet_tvm.schedules.workloads.epilogue import quantized, spread
from mobilenet_tvm.targets.target import Target

#: Cycles to begin a tile.
TILE_CYCLES = 12
#: Parts of the work that threads can divide well.
MIN_TASKS = 8


@dataclass(frozen=True)
class Decision(BaseDecision):
    """How to compute an integer stem.

    Parameters
    ----------
    dot : str
        The instruction set, in whose order weights are packed.
    tile_x : int
        Output columns of the register tile.
    tile_c : int
        Output channels of the register tile, whole vectors; divides the padded outputs.
    band : int
        Rows of outputs for which the padded image is copied at once; divides their number.
    interleaved : bool
        Whether sums are in the order of `Dot.order`; determined by the layer.
    """

    dot: str
    tile_x: int
    tile_c: int
    band: int
    interleaved: bool


class IntegerStem(IntegerSchedule[Convolution, Decision]):
    """Keeps a tile of columns x outputs in registers while iterating over a window."""

    workload_type = Convolution
    decision_type = Decision

    def takes(self, workload: Workload, target: Target) -> bool:
        """Return whether this schedule computes a layer: any without groups."""
        whole = isinstance(workload, Convolution) and workload.groups == 1
        return whole and super().takes(workload, target)

    def space(self, workload: Convolution, target: Target) -> dict[str, list[Any]]:
        """Return the candidate values of each part of a decision."""
        height = workload.output[0]
        return {"tile": _tiles(workload, target), "band": divisors(height, 16)}

    def valid(self, workload: Convolution, decision: Decision, target: Target) -> bool:
        """Return whether `build` accepts a decision."""
        dot = dots_of(target, workload.types)[0]
        return (
            (decision.dot, decision.interleaved) == (dot.name, is_interleaved(workload))
            and decision.tile_c % dot.lanes == 0
            and (decision.tile_x, decision.tile_c // dot.lanes) in _tiles(workload, target)
            and decision.band in self.space(workload, target)["band"]
        )

    def decisions(self, workload: Convolution, target: Target) -> list[Decision]:
        """Return the valid decisions in the space, without duplicates."""
        dot = dots_of(target, workload.types)[0]
        parts = self.space(workload, target)
        return [
            Decision(dot.name, x, vectors * dot.lanes, band, is_interleaved(workload))
            for (x, vectors), band in itertools.product(parts["tile"], parts["band"])
        ]

    def pack(self, weights: Sequence[Array], decision: Decision) -> list[Array]:
        """Return weights [height, width, inputs, outputs] as [panels, groups, vectors]."""
        (weight,) = weights
        dot, tile = DOTS[decision.dot], decision.tile_c
        height, width, inputs, _ = weight.shape
        padded = np.pad(weight, ((0, 0), (0, 0), (0, _padded(inputs, dot) - inputs), (0, 0)))
        rows = padded.reshape(height, width * padded.shape[2], -1)
        rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % dot.group), (0, 0)))
        full = self.arrange(rows, decision)
        panels, lanes = full.shape[2] // tile, dot.lanes
        parts = full.reshape(height, -1, dot.group, panels, tile // lanes, lanes)
        parts = parts.transpose(3, 0, 1, 4, 2, 5)
        ordered = dot.arrange(parts.reshape(panels * height, *parts.shape[2:]))
        return [np.ascontiguousarray(ordered).reshape(-1)]

    def arrange(self, operand: Array, decision: Decision, part: int = 0) -> Array:  # noqa: ARG002
        """Return values of the outputs, the last axis, padded and in the order of the sums."""
        return in_order(operand, DOTS[decision.dot], decision.tile_c, decision.interleaved)

    def emit(self, workload: Convolution, decision: Decision, target: Target) -> None:
        """Emit the image, packed weights, its numbers, operands, and the output in NHWC.

        The numbers are those by which a float32 image is quantised, if it is one, and the value of
        the padding, if there is any.
        """
        dot, types, window = DOTS[decision.dot], workload.types, workload.window
        (height, width), outputs = workload.output, workload.outputs
        pixels = workload.batch * workload.height * workload.width
        panels = -(-outputs // decision.tile_c)
        data = parameter("data", pixels * workload.inputs, types.data)
        depth = window.kernel[0] * _across(workload, dot)
        weight = parameter("weight", panels * depth * decision.tile_c, types.weights)
        numbers = parameter("numbers", 4, "float32") if types.data == "float32" else None
        # The result need not be quantised.
        kept = target.bytes_type if types.data == "float32" else types.data
        zero = parameter("zero", 1, kept) if any(window.padding) else None
        size = workload.batch * height * width * outputs
        finish = Finish(
            workload, target, outputs, panels * decision.tile_c, size, decision.interleaved
        )
        fma = dot.vector_bits > 128 or target.architecture == "aarch64"
        copied = "int16" if dot.widened else kept
        image = _Image(workload, copied, dot, data, numbers, zero, fma)

        bands = height // decision.band
        with T.parallel(0, workload.batch * bands) as task:
            number, top = task // bands, task % bands * decision.band
            columns = (width - 1) * window.stride[1] + window.kernel[1]
            rows = window.inputs(decision.band, 1)[0]
            copy = image.copied(number, top * window.stride[0], rows, columns)
            tiles = -(-width // decision.tile_x)
            with T.grid(decision.band, panels, tiles) as (y, panel, place):
                x = T.bind(T.min(place * decision.tile_x, width - decision.tile_x))
                corner = y * window.stride[0] * columns + x * window.stride[1]
                channel = T.bind(panel * decision.tile_c)
                tile = _sums(workload, decision, dot, copy, weight, finish, corner, channel)
                pixel = ((number * height + top + y) * width + x) * outputs
                start = T.bind(pixel + channel)
                finish_tile(dot, finish, tile, panel < panels - 1, channel, start, outputs)

    def features(
        self, workload: Convolution, decision: Decision, target: Target
    ) -> dict[str, float]:
        """Describe a decision: the register tile and the band."""
        dot = DOTS[decision.dot]
        vectors = decision.tile_c // dot.lanes
        rows = workload.window.inputs(decision.band, 1)[0]
        return tile_features(decision.tile_x, vectors, decision.tile_x, vectors, target) | {
            "panels": -(-workload.outputs // decision.tile_c),
            "ragged": -workload.output[1] % decision.tile_x / decision.tile_x,
            "copied": rows / (decision.band * workload.window.stride[0]),
            "band_share_of_l1": rows * workload.width * 4 / target.l1d_bytes,
            "taps": workload.window.taps * workload.inputs,
        }

    def cycles(self, workload: Convolution, decision: Decision, target: Target) -> float:  # noqa: ARG002
        """Estimate a layer's cycles."""
        dot = DOTS[decision.dot]
        vectors, (height, width) = decision.tile_c // dot.lanes, workload.output
        groups = workload.window.kernel[0] * _across(workload, dot) // dot.group
        busy = dot.cycles(decision.tile_x, vectors)
        tiles = -(-width // decision.tile_x) * -(-workload.outputs // decision.tile_c) * height
        product = tiles * (
            groups * busy + dot.finish_cycles(decision.tile_x, vectors) + TILE_CYCLES
        )
        rows = workload.window.inputs(decision.band, 1)[0]
        copied = height // decision.band * rows * workload.width * workload.inputs / dot.lanes
        few = 1.0 if height // decision.band >= MIN_TASKS else 1.3
        return few * (product + 4 * copied)


@dataclass(frozen=True)
class _Image:
    """Copies the padded image to another type."""

    workload: Convolution
    dtype: str
    dot: Dot
    data: Any
    numbers: Any
    zero: Any
    fma: bool

    def copied(self, number: Any, top: Any, rows: int, columns: int) -> Any:
        """Emit the copy of some rows of an image: [rows, columns, padded channels]."""
        workload, channels = self.workload, _padded(self.workload.inputs, self.dot)
        size = rows * columns * channels + self.dot.channels
        copy = T.alloc_buffer((size,), self.dtype, align=64)
        padding = workload.window.padding
        left = padding[1]
        inside = min(workload.width, columns - left)

        def fill(start: Any, count: int) -> None:
            if count > 0:
                with T.serial(0, count * channels) as place:
                    T.buffer_store(
                        copy, self.zero[0].astype(self.dtype), [start * channels + place]
                    )

        with T.serial(0, rows) as row:
            source, start = top + row - padding[0], row * columns

            def image_row(source: Any = source, start: Any = start) -> None:
                fill(start, left)
                self._row(copy, start + left, number, source, inside)
                fill(start + left + inside, columns - left - inside)

            if self.zero is None:
                image_row()
            else:
                with T.If(tirx.all(source >= 0, source < workload.height)):
                    with T.Then():
                        image_row()
                    with T.Else():
                        fill(start, columns)
        return copy

    def _row(self, copy: Any, start: Any, number: Any, source: Any, inside: int) -> None:
        """Emit the copy of a row that is in the image."""
        lanes = self.dot.lanes
        whole = inside // lanes
        if whole:
            with T.serial(0, whole) as part:
                self._pixels(copy, start, number, source, part * lanes, lanes)
        for column in range(whole * lanes, inside):
            self._pixels(copy, start, number, source, column, 1)

    def _pixels(
        self, copy: Any, start: Any, number: Any, row: Any, column: Any, lanes: int
    ) -> None:
        """Emit the copy of neighbouring pixels: each group of their channels is a word."""
        workload, group = self.workload, _word(self.dot)
        bits = 32 // group
        words = []
        for first in range(0, workload.inputs, group):
            word = None
            for index in range(min(group, workload.inputs - first)):
                value = self._value(number, row, column, first + index, lanes)
                mask = spread(tirx.const((1 << bits) - 1, "int32"), value_type := str(value.ty))
                shift = spread(tirx.const(bits * index, "int32"), value_type)
                moved = (
                    tirx.bitwise_and(value, mask) << shift
                    if index
                    else tirx.bitwise_and(value, mask)
                )
                word = moved if word is None else tirx.bitwise_or(word, moved)
            words.append(word)
        count = len(words)
        if count > 1:
            order = [lane + lanes * word for lane in range(lanes) for word in range(count)]
            words = [tirx.Shuffle(words, order)]
        dtype = str(copy.ty.dtype)
        size = lanes * count * group
        place = (start + column) * count * group
        T.buffer_store(
            copy, tirx.reinterpret(vector_type(dtype, size), words[0]), [T.ramp(place, 1, size)]
        )

    def _value(self, number: Any, row: Any, column: Any, channel: int, lanes: int) -> Any:
        """Return a channel of neighbouring pixels as int32, quantised."""
        workload = self.workload
        if workload.reads_nchw:
            plane = number * workload.inputs + channel
            place = (plane * workload.height + row) * workload.width + column
            value = load(self.data, place, lanes)
        else:
            pixel = (number * workload.height + row) * workload.width + column
            place = pixel * workload.inputs + channel
            step = workload.inputs
            value = self.data[T.ramp(place, step, lanes)] if lanes > 1 else self.data[place]
        if self.numbers is None:
            return value.astype(vector_type("int32", lanes))
        real = vector_type("float32", lanes)
        bounds = [self.numbers[i] for i in (1, 2, 3)]
        if lanes == 1 or not self.fma:
            return quantized(value / spread(self.numbers[0], real), bounds, real)
        return quantized(self._divided(value, real), bounds, real)

    def _divided(self, value: Any, real: str) -> Any:
        """Return a vector divided by the scale, correctly rounded, by multiply-adds.

        A division takes 16 cycles or more, these five operations three. The product with the
        reciprocal is corrected twice by its remainder: the first correction makes it one of the two
        nearest numbers, the second the nearest (source: Markstein, 1990, Computation of elementary
        functions on the IBM RISC System/6000, theorem 3). Values far outside the bounds are made
        finite before.
        """
        scale = self.numbers[0]
        reach = tirx.const(2.0, "float32") * scale
        low, high = (
            spread(self.numbers[i] * scale + sign * reach, real) for i, sign in ((1, -1), (2, 1))
        )
        value = T.bind(tirx.min(tirx.max(value, low), high))
        inverse = spread(tirx.const(1.0, "float32") / scale, real)
        minus = spread(tirx.const(0.0, "float32") - scale, real)
        name = f"llvm.fma.v{lanes_of(real)}f32"
        quotient = value * inverse
        for _ in range(2):
            quotient = T.bind(quotient)
            rest = intrinsic(real, name, quotient, minus, value)
            quotient = intrinsic(real, name, rest, inverse, quotient)
        return quotient


def _sums(
    workload: Convolution,
    decision: Decision,
    dot: Dot,
    copy: Any,
    weight: Any,
    finish: Finish,
    corner: Any,
    channel: Any,
) -> list[Vectors]:
    """Emit the sums of a tile of columns x outputs."""
    window, vectors = workload.window, decision.tile_c // dot.lanes
    channels, lanes = _padded(workload.inputs, dot), dot.lanes

    def start(vector: int) -> Any:
        return finish.start(dot.lanes, channel + vector * lanes)

    sums = dot.begin(decision.tile_x, vectors, start)
    across = _across(workload, dot)
    columns = (workload.output[1] - 1) * window.stride[1] + window.kernel[1]
    begin = T.bind(corner * channels)
    packed = T.bind(channel * (window.kernel[0] * across))
    for row in range(window.kernel[0]):

        def data(column: int, k: int, count: int, row: int = row) -> Any:
            place = (row * columns + column * window.stride[1]) * channels + k
            return load(copy, begin + place, count)

        def weights(k: int, place: int, count: int, row: int = row) -> Any:
            place += (row * across + k) * decision.tile_c
            return load(weight, packed + place, count)

        tile = Tile(decision.tile_x, vectors, data, weights, sums)
        for k in range(0, across, dot.depth):
            dot.multiply(tile, k, min(dot.depth, across - k))
    return dot.end(sums, decision.tile_x, vectors, start)


def _word(dot: Dot) -> int:
    """Return the channels in 32 bits of the copied image."""
    return 2 if dot.widened else 4


def _padded(inputs: int, dot: Dot) -> int:
    """Return the channels of a pixel of the copied image: whole words."""
    return -(-inputs // _word(dot)) * _word(dot)


def _across(workload: Convolution, dot: Dot) -> int:
    """Return the inputs of a row of the filter, rounded up to whole groups of weights."""
    inputs = workload.window.kernel[1] * _padded(workload.inputs, dot)
    return -(-inputs // dot.group) * dot.group


def _tiles(workload: Convolution, target: Target) -> list[tuple[int, int]]:
    """Return the (columns, vectors) of register tiles that fit the registers."""
    dot = dots_of(target, workload.types)[0]
    vectors = -(-workload.outputs // dot.lanes)
    return [
        (columns, wide)
        for wide in divisors(vectors, 6)
        for columns in range(1, min(workload.output[1], 16) + 1)
        if dot.registers(columns, wide) <= target.vector_registers
    ]


SCHEDULE = IntegerStem()
