"""Depthwise convolution: vectors of channels, an output tile in registers, all taps unrolled."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from mobilenet_tvm.schedules.cpu import windows
from mobilenet_tvm.schedules.cpu.base import CACHE_LINE, function_of, vector_lanes
from mobilenet_tvm.schedules.cpu.registers import fits_stack, tile_features
from mobilenet_tvm.schedules.cpu.windows import Piece, WindowSchedule, ragged_pieces
from mobilenet_tvm.schedules.loops import divisors
from mobilenet_tvm.schedules.stages import Epilogue, padded
from mobilenet_tvm.schedules.workloads import Depthwise, size_of
from mobilenet_tvm.targets.target import Target

#: Cache lines of a pixel to read together, a common divisor of this and of the pixel's lines, where
#: data come from behind the second-level cache: one of each pixel's four lines at a time uses a
#: quarter of the sets. With 64 channels at a time instead of 16, 1x80x80x64 takes 129 us, not 203.
FAR_LINES = 4
#: With at least this many rows, threads split the rows: the adjacent layers split rows too, so a
#: split of the channels would read from the other cores' caches. With two threads, V3-Large and V2
#: took 2.5 % longer when some such layers, tuned with one thread, were split by channels.
MIN_PARALLEL_ROWS = 14
#: Addresses this many bytes apart map to few sets of a first-level cache.
CACHE_SET_SPAN = 1024


@dataclass(frozen=True)
class Decision(windows.Decision):
    """How to compute a depthwise layer."""


class DepthwiseConvolution(WindowSchedule[Depthwise, Decision]):
    """Keeps a tile of rows x columns x channels in registers while iterating over the taps."""

    workload_type = Depthwise
    decision_type = Decision

    def default(self, workload: Depthwise, target: Target) -> Decision:
        """Choose the tile that loads the fewest vectors per output.

        Neighbouring outputs share inputs, and all share the taps. The tile is limited to eight
        outputs, so that the conditions on the border can be hoisted out of it.
        """
        element = size_of(workload.types.data)
        # With a stride, or pixels that map to the same cache sets, a line is evicted before its
        # second half is used.
        conflicts = element * workload.channels % CACHE_SET_SPAN == 0
        whole_lines = max(workload.window.stride) > 1 or conflicts
        together = CACHE_LINE if whole_lines else 0
        lines, rest = divmod(element * workload.channels, CACHE_LINE)
        if target.architecture == "x86_64" and workload.bytes > target.l2_bytes and not rest:
            together = CACHE_LINE * math.gcd(lines, FAR_LINES)

        def lanes(tile_c: int) -> int:
            return pieces_of(workload, tile_c, target)[0].lanes

        def cost(tile: tuple[int, int, int]) -> tuple[float, bool, int]:
            tile_y, tile_x, tile_c = tile
            wanted = max(1, together // element // lanes(tile_c))
            loads = _loads(workload, tile_y, tile_x) * _vector_cycles(workload, tile_c, target)
            ragged = workload.channels % tile_c > 0
            return loads * max(1.0, wanted * lanes(tile_c) / tile_c), ragged, -tile_c

        # Two pieces read some lines twice. From beyond the second-level cache that costs more than
        # half vectors: 80x80x72 took 311 us with these, and 339 in two pieces.
        half = 2 * lanes_of(workload, target) >= vector_lanes(workload.types, target)
        even = half and workload.bytes > target.l2_bytes
        # Half of the registers hold inputs and taps.
        outputs = 8 * max(1, 256 // target.vector_bits)
        accumulators = min(target.vector_registers // 2, outputs)
        tiles = [
            (y, x, c)
            for y, x, c in _tiles(workload, target)
            if y * x <= 8 and y * x * c <= accumulators * lanes(c)
            if not (even and workload.channels % c)
        ]
        return Decision(*min(tiles, key=cost), channels_outside=False)

    def space(self, workload: Depthwise, target: Target) -> dict[str, list[Any]]:
        """Return the candidate values of each part of a decision."""
        outside = [False, True] if workload.output[0] < MIN_PARALLEL_ROWS else [False]
        return {"tile": sorted(_tiles(workload, target)), "channels_outside": outside}

    def valid(self, workload: Depthwise, decision: Decision, target: Target) -> bool:
        """Return whether `build` accepts a decision: pieces of the channels have common rows."""
        tile = (decision.tile_y, decision.tile_x, decision.tile_c)
        whole = workload.channels % decision.tile_c == 0
        return tile in _tiles(workload, target) and (whole or not decision.channels_outside)

    def decisions(self, workload: Depthwise, target: Target) -> list[Decision]:
        """Return the valid decisions in the space, without duplicates."""
        parts = self.space(workload, target)
        return [
            Decision(y, x, c, outside)
            for (y, x, c), outside in itertools.product(parts["tile"], parts["channels_outside"])
            if not outside or workload.channels % c == 0
        ]

    def build(self, workload: Depthwise, decision: Decision, target: Target) -> tirx.PrimFunc:
        """Return a function of data [batch, height, width, channels] and an output in NHWC."""
        pieces = pieces_of(workload, decision.tile_c, target)
        return self.scheduled(workload, decision, pieces, target)

    def function(self, workload: Depthwise, target: Target) -> tirx.PrimFunc:
        """Return the function before it is scheduled."""
        epilogue = Epilogue(workload, workload.output_shape)
        data, weight, total = sums(workload, epilogue)
        result = epilogue.stage(lambda *i: total[i])
        return function_of([data, weight, *epilogue.operands, result], target)

    def features(self, workload: Depthwise, decision: Decision, target: Target) -> dict[str, float]:
        """Describe a decision: the tile, its loads and its share of the caches."""
        lanes, taps = pieces_of(workload, decision.tile_c, target)[0].lanes, workload.window.taps
        vectors = decision.tile_c / lanes
        rows, columns = workload.window.inputs(decision.tile_y, decision.tile_x)
        height, width = workload.output
        element = size_of(workload.types.data)
        outputs = decision.tile_y * decision.tile_x
        outer = workload.channels / decision.tile_c
        if not decision.channels_outside:
            outer = height / decision.tile_y
        return tile_features(outputs, vectors, rows * columns / taps, 1.0, target) | {
            "share_of_lanes": lanes / vector_lanes(workload.types, target),
            "loads_per_output": _loads(workload, decision.tile_y, decision.tile_x),
            "unrolled": outputs * vectors * taps,
            "lines": element * decision.tile_c / CACHE_LINE,
            "row_share_of_l1": element * width * workload.channels * rows / target.l1d_bytes,
            "column_share_of_l1": element * width * decision.tile_c * rows / target.l1d_bytes,
            "tiles_x": width / decision.tile_x,
            "stride": workload.window.stride[0],
            "taps": taps,
            "chunks": workload.batch * outer,
        }

    def cycles(self, workload: Depthwise, decision: Decision, target: Target) -> float:
        """Estimate a decision's cost per output: the larger of its loads and its multiply-adds."""
        loads = _loads(workload, decision.tile_y, decision.tile_x)
        return max(loads, workload.window.taps / target.fma_per_cycle)


