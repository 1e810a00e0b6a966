"""Pointwise convolution and dense: a register-tiled matrix product on packed weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import s_tir, te, tirx
from tvm.s_tir.schedule import LoopRV

from mobilenet_tvm.schedules.base import Array
from mobilenet_tvm.schedules.base import Decision as BaseDecision
from mobilenet_tvm.schedules.cpu.base import PARALLEL_FLOPS, CpuSchedule, function_of, vector_lanes
from mobilenet_tvm.schedules.cpu.parts import add_parts, products_of_part, sums_of_products
from mobilenet_tvm.schedules.cpu.prefetch import prefetch_next_panel
from mobilenet_tvm.schedules.cpu.registers import (
    cycles_per_input,
    fits_registers,
    fits_stack,
    keep_in_registers,
    load_together,
    sum_in_registers,
    tile_features,
    tile_widths,
    together,
    unrolled_inputs,
)
from mobilenet_tvm.schedules.loops import divisor_at_most, extent
from mobilenet_tvm.schedules.stages import Epilogue
from mobilenet_tvm.schedules.workloads import Pointwise, size_of
from mobilenet_tvm.targets.target import Target

#: Vectors of half a register are used only if they are at least this long.
MIN_VECTOR_BITS = 128


@dataclass(frozen=True)
class Decision(BaseDecision):
    """How to compute a pointwise layer.

    Parameters
    ----------
    lanes : int
        Length of a vector.
    tile_m : int
        Pixels of the register tile.
    tile_n : int
        Outputs of the register tile, whole vectors.
    unroll_k : int
        Inputs per iteration of the innermost loop; divides the inputs.
    block_m : int
        Pixel tiles per cache block: their data stay in cache while all weights are read. At most
        `largest_block`.
    """

    lanes: int
    tile_m: int
    tile_n: int
    unroll_k: int
    block_m: int


class MatrixProduct(CpuSchedule[Pointwise, Decision]):
    """Keeps a tile of pixels x outputs in registers while iterating over the inputs."""

    workload_type = Pointwise
    decision_type = Decision

    def default(self, workload: Pointwise, target: Target) -> Decision:
        """Choose the register tile with the fewest cycles according to a model of the inner loop.

        Per input, a tile of m x n vectors takes m * n multiply-adds, m broadcasts and n loads,
        which an in-order core does not overlap.
        """
        lanes, tile_m, tile_n = best_tile(workload, target)
        tiles = -(-workload.pixels // tile_m)
        part = products_of_part(workload.inputs, workload.types)
        whole = workload.pixels % tile_m == 0
        unroll = unrolled_inputs(part, workload.types, target) if whole else 1
        # A block of data stays in the second-level cache, with a panel and the output, while all
        # weights are read, once per block, from a more distant cache or memory.
        panel_bytes = size_of(workload.types.weights) * workload.inputs * tile_n
        tile_bytes = size_of(workload.types.data) * workload.inputs * tile_m
        fits = (0.75 * target.l2_bytes - panel_bytes) / tile_bytes
        block = divisor_at_most(tiles, min(int(fits), largest_block(workload, tile_m)))
        return Decision(lanes, tile_m, tile_n, unroll, block)

    def space(self, workload: Pointwise, target: Target) -> dict[str, list[Any]]:
        """Return the candidate values of each part of a decision."""
        part = products_of_part(workload.inputs, workload.types)
        most = 2 * together(workload.types, target)
        return {
            "tile": sorted(_tiles(workload, target)),
            "unroll_k": [d for d in sorted({1, 2, 4, 8, most}) if part % d == 0],
            # The last one makes blocks as large as may be.
            "block_m": [1, 4, 16, 64, workload.pixels],
        }

    def valid(self, workload: Pointwise, decision: Decision, target: Target) -> bool:
        """Return whether `build` accepts a decision; any block size is valid."""
        return (
            (decision.lanes, decision.tile_m, decision.tile_n) in _tiles(workload, target)
            and decision.unroll_k in self.space(workload, target)["unroll_k"]
            and 1 <= decision.block_m <= workload.pixels
        )

    def decisions(self, workload: Pointwise, target: Target) -> list[Decision]:
        """Return the valid decisions in the space, without duplicates."""
        parts = self.space(workload, target)
        found: dict[Decision, None] = {}
        for (lanes, tile_m, tile_n), unroll, block in itertools.product(*parts.values()):
            # Unrolled, every iteration would repeat the condition for a partial last tile.
            if unroll == 1 or workload.pixels % tile_m == 0:
                # Full blocks only: a smaller last one would need a second copy of the loops.
                most = min(block, largest_block(workload, tile_m))
                block_m = divisor_at_most(-(-workload.pixels // tile_m), most)
                found[Decision(lanes, tile_m, tile_n, unroll, block_m)] = None
        return list(found)

    def pack(self, weights: Sequence[Array], decision: Decision) -> list[Array]:
        """Return weights [inputs, outputs] in the layout of `in_panels`."""
        (weight,) = weights
        return [in_panels(weight, decision.tile_n)]

    def build(self, workload: Pointwise, decision: Decision, target: Target) -> tirx.PrimFunc:
        """Return a function of data [pixels, inputs] and an output [pixels, outputs]."""
        pixels, inputs, outputs = workload.pixels, workload.inputs, workload.outputs
        tile_m, tile_n = decision.tile_m, decision.tile_n
        types, panels = workload.types, -(-outputs // tile_n)
        data = te.placeholder((pixels, inputs), types.data, name="data")
        weight = te.placeholder((panels, inputs, tile_n), types.weights, name="weight")
        epilogue = Epilogue(workload, (pixels, outputs))
        product = sums_of_products(
            (pixels, panels * tile_n),
            inputs,
            types,
            epilogue,
            lambda m, n, k: data[m, k] * weight[n // tile_n, k, n % tile_n],
        )
        result = epilogue.stage(lambda m, n: product[m, n])
        sch = s_tir.Schedule(function_of([data, weight, *epilogue.operands, result], target))
        group = math.gcd(decision.unroll_k, together(types, target))
        parallel = workload.flops >= PARALLEL_FLOPS
        # Consecutive tiles that use the same panel, which is fetched once.
        uses = min(decision.block_m, largest_block(workload, tile_m))
        outer, inputs_loop = _schedule(sch, decision, uses, parallel, group)
        cached = size_of(types.weights) * inputs * outputs <= target.l1d_bytes
        # An in-order core has no spare issue slots for prefetches, and its hardware prefetcher
        # already follows sequential reads.
        if uses == 1 or cached or target.in_order:
            return sch.mod["main"]
        index = sch.get(outer).loop_var
        return prefetch_next_panel(sch, inputs_loop, index // uses % panels, index % uses, uses)

    def features(self, workload: Pointwise, decision: Decision, target: Target) -> dict[str, float]:
        """Describe a decision: the register tile and the blocks' share of the caches."""
        tile = (decision.lanes, decision.tile_m, decision.tile_n)
        tiles = -(-workload.pixels // decision.tile_m)
        block = min(decision.block_m, largest_block(workload, decision.tile_m))
        rows = block * decision.tile_m
        read = size_of(workload.types.data) * rows * workload.inputs
        written = size_of(workload.types.result) * rows * workload.outputs
        return product_features(workload, tile, target) | {
            "block_share_of_l1": read / target.l1d_bytes,
            "block_share_of_l2": (read + written) / target.l2_bytes,
            "blocks": tiles / block,
            "iterations": workload.inputs / decision.unroll_k,
            "unrolled": decision.unroll_k * decision.tile_m * decision.tile_n / decision.lanes,
        }

    def cycles(self, workload: Pointwise, decision: Decision, target: Target) -> float:
        """Estimate a layer's cycles from its register tile."""
        return tile_cycles(workload, target, decision.lanes, decision.tile_m, decision.tile_n)


def largest_block(workload: Pointwise, tile_m: int) -> int:
    """Return the most pixel tiles of a cache block: all, or half of them.

    With all pixels in one block, threads divide the outputs, and the next layer, whose threads
    divide rows, reads half of its data from another core's cache. In halves, each thread reads all
    weights, which pays where these are less than what moves: V2 on two cores takes 0.95 of the
    time.

    Parameters
    ----------
    workload : Pointwise
        The layer.
    tile_m : int
        Pixels of a tile.
    """
    tiles, types = -(-workload.pixels // tile_m), workload.types
    weights = size_of(types.weights) * workload.inputs * workload.outputs
    read = size_of(types.data) * workload.inputs
    written = size_of(types.result) * workload.outputs
    half = divisor_at_most(tiles, max(1, tiles // 2))
    # Many small blocks would read the weights too often.
    pays = weights <= workload.pixels * (read + written) and 4 * half >= tiles
    return half if pays else tiles


def in_panels(weight: Array, tile_n: int) -> Array:
    """Pack weights in the order in which the inner loop reads them.

    Parameters
    ----------
    weight : ndarray
        [inputs, outputs].
    tile_n : int
        Outputs of a panel.

    Returns
    -------
    ndarray
        [outputs / tile_n, inputs, tile_n], the last panel zero-padded.
    """
    inputs, outputs = weight.shape
    full = np.pad(weight, ((0, 0), (0, -outputs % tile_n)))
    return np.ascontiguousarray(full.reshape(inputs, -1, tile_n).transpose(1, 0, 2))


def _schedule(
    sch: s_tir.Schedule, decision: Decision, block: int, parallel: bool, group: int
) -> tuple[LoopRV, LoopRV]:
    """Schedule the function; return the loop over all tiles and the outer loop over inputs."""
    product, result = sch.get_sblock("pointwise"), sch.get_sblock("epilogue")
    m, n = sch.get_loops(result)
    n_panel, n_tile = sch.split(n, [None, decision.tile_n])
    m_tiles, m_tile = sch.split(m, [None, decision.tile_m])
    if block < extent(sch, m_tiles):
        m_block, m_inner = sch.split(m_tiles, [None, block])
        sch.reorder(m_block, n_panel, m_inner, m_tile, n_tile)
        outer = sch.fuse(m_block, n_panel, m_inner)
    else:
        sch.reorder(n_panel, m_tiles, m_tile, n_tile)
        outer = sch.fuse(n_panel, m_tiles)
    # A single loop over all tiles, so that the threads' shares differ by at most one tile.
    if parallel:
        sch.parallel(outer)
    part = add_parts(sch, product, outer, decision.lanes)

    *_, row, column, k = sch.get_loops(product)
    k_outer, k_inner = sch.split(k, [None, decision.unroll_k])
    sch.reorder(k_outer, k_inner, row, column)
    unrolled = load_together(sch, product, k_inner, group)
    sum_in_registers(sch, product, k_outer, unrolled, [row, column], decision.lanes)
    vector, lane = sch.split(n_tile, [None, decision.lanes])
    keep_in_registers(sch, [m_tile, vector], lane)
    return outer, part or k_outer


def best_tile(
    workload: Pointwise, target: Target, columns: int | None = None
) -> tuple[int, int, int]:
    """Return the (lanes, tile_m, tile_n) with the fewest cycles in the model of the inner loop.

    Parameters
    ----------
    workload : Pointwise
        The layer.
    target : Target
        Registers, ports and latency.
    columns : int, optional
        A width that `tile_m` must divide.
    """
    tiles = [
        (lanes, tile_m, tile_n)
        for lanes, tile_m, tile_n in _tiles(workload, target)
        if columns is None or columns % tile_m == 0
    ]
    return min(tiles, key=lambda tile: tile_cycles(workload, target, *tile))


def _tiles(workload: Pointwise, target: Target) -> list[tuple[int, int, int]]:
    """Return the (lanes, tile_m, tile_n) whose accumulators and operands fit the registers."""
    # Half a vector divides some channel counts that a full one does not.
    whole = vector_lanes(workload.types, target)
    lengths = [whole]
    if workload.outputs % whole and target.vector_bits > MIN_VECTOR_BITS:
        lengths.append(whole // 2)
    # A layer with one pixel can hide latency only across its outputs.
    widest = 16 if workload.pixels == 1 else 4
    return [
        (lanes, tile_m, vectors * lanes)
        for lanes in lengths
        for vectors in tile_widths(-(-workload.outputs // lanes), widest)
        for tile_m in range(1, min(workload.pixels, 14) + 1)
        if fits_registers(target, tile_m, vectors)
        and fits_stack(tile_m * vectors * lanes, workload.types.sums)
    ]


def tile_cycles(workload: Pointwise, target: Target, lanes: int, tile_m: int, tile_n: int) -> float:
    """Estimate a layer's cycles with a register tile of `lanes`-wide vectors."""
    vectors = tile_n // lanes
    # A partial last tile takes as long as a full one, and needs a condition.
    tiles = -(-workload.pixels // tile_m) * -(-workload.outputs // tile_n)
    ragged = 1.05 if workload.pixels % tile_m else 1.0
    per_input = cycles_per_input(target, lanes, tile_m, vectors, workload.types)
    # Each tile clears its accumulators, applies the epilogue and stores them once.
    return ragged * tiles * (workload.inputs * per_input + 3 * tile_m * vectors + 10)


def product_features(
    workload: Pointwise, tile: tuple[int, int, int], target: Target
) -> dict[str, float]:
    """Describe a matrix product by its register tile: lanes, pixels, outputs."""
    lanes, tile_m, tile_n = tile
    vectors = tile_n / lanes
    tiles_m, tiles_n = -(-workload.pixels // tile_m), -(-workload.outputs // tile_n)
    computed = tiles_m * tile_m * tiles_n * tile_n
    panel = size_of(workload.types.weights) * workload.inputs * tile_n
    rows = size_of(workload.types.data) * workload.inputs * tile_m
    return tile_features(tile_m, vectors, tile_m, vectors, target) | {
        "share_of_lanes": lanes / vector_lanes(workload.types, target),
        "wasted": computed / (workload.pixels * workload.outputs) - 1,
        "ragged": workload.pixels % tile_m / tile_m,
        "panel_share_of_l1": panel / target.l1d_bytes,
        "rows_share_of_l1": rows / target.l1d_bytes,
        "panels": tiles_n,
        "chunks": tiles_m * tiles_n,
        "cycles_per_flop": tile_cycles(workload, target, *tile) / workload.flops,
    }


SCHEDULE = MatrixProduct()
