"""Convolution over many channels: a register tile over pixels and outputs, without im2col.

In NHWC the inputs of a row of the window follow each other, so that the inner loop is that of a
matrix product on packed weights. Where the window is padded, rows are copied with their padding
first. Where each group has one input, as in a depthwise convolution with a multiplier, a tile has
the outputs of several groups, and a vector of inputs is shuffled into one per vector of outputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from mobilenet_tvm.schedules.base import Array
from mobilenet_tvm.schedules.base import Decision as BaseDecision
from mobilenet_tvm.schedules.cpu.base import (
    PARALLEL_FLOPS,
    computes_floats,
    product_type,
    vector_lanes,
)
from mobilenet_tvm.schedules.cpu.dot.base import Vectors
from mobilenet_tvm.schedules.cpu.emit import (
    EmittedSchedule,
    either,
    load,
    load_some,
    parameter,
    store,
)
from mobilenet_tvm.schedules.cpu.finish import Finish
from mobilenet_tvm.schedules.cpu.parts import MOST_PRODUCTS, products_of_part
from mobilenet_tvm.schedules.cpu.registers import (
    cycles_per_input,
    fits_registers,
    tile_features,
    tile_widths,
)
from mobilenet_tvm.schedules.loops import divisors
from mobilenet_tvm.schedules.workloads import Convolution, Workload, size_of
from mobilenet_tvm.schedules.workloads.dtypes import vector_type
from mobilenet_tvm.schedules.workloads.epilogue import spread
from mobilenet_tvm.targets.target import Target

#: Share of the time to read weights from the second-level cache that multiply-adds do not hide.
NOT_HIDDEN = 0.1
#: Parts of the work that threads can divide well.
MIN_TASKS = 8
#: Most vectors of outputs of a register tile.
MAX_VECTORS = 4
#: Cycles to begin a tile, and to finish and store a vector of sums.
TILE_CYCLES = 16
FINISH_CYCLES = 3
#: Cycles to shuffle a vector of inputs; x86 has one unit for it.
SHUFFLE_CYCLES = 1
#: Bytes a cycle of a copy, and of weights that no cache of the core holds.
COPY_BYTES = 8
FAR_BYTES = 6


@dataclass(frozen=True)
class Decision(BaseDecision):
    """How to compute a convolution.

    Parameters
    ----------
    lanes : int
        Length of a vector.
    tile_y, tile_x : int
        Rows and columns of the register tile; the rows divide the output's.
    tile_c : int
        Output channels of the register tile, whole vectors.
    unroll : int
        Inputs per iteration of the innermost loop; divides those that follow each other.
    band : int
        Rows of tiles that are computed before the next weights are read.
    """

    lanes: int
    tile_y: int
    tile_x: int
    tile_c: int
    unroll: int
    band: int


class DirectConvolution(EmittedSchedule[Convolution, Decision]):
    """Keeps a tile of pixels x outputs in registers while iterating over a window."""

    workload_type = Convolution
    decision_type = Decision
    dilates = True

    def takes(self, workload: Workload, target: Target) -> bool:
        """Return whether this schedule computes a layer: of floats, in NHWC."""
        plain = isinstance(workload, Convolution) and not workload.reads_nchw
        return plain and computes_floats(workload, target) and super().takes(workload, target)

    def space(self, workload: Convolution, target: Target) -> dict[str, list[Any]]:
        """Return the candidate values of each part of a decision."""
        return {
            "tile": _tiles(workload, target),
            "unroll": _unrolled(workload)[:1],
            "band": divisors(workload.output[0], workload.output[0]),
        }

    def valid(self, workload: Convolution, decision: Decision, target: Target) -> bool:
        """Return whether `build` accepts a decision."""
        tile = (decision.lanes, decision.tile_y, decision.tile_x, decision.tile_c)
        return (
            tile in _tiles(workload, target)
            and decision.unroll in _unrolled(workload)
            and 1 <= decision.band <= workload.output[0] // decision.tile_y
        )

    def decisions(self, workload: Convolution, target: Target) -> list[Decision]:
        """Return the valid decisions in the space, without duplicates."""
        parts = self.space(workload, target)
        return [
            Decision(lanes, y, x, outputs, unroll, band)
            for (lanes, y, x, outputs), unroll, band in itertools.product(*parts.values())
            if band * y <= workload.output[0]
        ]

    def pack(self, weights: Sequence[Array], decision: Decision) -> list[Array]:
        """Return weights [height, width, inputs, outputs] as panels, each [taps, inputs, tile]."""
        (weight,) = weights
        full = self.arrange(weight, decision)
        panels = full.reshape(*full.shape[:3], -1, decision.tile_c)
        return [np.ascontiguousarray(panels.transpose(3, 0, 1, 2, 4)).reshape(-1)]

    def arrange(self, operand: Array, decision: Decision, part: int = 0) -> Array:  # noqa: ARG002
        """Return values of the outputs, the last axis, padded to whole tiles."""
        missing = -operand.shape[-1] % decision.tile_c
        return np.pad(operand, [(0, 0)] * (operand.ndim - 1) + [(0, missing)])

    def emit(self, workload: Convolution, decision: Decision, target: Target) -> None:
        """Emit data, packed weights, operands, and the output, in NHWC."""
        _Emitter(workload, decision, target).emit()

    def features(
        self, workload: Convolution, decision: Decision, target: Target
    ) -> dict[str, float]:
        """Describe a decision: the register tile, and the bands' share of the caches."""
        pixels, vectors = decision.tile_y * decision.tile_x, decision.tile_c / decision.lanes
        panel = size_of(workload.types.weights) * _depth(workload) * decision.tile_c
        return tile_features(pixels, vectors, pixels, vectors, target) | {
            "share_of_lanes": decision.lanes / vector_lanes(workload.types, target),
            "wasted": _computed(workload, decision) / workload.flops - 1,
            "band_share_of_l2": _band_bytes(workload, decision) / target.l2_bytes,
            "panel_share_of_l1": panel / target.l1d_bytes,
            "panel_share_of_l2": panel / target.l2_bytes,
            "bands": -(-workload.output[0] // (decision.band * decision.tile_y)),
            "taps": workload.window.taps,
            "cycles_per_flop": self.cycles(workload, decision, target) / workload.flops,
        }

    def cycles(self, workload: Convolution, decision: Decision, target: Target) -> float:
        """Estimate a layer's cycles: multiply-adds and loads, copies, and weights from far."""
        pixels, vectors = decision.tile_y * decision.tile_x, decision.tile_c // decision.lanes
        lanes, types = decision.lanes, workload.types
        per_input = cycles_per_input(target, lanes, pixels, vectors, types)
        if _groups(workload, decision) > 1 and workload.outputs > workload.groups:
            per_input = max(per_input, SHUFFLE_CYCLES * pixels * vectors)
        depth, element = _depth(workload), size_of(types.weights)
        if element * depth * decision.tile_c > target.l1d_bytes:
            # A panel's weights come from the second-level cache for each tile.
            stream = element * decision.tile_c / target.l2_bytes_per_cycle
            per_input = max(per_input, stream) + NOT_HIDDEN * stream
        tiles = _computed(workload, decision) / (2 * depth * pixels * decision.tile_c)
        finish = FINISH_CYCLES * pixels * vectors + TILE_CYCLES
        bands = workload.batch * -(-workload.output[0] // (decision.band * decision.tile_y))
        copied = 0.0
        if _copies(workload, decision):
            copied = _parts(workload, decision) * bands * _band_bytes(workload, decision)
        weights = element * depth * workload.outputs
        far = bands * weights / FAR_BYTES if weights > target.l2_bytes / 2 else 0.0
        panels = -(-workload.outputs // decision.tile_c)
        far += panels * bands * _cycles_to_read(_band_bytes(workload, decision), target)
        return tiles * (depth * per_input + finish) + copied / COPY_BYTES + far


class _Emitter:
    """Emits a convolution.

    Parameters
    ----------
    workload : Convolution
        The layer.
    decision : Decision
        How to compute it.
    target : Target
        The machine.
    """

    def __init__(self, workload: Convolution, decision: Decision, target: Target) -> None:
        self._workload, self._decision, self._target = workload, decision, target
        self._window = workload.window
        self._copies = _copies(workload, decision)
        self._groups = _groups(workload, decision)
        self._panels = -(-workload.outputs // decision.tile_c)
        #: Columns of a row that tiles read, and elements of that row.
        top, left, bottom, right = self._window.padding
        del top, bottom
        self._columns = workload.width + left + right
        self._row = self._columns * workload.inputs
        self._types = workload.types
        pixels = workload.batch * workload.height * workload.width
        self._data = parameter("data", pixels * workload.inputs, self._types.data)
        size = self._panels * _depth(workload) * decision.tile_c
        self._weight = parameter("weight", size, self._types.weights)
        self._finish = Finish(
            workload,
            target,
            workload.outputs,
            self._panels * decision.tile_c,
            int(np.prod(workload.output_shape)),
            interleaved=False,
        )

    def emit(self) -> None:
        """Emit the loop over tasks: some panels of some rows of an image each."""
        workload, decision = self._workload, self._decision
        tiles = workload.output[0] // decision.tile_y
        bands, parts = -(-tiles // decision.band), _parts(workload, decision)
        share = self._panels // parts
        loop = T.parallel if workload.flops >= PARALLEL_FLOPS else T.serial
        with loop(0, workload.batch * bands * parts) as task:
            image = T.bind(task // (bands * parts))
            first = T.bind(task // parts % bands * decision.band)
            count: Any = decision.band
            if tiles % decision.band:
                count = T.bind(T.min(decision.band, tiles - first))
            source, start = self._source(image, first, count)
            with T.serial(0, share) as index:
                panel = T.bind(task % parts * share + index)
                with T.serial(0, count) as step, T.serial(0, self._across) as place:
                    x = T.bind(T.min(place * decision.tile_x, workload.output[1] - decision.tile_x))
                    down, across = self._window.stride
                    corner = step * (decision.tile_y * down) * self._row
                    at = T.bind(start + corner + x * (across * workload.inputs))
                    y = image * workload.output[0] + (first + step) * decision.tile_y
                    self._tile(source, at, panel, T.bind(y * workload.output[1] + x))

    @property
    def _across(self) -> int:
        """Tiles of a row; the last may overlap the one before."""
        return -(-self._workload.output[1] // self._decision.tile_x)

    def _source(self, image: Any, first: Any, count: Any) -> tuple[Any, Any]:
        """Return what tiles read, and where the inputs of the first one begin."""
        workload, decision, down = self._workload, self._decision, self._window.stride[0]
        top = T.bind(first * (decision.tile_y * down) - self._window.padding[0])
        if not self._copies:
            return self._data, T.bind((image * workload.height + top) * self._row)
        most = self._window.inputs(decision.band * decision.tile_y, 1)[0]
        # The last tile may read vectors that begin in the last pixel.
        elements = most * self._row + self._groups - 1
        copy = T.alloc_buffer((elements,), self._types.data, align=64)
        rows = (count * decision.tile_y - 1) * down + self._window.inputs(1, 1)[0]
        with T.serial(0, rows) as row:
            self._copy_row(copy, T.bind(row * self._row), image, T.bind(top + row))
        return copy, 0

    def _copy_row(self, copy: Any, place: Any, image: Any, row: Any) -> None:
        """Emit the copy of a row with its padding."""
        workload, inputs = self._workload, self._workload.inputs
        _, left, _, right = self._window.padding
        size = workload.width * inputs
        source = T.bind((image * workload.height + row) * size)

        def zeros(start: Any, count: int) -> None:
            self._in_vectors(count, lambda at, n: store_zeros(copy, start + at, n))

        with T.If(tirx.all(row >= 0, row < workload.height)):
            with T.Then():
                zeros(place, left * inputs)
                inside = T.bind(place + left * inputs)
                self._in_vectors(
                    size,
                    lambda at, n: store(copy, inside + at, load(self._data, source + at, n), n, n),
                )
                zeros(T.bind(inside + size), right * inputs)
            with T.Else():
                zeros(place, self._row)

    def _in_vectors(self, count: int, emit: Callable[[Any, int], None]) -> None:
        """Emit code for vectors of elements, and one by one for those that are left."""
        lanes = self._target.lanes_of(self._types.data)
        whole = count // lanes
        if whole:
            with T.serial(0, whole) as vector:
                emit(vector * lanes, lanes)
        if count % lanes:
            with T.serial(whole * lanes, count) as element:
                emit(element, 1)

    def _tile(self, source: Any, at: Any, panel: Any, pixel: Any) -> None:
        """Emit a register tile."""
        workload, decision, lanes = self._workload, self._decision, self._decision.lanes
        inputs = _inputs(workload)
        down, across = self._window.stride
        pixels = list(itertools.product(range(decision.tile_y), range(decision.tile_x)))
        steps = [(y * down) * self._row + (x * across) * workload.inputs for y, x in pixels]
        channel = T.bind(panel * decision.tile_c)
        packed = T.bind(channel * (self._window.taps * inputs))
        if workload.groups > 1:
            at = T.bind(at + channel // (workload.outputs // workload.groups) * inputs)
        sums = self._sums(len(pixels), self._types.sums)
        for row in sums:
            for vector in range(len(row)):
                row[vector] = self._finish.start(lanes, channel + vector * lanes)
        products = sums
        if product_type(self._types) != self._types.sums:
            products = self._sums(len(pixels), product_type(self._types))
        run, (height, _) = _run(workload), self._window.kernel
        runs = _depth(workload) // (height * run)
        inner = products_of_part(run, self._types)
        # Products of all rows, of a row, of a run, and of a part of it.
        sizes = (height * runs * run, runs * run, run, inner)
        longest = next((n for n, size in enumerate(sizes) if size <= MOST_PRODUCTS), len(sizes))

        def part(level: int) -> AbstractContextManager[None]:
            apart = products is not sums and level == longest
            return self._part(sums, products) if apart else nullcontext()

        with part(0), T.serial(0, height) as ky, part(1), T.serial(0, runs) as kx, part(2):
            ahead = ky * (self._window.dilation[0] * self._row)
            here = T.bind(at + (ahead + kx * (self._window.dilation[1] * workload.inputs)))
            weights = T.bind(packed + (ky * runs + kx) * (run * decision.tile_c))
            count = inner // decision.unroll
            with T.serial(0, run // inner) as piece, part(3), T.serial(0, count) as index:
                step = piece * count + index
                k = T.bind(here + step * decision.unroll)
                w = T.bind(weights + step * (decision.unroll * decision.tile_c))
                self._multiply(source, [k + offset for offset in steps], w, products)
        outputs = workload.outputs

        def finish(count: int) -> None:
            for (y, x), row in zip(pixels, sums, strict=True):
                place = T.bind((pixel + (y * workload.output[1] + x)) * outputs + channel)
                for vector in range(-(-count // lanes)):
                    there = place + vector * lanes
                    size = min(lanes, count - vector * lanes)

                    def tensor(buffer: Any, there: Any = there, size: int = size) -> Any:
                        return load_some(buffer, there, lanes, size)

                    value = self._finish.apply(lanes, row[vector], channel + vector * lanes, tensor)
                    value = value.astype(vector_type(self._types.result, lanes))
                    store(self._finish.result, there, T.bind(value), lanes, size)

        whole = panel < self._panels - 1
        either(whole, decision.tile_c, outputs % decision.tile_c, outputs, finish)

    def _sums(self, pixels: int, dtype: str) -> list[Vectors]:
        """Return vectors of sums for each pixel of a tile."""
        lanes = self._decision.lanes
        vectors = self._decision.tile_c // lanes
        return [Vectors(vectors, vector_type(dtype, lanes)) for _ in range(pixels)]

    @contextmanager
    def _part(self, sums: list[Vectors], products: list[Vectors]) -> Iterator[None]:
        """Emit sums of products that begin with what is emitted inside, and are then added up."""
        kind = product_type(self._types)
        zero = spread(tirx.const(0, kind), vector_type(kind, self._decision.lanes))
        for row in products:
            for vector in range(len(row)):
                row[vector] = zero
        yield
        for total, row in zip(sums, products, strict=True):
            for vector in range(len(row)):
                total[vector] = total[vector] + row[vector].astype(str(total[vector].ty))

    def _multiply(self, source: Any, pixels: list[Any], weights: Any, sums: list[Vectors]) -> None:
        """Emit the multiply-adds of some inputs of all pixels."""
        workload, decision, lanes = self._workload, self._decision, self._decision.lanes
        if self._groups > 1:
            self._multiply_groups(source, pixels, weights, sums)
            return
        unroll = decision.unroll
        together = self._target.architecture == "aarch64" and unroll == _most_unrolled(workload)
        # ARM multiplies by a lane of a vector, x86 by a value in memory.
        held = [T.bind(load(source, pixel, unroll)) for pixel in pixels] if together else []
        for k in range(decision.unroll):
            places = range(k * decision.tile_c, (k + 1) * decision.tile_c, lanes)
            row = [T.bind(load(self._weight, weights + place, lanes)) for place in places]
            for number, (pixel, total) in enumerate(zip(pixels, sums, strict=True)):
                value = tirx.Shuffle([held[number]], [k]) if together else source[pixel + k]
                wide = tirx.Broadcast(value, lanes) if lanes > 1 else value
                for vector, weight in enumerate(row):
                    total[vector] = total[vector] + wide * weight

    def _multiply_groups(
        self, source: Any, pixels: list[Any], weights: Any, sums: list[Vectors]
    ) -> None:
        """Emit the multiply-adds of the inputs of several groups of all pixels."""
        lanes = self._decision.lanes
        multiplier = self._workload.outputs // self._workload.groups
        for pixel, total in zip(pixels, sums, strict=True):
            held = T.bind(load(source, pixel, self._groups))
            for vector in range(len(total)):
                first = vector * lanes
                places = [place // multiplier for place in range(first, first + lanes)]
                # TVM wants no more places than there are values.
                values = [held] * -(-lanes // self._groups)
                wide = tirx.Shuffle(values, places) if multiplier > 1 else held
                weight = load(self._weight, weights + first, lanes)
                total[vector] = total[vector] + wide * weight


def store_zeros(buffer: Any, place: Any, count: int) -> None:
    """Emit the store of some zeros."""
    zero = tirx.const(0, str(buffer.ty.dtype))
    store(buffer, place, tirx.Broadcast(zero, count) if count > 1 else zero, count, count)


def _most_unrolled(workload: Convolution) -> int:
    """Return how many values are in a vector of 128 bits."""
    return 16 // size_of(workload.types.data)


def _unrolled(workload: Convolution) -> list[int]:
    """Return how many inputs an iteration may take, the most first."""
    inner = products_of_part(_run(workload), workload.types)
    most = _most_unrolled(workload)
    return [count for count in divisors(most, most)[::-1] if inner % count == 0]


def _inputs(workload: Convolution) -> int:
    """Return the inputs of a group."""
    return workload.inputs // workload.groups


def _groups(workload: Convolution, decision: Decision) -> int:
    """Return the groups of a register tile: several only if each has a single input."""
    if workload.groups == 1 or _inputs(workload) > 1:
        return 1
    return max(1, decision.tile_c * workload.groups // workload.outputs)


def _copies(workload: Convolution, decision: Decision) -> bool:
    """Return whether rows are copied: with padding, or to read whole vectors behind the last."""
    return any(workload.window.padding) or workload.groups % _groups(workload, decision) > 0


def _depth(workload: Convolution) -> int:
    """Return the products of an output."""
    return workload.window.taps * _inputs(workload)


def _run(workload: Convolution) -> int:
    """Return how many inputs of a row of the window follow each other in memory."""
    window, inputs = workload.window, _inputs(workload)
    together = workload.groups == 1 and (window.dilation[1] == 1 or window.kernel[1] == 1)
    return window.kernel[1] * inputs if together else inputs


def _computed(workload: Convolution, decision: Decision) -> float:
    """Return the operations of whole tiles."""
    height, width = workload.output
    columns = -(-width // decision.tile_x) * decision.tile_x
    outputs = -(-workload.outputs // decision.tile_c) * decision.tile_c
    return 2.0 * workload.batch * height * columns * outputs * _depth(workload)


def _band_bytes(workload: Convolution, decision: Decision) -> int:
    """Return the bytes of the inputs of a band."""
    rows = workload.window.inputs(decision.band * decision.tile_y, 1)[0]
    _, left, _, right = workload.window.padding
    return size_of(workload.types.data) * rows * (workload.width + left + right) * workload.inputs


def _cycles_to_read(band: int, target: Target) -> float:
    """Return the cycles to read a band that multiply-adds do not hide, by the cache it stays in.

    Each panel of weights reads it. Where it takes much of the second-level cache, what else passes
    through evicts it: on Sapphire Rapids, 1x112x112x32->32 with stride 2 takes 390 us in bands of
    7 rows and 422 us in bands of 28; 1x56x56x48->192, 757 us in bands of 2 rows, 784 us of 7,
    853 us of 14.
    """
    if band <= target.l1d_bytes:
        return 0.0
    if band <= target.l2_bytes / 8:
        return band / (3 * target.l2_bytes_per_cycle)
    return band / (target.l2_bytes_per_cycle if band <= target.l2_bytes / 2 else FAR_BYTES)


def _parts(workload: Convolution, decision: Decision) -> int:
    """Return among how many tasks the panels of a band are divided."""
    if workload.flops < PARALLEL_FLOPS:
        return 1
    bands = workload.batch * -(-workload.output[0] // (decision.band * decision.tile_y))
    panels = -(-workload.outputs // decision.tile_c)
    wanted = -(-MIN_TASKS // bands)
    return next((parts for parts in divisors(panels, panels) if parts >= wanted), panels)


def _tiles(workload: Convolution, target: Target) -> list[tuple[int, int, int, int]]:
    """Return the (lanes, tile_y, tile_x, tile_c) whose sums and operands fit the registers."""
    whole = vector_lanes(workload.types, target)
    (height, width), outputs = workload.output, workload.outputs // workload.groups
    lengths = [whole]
    while (
        lengths[-1] > 1
        and outputs % lengths[-1]
        and (workload.groups > 1 or lengths[-1] * target.vector_bits // whole > 128)
    ):
        lengths.append(lengths[-1] // 2)
    shapes = [
        (lanes, vectors)
        for lanes in lengths
        for vectors in tile_widths(-(-outputs // lanes), MAX_VECTORS)
        if workload.groups == 1 or outputs % (vectors * lanes) == 0
    ]
    if workload.groups > 1 and _inputs(workload) == 1 and outputs % whole:
        shapes += _shapes_of_groups(workload, whole)
    found = []
    for lanes, vectors in shapes:
        # Shuffled inputs need registers as well.
        shuffled = workload.groups > 1 and vectors * lanes > outputs
        most = target.vector_registers // 2 if shuffled else target.vector_registers
        for tile_y, tile_x in itertools.product(divisors(height, 4), range(1, min(width, 28) + 1)):
            pixels = tile_y * tile_x
            whole_rows = tile_y == 1 or tile_x == width
            if whole_rows and pixels * vectors <= most and fits_registers(target, pixels, vectors):
                found.append((lanes, tile_y, tile_x, vectors * lanes))
    return found


def _shapes_of_groups(workload: Convolution, whole: int) -> list[tuple[int, int]]:
    """Return the (lanes, vectors) of tiles over several groups, whose inputs fill a vector."""
    outputs = workload.outputs // workload.groups
    sizes = [1 << power for power in range(1, whole.bit_length()) if 1 << power <= workload.groups]
    return [
        (lanes, groups * outputs // lanes)
        for groups, lanes in itertools.product(sizes, sizes)
        if groups * outputs % lanes == 0
        and 2 * lanes > min(whole, groups * outputs)
        and groups * outputs // lanes <= MAX_VECTORS
    ]


SCHEDULE = DirectConvolution()