def sums(
    workload: Depthwise, epilogue: Epilogue, taps: str = "weight", data: te.Tensor | None = None
) -> tuple[te.Tensor, te.Tensor, te.Tensor]:
    """Return the data, the weights and the sums of a depthwise convolution.

    Parameters
    ----------
    workload : Depthwise
        The layer.
    epilogue : Epilogue
        The steps on the sums.
    taps : str
        Name of the weights.
    data : te.Tensor, optional
        The input, if another stage computes it.
    """
    channels, window = workload.channels, workload.window
    if data is None:
        shape = (workload.batch, workload.height, workload.width, channels)
        data = te.placeholder(shape, workload.types.data, name="data")
    weight = te.placeholder((*window.kernel, channels), workload.types.weights, name=taps)
    source = padded(data, window.padding)
    ry = te.reduce_axis((0, window.kernel[0]), name="ry")
    rx = te.reduce_axis((0, window.kernel[1]), name="rx")
    (stride_y, stride_x), (step_y, step_x) = window.stride, window.dilation

    def product(n: Any, y: Any, x: Any, c: Any) -> Any:
        row, column = y * stride_y + ry * step_y, x * stride_x + rx * step_x
        return epilogue.sum(source[n, row, column, c] * weight[ry, rx, c], [ry, rx], c, channels)

    total = te.compute(workload.output_shape, product, name="depthwise")
    return data, weight, total


def lanes_of(workload: Depthwise, target: Target) -> int:
    """Return the vector length: a divisor of the channels."""
    return math.gcd(workload.channels, vector_lanes(workload.types, target))


def pieces_of(workload: Depthwise, tile_c: int, target: Target) -> list[Piece]:
    """Return the channels as a tile takes them: those that it does not divide in two pieces."""
    if workload.channels % tile_c == 0:
        return [Piece(0, workload.channels, lanes_of(workload, target))]
    return ragged_pieces(workload.channels, vector_lanes(workload.types, target))


def _vector_cycles(workload: Depthwise, tile_c: int, target: Target) -> float:
    """Return the cycles of an instruction on all channels of a pixel."""
    whole = vector_lanes(workload.types, target)
    # Units of half the width issue twice as often, up to two per cycle.
    return sum(
        piece.channels / piece.lanes / min(2, target.fma_per_cycle * whole // piece.lanes)
        for piece in pieces_of(workload, tile_c, target)
    )


def _loads(workload: Depthwise, tile_y: int, tile_x: int) -> float:
    """Return the vectors of inputs and taps that a tile loads per output."""
    rows, columns = workload.window.inputs(tile_y, tile_x)
    return (rows * columns + workload.window.taps) / (tile_y * tile_x)


def _tiles(workload: Depthwise, target: Target) -> list[tuple[int, int, int]]:
    """Return the output tiles whose accumulators, taps and inputs fit the registers."""
    rows, columns = workload.output
    limit = target.vector_registers - 2
    ragged, *rest = ragged_pieces(workload.channels, vector_lanes(workload.types, target))
    even = Piece(0, workload.channels, lanes_of(workload, target))
    return [
        (tile_y, tile_x, vectors * piece.lanes)
        for piece in ([even, ragged] if rest else [even])
        for tile_y in divisors(rows, 4)
        for tile_x in divisors(columns, 14)
        for vectors in divisors(piece.channels // piece.lanes, limit)
        if tile_y * tile_x * vectors <= limit
        and fits_stack(tile_y * tile_x * vectors * piece.lanes, workload.types.sums)
    ]


SCHEDULE = DepthwiseConvolution()
