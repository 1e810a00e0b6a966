"""Pointwise convolution and dense on integers: a register tile of dot products."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T  # noqa: N812

from mobilenet_tvm.schedules.base import Array
from mobilenet_tvm.schedules.base import Decision as BaseDecision
from mobilenet_tvm.schedules.cpu.base import PARALLEL_FLOPS
from mobilenet_tvm.schedules.cpu.dot import DOTS, Dot, dots_of
from mobilenet_tvm.schedules.cpu.emit import either, load, parameter
from mobilenet_tvm.schedules.cpu.finish import Finish, finish_tile
from mobilenet_tvm.schedules.cpu.integer.base import (
    IntegerSchedule,
    copy_row,
    depth_of,
    in_order,
    is_interleaved,
    multiply,
    pack_panels,
)
from mobilenet_tvm.schedules.cpu.registers import tile_features, tile_widths
from mobilenet_tvm.schedules.loops import divisor_at_most
from mobilenet_tvm.schedules.workloads import Pointwise, size_of
from mobilenet_tvm.targets.target import Target

#: Parts of the work, where threads cannot divide it by tiles.
MIN_TASKS = 8
#: Parts of the work, where threads divide it by tiles, if that many tiles share weights.
MAX_TASKS = 64
#: Cycles to begin a tile.
TILE_CYCLES = 12


@dataclass(frozen=True)
class Decision(BaseDecision):
    """How to compute an integer pointwise layer.

    Parameters
    ----------
    dot : str
        The instruction set, in whose order weights are packed.
    tile_m : int
        Pixels of the register tile.
    tile_n : int
        Outputs of the register tile, whole vectors; divides the padded outputs.
    block_m : int
        Pixel tiles per cache block: their data stay in cache while all weights are read.
    interleaved : bool
        Whether sums are in the order of `Dot.order`; determined by the layer.
    """

    dot: str
    tile_m: int
    tile_n: int
    block_m: int
    interleaved: bool


class IntegerProduct(IntegerSchedule[Pointwise, Decision]):
    """Keeps a tile of pixels x outputs in registers while iterating over groups of inputs."""

    workload_type = Pointwise
    decision_type = Decision

    def default(self, workload: Pointwise, target: Target) -> Decision:
        """Choose the register tile with the fewest cycles in a model of the inner loop."""
        dot = dots_of(target, workload.types)[0]
        tile = min(_tiles(workload, target), key=lambda tile: _cycles(workload, dot, *tile))
        tiles = -(-workload.pixels // tile[0])
        # A block of data stays in the second-level cache while all weights are read, or in the
        # first-level one where it is a copy: 280x1024x96 on AVX2 took 671 us so, and takes 508.
        size = 2 if dot.widened else size_of(workload.types.data)
        cache = target.l1d_bytes if dot.widened else target.l2_bytes
        block = int(0.5 * cache / (size * workload.inputs * tile[0]))
        return self._decision(workload, target, tile, block, tiles)

    @staticmethod
    def _decision(
        workload: Pointwise, target: Target, tile: tuple[int, int], block: int, tiles: int
    ) -> Decision:
        dot = dots_of(target, workload.types)[0]
        return Decision(
            dot.name,
            tile[0],
            tile[1] * dot.lanes,
            divisor_at_most(tiles, block),
            is_interleaved(workload),
        )

    def space(self, workload: Pointwise, target: Target) -> dict[str, list[Any]]:
        """Return the candidate values of each part of a decision."""
        return {"tile": _tiles(workload, target), "block_m": [1, 4, 16, 64, workload.pixels]}

    def valid(self, workload: Pointwise, decision: Decision, target: Target) -> bool:
        """Return whether `build` accepts a decision."""
        dot = dots_of(target, workload.types)[0]
        tile = (decision.tile_m, decision.tile_n // dot.lanes)
        return (
            (decision.dot, decision.interleaved) == (dot.name, is_interleaved(workload))
            and decision.tile_n % dot.lanes == 0
            and tile in _tiles(workload, target)
            and decision.block_m >= 1
            and -(-workload.pixels // decision.tile_m) % decision.block_m == 0
        )

    def decisions(self, workload: Pointwise, target: Target) -> list[Decision]:
        """Return the valid decisions in the space, without duplicates."""
        found: dict[Decision, None] = {}
        for tile, block in itertools.product(*self.space(workload, target).values()):
            tiles = -(-workload.pixels // tile[0])
            found[self._decision(workload, target, tile, block, tiles)] = None
        return list(found)

    def pack(self, weights: Sequence[Array], decision: Decision) -> list[Array]:
        """Return weights [inputs, outputs] as [panels, groups, vectors of the instruction set]."""
        (weight,) = weights
        return [pack_panels(weight, DOTS[decision.dot], decision.tile_n, decision.interleaved)]

    def arrange(self, operand: Array, decision: Decision, part: int = 0) -> Array:  # noqa: ARG002
        """Return values of the outputs, the last axis, padded and in the order of the sums."""
        return in_order(operand, DOTS[decision.dot], decision.tile_n, decision.interleaved)

    def emit(self, workload: Pointwise, decision: Decision, target: Target) -> None:
        """Emit data [pixels, inputs], packed weights, the epilogue's operands, and the output."""
        dot = DOTS[decision.dot]
        pixels, inputs, outputs = workload.pixels, workload.inputs, workload.outputs
        tile_m, tile_n, block = decision.tile_m, decision.tile_n, decision.block_m
        panels, depth = -(-outputs // tile_n), depth_of(workload.inputs, dot)
        data = parameter("data", pixels * inputs, workload.types.data)
        weight = parameter("weight", panels * depth * tile_n, workload.types.weights)
        finish = Finish(
            workload,
            target,
            outputs,
            panels * tile_n,
            pixels * outputs,
            decision.interleaved,
        )
        vectors = tile_n // dot.lanes
        tiles = -(-pixels // tile_m)

        def tile(panel: Any, number: Any, source: Any, first: Any) -> None:
            """Emit a register tile, whose first pixel is the given row of the source."""
            # Bound to variables, addresses are short expressions.
            channel, start = T.bind(panel * tile_n), T.bind(first * depth)
            packed, place = T.bind(channel * depth), T.bind(number * (tile_m * outputs) + channel)

            def of_rows(rows: int) -> None:
                sums = multiply(
                    dot,
                    (rows, vectors),
                    depth,
                    lambda row, k, count: load(source, start + (k + row * depth), count),
                    lambda k, at, count: load(weight, packed + (k * tile_n + at), count),
                    lambda vector: finish.start(dot.lanes, channel + vector * dot.lanes),
                )
                whole = panel < panels - 1
                finish_tile(dot, finish, sums, whole, channel, place, outputs)

            either(number < pixels // tile_m, tile_m, pixels % tile_m, pixels, of_rows)

        loop = T.parallel if workload.flops >= PARALLEL_FLOPS else T.serial
        if not dot.widened and depth == inputs:
            # A task's tiles share a panel, whose addresses are then computed once.
            share = 1
            if dot.many_tiles:
                share = divisor_at_most(block, max(1, panels * tiles // MAX_TASKS))
            shares = block // share
            with loop(0, panels * tiles // share) as task:
                panel = T.bind(task // shares % panels)
                start = T.bind(task // (shares * panels) * block + task % shares * share)
                if share == 1:
                    tile(panel, start, data, start * tile_m)
                    return
                with T.serial(0, share) as index:
                    tile(panel, start + index, data, (start + index) * tile_m)
            return
        # The rows of a block are first copied: widened, or padded to whole groups.
        blocks = tiles // block
        parts = divisor_at_most(panels, -(-MIN_TASKS // blocks))
        dtype = "int16" if dot.widened else workload.types.data
        with loop(0, blocks * parts) as task:
            copy = T.alloc_buffer((block * tile_m * depth,), dtype)
            start = T.bind(task // parts * block)
            with T.serial(0, block * tile_m) as row:
                source = T.bind(T.min(start * tile_m + row, pixels - 1))
                copy_row(data, source * inputs, inputs, copy, row * depth, depth, dot.lanes)
            with T.serial(0, panels // parts) as part:
                panel = T.bind(task % parts * (panels // parts) + part)
                with T.serial(0, block) as number:
                    tile(panel, start + number, copy, number * tile_m)

    def features(self, workload: Pointwise, decision: Decision, target: Target) -> dict[str, float]:
        """Describe a decision: the register tile and the blocks' share of the caches."""
        dot = dots_of(target, workload.types)[0]
        rows, vectors = decision.tile_m, decision.tile_n // dot.lanes
        tiles = -(-workload.pixels // rows)
        panels = -(-workload.outputs // decision.tile_n)
        depth = depth_of(workload.inputs, dot)
        block = min(decision.block_m, tiles) * rows
        data, weights = size_of(workload.types.data), size_of(workload.types.weights)
        computed = tiles * rows * panels * decision.tile_n
        return tile_features(rows, vectors, rows, vectors, target) | {
            "wasted": computed / (workload.pixels * workload.outputs) - 1,
            "ragged": workload.pixels % rows / rows,
            "panel_share_of_l1": weights * depth * decision.tile_n / target.l1d_bytes,
            "rows_share_of_l1": data * depth * rows / target.l1d_bytes,
            "block_share_of_l1": data * block * depth / target.l1d_bytes,
            "block_share_of_l2": block * (data * depth + workload.outputs) / target.l2_bytes,
            "blocks": tiles / decision.block_m,
            "panels": panels,
            "iterations": depth / dot.group,
            "cycles_per_flop": _cycles(workload, dot, rows, vectors) / workload.flops,
        }

    def cycles(self, workload: Pointwise, decision: Decision, target: Target) -> float:
        """Estimate a layer's cycles from its register tile."""
        dot = dots_of(target, workload.types)[0]
        return _cycles(workload, dot, decision.tile_m, decision.tile_n // dot.lanes)


def _tiles(workload: Pointwise, target: Target) -> list[tuple[int, int]]:
    """Return the (pixels, vectors) of register tiles whose sums and operands fit the registers."""
    dot = dots_of(target, workload.types)[0]
    vectors = -(-workload.outputs // dot.lanes)
    widest = 16 if workload.pixels == 1 else 6
    return [
        (rows, wide)
        for wide in tile_widths(vectors, widest)
        for rows in range(1, min(workload.pixels, 16) + 1)
        if dot.registers(rows, wide) <= target.vector_registers
    ]


def _cycles(workload: Pointwise, dot: Dot, rows: int, vectors: int) -> float:
    """Estimate a layer's cycles with a register tile."""
    tiles = -(-workload.pixels // rows) * -(-workload.outputs // (vectors * dot.lanes))
    per_group = dot.cycles(rows, vectors)
    groups = -(-workload.inputs // dot.group)
    ragged = 1.03 if workload.pixels % rows else 1.0
    return ragged * tiles * (groups * per_group + dot.finish_cycles(rows, vectors) + TILE_CYCLES)


SCHEDULE = IntegerProduct()
