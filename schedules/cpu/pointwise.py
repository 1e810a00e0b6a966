"""Pointwise convolution and dense: a register-tiled matrix product on packed weights."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import s_tir, te, tirx
from tvm.s_tir.schedule import LoopRV

from mobilenet_tvm.schedules.base import Array
from mobilenet_tvm.schedules.base import Decision as BaseDecision
from mobilenet_tvm.schedules.cpu.base import PARALLEL_FLOPS, CpuSchedule
from mobilenet_tvm.schedules.cpu.prefetch import prefetch_next_panel
from mobilenet_tvm.schedules.cpu.registers import (
    fits_stack,
    keep_in_registers,
    load_in_pairs,
    sum_in_registers,
    tile_features,
)
from mobilenet_tvm.schedules.loops import divisor_at_most
from mobilenet_tvm.schedules.stages import epilogue_stage
from mobilenet_tvm.schedules.workloads import Pointwise, size_of
from mobilenet_tvm.targets.target import Target

#: The shortest vector that is worth half a register: 128 bits.
SHORTEST_VECTOR = 128
#: Bytes that an in-order core loads in a cycle.
IN_ORDER_LOAD = 8


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
        Outputs of the register tile, whole vectors; divides the outputs, filled up.
    unroll_k : int
        Inputs per iteration of the innermost loop; divides the inputs.
    block_m : int
        Pixel tiles per cache block: as many stay in cache while all weights pass by.
    """

    lanes: int
    tile_m: int
    tile_n: int
    unroll_k: int
    block_m: int


class MatrixProduct(CpuSchedule[Pointwise, Decision]):
    """A tile of pixels x outputs in registers while the inputs pass by."""

    workload_type = Pointwise
    decision_type = Decision

    def default(self, workload: Pointwise, target: Target) -> Decision:
        """Choose the register tile with the fewest cycles by a model of the inner loop.

        Per input, a tile of m x n vectors takes m * n multiply-adds, m broadcasts and n loads. An
        in-order core does not do them at the same time.
        """
        lanes, tile_m, tile_n = best_tile(workload, target)
        tiles = -(-workload.pixels // tile_m)
        unroll = 4 if workload.inputs % 4 == 0 and workload.pixels % tile_m == 0 else 1
        # A block of data stays in the second-level cache, beside a panel and what is written,
        # while all weights pass by: they come from farther away, once per block.
        panel_bytes = size_of(workload.types.weights) * workload.inputs * tile_n
        tile_bytes = size_of(workload.types.data) * workload.inputs * tile_m
        fits = (0.75 * target.l2_bytes - panel_bytes) / tile_bytes
        block = divisor_at_most(tiles, int(fits))
        return Decision(lanes, tile_m, tile_n, unroll, block)

    def space(self, workload: Pointwise, target: Target) -> dict[str, list[Any]]:
        """Return the candidates for each part of a decision."""
        return {
            "tile": sorted(_tiles(workload, target)),
            "unroll_k": [d for d in (1, 2, 4, 8) if workload.inputs % d == 0],
            # As many as all pixels: one block.
            "block_m": [1, 4, 16, 64, workload.pixels],
        }

    def valid(self, workload: Pointwise, decision: Decision, target: Target) -> bool:
        """Tell whether `build` takes a decision; it takes any block."""
        return (
            (decision.lanes, decision.tile_m, decision.tile_n) in _tiles(workload, target)
            and decision.unroll_k in self.space(workload, target)["unroll_k"]
            and 1 <= decision.block_m <= workload.pixels
        )

    def decisions(self, workload: Pointwise, target: Target) -> list[Decision]:
        """Return the valid decisions of the space, each once."""
        parts = self.space(workload, target)
        found: dict[Decision, None] = {}
        for (lanes, tile_m, tile_n), unroll, block in itertools.product(*parts.values()):
            # The condition of a ragged last tile, unrolled, would stand in every iteration.
            if unroll == 1 or workload.pixels % tile_m == 0:
                # Whole blocks only: a last, smaller one would be a second copy of the loops.
                block_m = divisor_at_most(-(-workload.pixels // tile_m), block)
                found[Decision(lanes, tile_m, tile_n, unroll, block_m)] = None
        return list(found)

    def pack(self, weights: Sequence[Array], decision: Decision) -> list[Array]:
        """Return weights [inputs, outputs] as `in_panels` lays them out."""
        (weight,) = weights
        return [in_panels(weight, decision.tile_n)]

    def build(self, workload: Pointwise, decision: Decision, target: Target) -> tirx.PrimFunc:
        """Return a function of data [pixels, inputs] and an output [pixels, outputs]."""
        pixels, inputs, outputs = workload.pixels, workload.inputs, workload.outputs
        tile_m, tile_n = decision.tile_m, decision.tile_n
        types, panels = workload.types, -(-outputs // tile_n)
        data = te.placeholder((pixels, inputs), types.data, name="data")
        weight = te.placeholder((panels, inputs, tile_n), types.weights, name="weight")
        k = te.reduce_axis((0, inputs), name="k")
        product = te.compute(
            (pixels, panels * tile_n),
            lambda m, n: te.sum(data[m, k] * weight[n // tile_n, k, n % tile_n], axis=k),
            name="pointwise",
        )
        operands, result = epilogue_stage(workload, (pixels, outputs), lambda m, n: product[m, n])
        sch = s_tir.Schedule(te.create_prim_func([data, weight, *operands, result]))
        tiles = -(-pixels // tile_m)
        pairs = target.architecture == "aarch64" and decision.unroll_k % 2 == 0
        parallel = workload.flops >= PARALLEL_FLOPS
        outer, inputs_loop = _schedule(sch, decision, tiles, parallel, pairs)
        # The tiles that use a panel one after the other; each is read from far away once.
        uses = min(decision.block_m, tiles)
        cached = size_of(types.weights) * inputs * outputs <= target.l1d_bytes
        # An in-order core has no cycle to spare for it, and fetches what is read in order by
        # itself.
        if uses == 1 or cached or target.in_order:
            return sch.mod["main"]
        index = sch.get(outer).loop_var
        return prefetch_next_panel(sch, inputs_loop, index // uses % panels, index % uses, uses)

    def features(self, workload: Pointwise, decision: Decision, target: Target) -> dict[str, float]:
        """Describe a decision: the register tile, and the blocks' share of the caches."""
        tile = (decision.lanes, decision.tile_m, decision.tile_n)
        tiles = -(-workload.pixels // decision.tile_m)
        rows = min(decision.block_m, tiles) * decision.tile_m
        read = size_of(workload.types.data) * rows * workload.inputs
        written = size_of(workload.types.result) * rows * workload.outputs
        return product_features(workload, tile, target) | {
            "block_share_of_l1": read / target.l1d_bytes,
            "block_share_of_l2": (read + written) / target.l2_bytes,
            "blocks": tiles / decision.block_m,
            "iterations": workload.inputs / decision.unroll_k,
            "unrolled": decision.unroll_k * decision.tile_m * decision.tile_n / decision.lanes,
        }

    def cycles(self, workload: Pointwise, decision: Decision, target: Target) -> float:
        """Estimate a layer's cycles from its register tile."""
        return tile_cycles(workload, target, decision.lanes, decision.tile_m, decision.tile_n)


def in_panels(weight: Array, tile_n: int) -> Array:
    """Lay weights out as the inner loop reads them.

    Parameters
    ----------
    weight : ndarray
        [inputs, outputs].
    tile_n : int
        Outputs of a panel.

    Returns
    -------
    ndarray
        [outputs / tile_n, inputs, tile_n], the last panel filled up with zeros.
    """
    inputs, outputs = weight.shape
    full = np.pad(weight, ((0, 0), (0, -outputs % tile_n)))
    return np.ascontiguousarray(full.reshape(inputs, -1, tile_n).transpose(1, 0, 2))


def _schedule(
    sch: s_tir.Schedule, decision: Decision, tiles: int, parallel: bool, pairs: bool
) -> tuple[LoopRV, LoopRV]:
    """Return the loop over all tiles, and the outer one over a tile's inputs."""
    product, result = sch.get_sblock("pointwise"), sch.get_sblock("epilogue")
    m, n = sch.get_loops(result)
    n_panel, n_tile = sch.split(n, [None, decision.tile_n])
    m_tiles, m_tile = sch.split(m, [None, decision.tile_m])
    if decision.block_m < tiles:
        m_block, m_inner = sch.split(m_tiles, [None, decision.block_m])
        sch.reorder(m_block, n_panel, m_inner, m_tile, n_tile)
        outer = sch.fuse(m_block, n_panel, m_inner)
    else:
        sch.reorder(n_panel, m_tiles, m_tile, n_tile)
        outer = sch.fuse(n_panel, m_tiles)
    # One loop over all tiles, so that the threads' shares differ by one tile at most.
    if parallel:
        sch.parallel(outer)
    sch.compute_at(product, outer, preserve_unit_loops=True)

    *_, row, column, k = sch.get_loops(product)
    k_outer, k_inner = sch.split(k, [None, decision.unroll_k])
    sch.reorder(k_outer, k_inner, row, column)
    unrolled = load_in_pairs(sch, product, k_inner) if pairs else [k_inner]
    sum_in_registers(sch, product, k_outer, unrolled, [row, column], decision.lanes)
    vector, lane = sch.split(n_tile, [None, decision.lanes])
    keep_in_registers(sch, [m_tile, vector], lane)
    return outer, k_outer


def best_tile(
    workload: Pointwise, target: Target, columns: int | None = None
) -> tuple[int, int, int]:
    """Return (lanes, tile_m, tile_n) of the fewest cycles by the model of the inner loop.

    Parameters
    ----------
    workload : Pointwise
        The layer.
    target : Target
        Registers, ports and latency.
    columns : int, optional
        A width that `tile_m` has to divide.
    """
    tiles = [
        (lanes, tile_m, tile_n)
        for lanes, tile_m, tile_n in _tiles(workload, target)
        if columns is None or columns % tile_m == 0
    ]
    return min(tiles, key=lambda tile: tile_cycles(workload, target, *tile))


def _tiles(workload: Pointwise, target: Target) -> list[tuple[int, int, int]]:
    """Return (lanes, tile_m, tile_n) that fit: accumulators, one vector of each operand."""
    sums = workload.types.sums
    # Half a vector fits some channels that a whole one does not.
    whole = target.lanes_of(sums)
    lengths = [whole]
    if workload.outputs % whole and target.vector_bits > SHORTEST_VECTOR:
        lengths.append(whole // 2)
    # A layer of one pixel has only its outputs to hide the latency behind.
    widest = 16 if workload.pixels == 1 else 4
    tiles = itertools.product(lengths, range(1, widest + 1), range(1, min(workload.pixels, 14) + 1))
    return [
        (lanes, tile_m, vectors * lanes)
        for lanes, vectors, tile_m in tiles
        if -(-workload.outputs // lanes) % vectors == 0
        and tile_m * vectors + vectors + _scalars(target, tile_m) <= target.vector_registers
        and fits_stack(tile_m * vectors * lanes, sums)
    ]


def _scalars(target: Target, tile_m: int) -> int:
    """Return the registers for a tile's data: FMLA takes an element of one, x86 broadcasts.

    Two more let LLVM load ahead; without them it spills in some loops.
    """
    return tile_m + 2 if target.architecture == "aarch64" else 1


def tile_cycles(workload: Pointwise, target: Target, lanes: int, tile_m: int, tile_n: int) -> float:
    """Estimate a layer's cycles with a register tile of `lanes`-wide vectors."""
    vectors = tile_n // lanes
    # Units of half the width start twice as often, up to two a cycle.
    rate = min(2, target.fma_per_cycle * target.lanes_of(workload.types.sums) // lanes)
    # A last tile with fewer pixels takes as long as a whole one, and leaves a condition behind.
    tiles = -(-workload.pixels // tile_m) * -(-workload.outputs // tile_n)
    ragged = 1.05 if workload.pixels % tile_m else 1.0
    multiply = max(tile_m * vectors / rate, target.fma_latency)
    if target.in_order:
        data, weights = size_of(workload.types.data), size_of(workload.types.weights)
        per_input = multiply + (data * tile_m + weights * tile_n) / IN_ORDER_LOAD
    else:
        per_input = max(multiply, (tile_m + vectors) / 2)
    # Each tile clears, finishes and stores its accumulators once.
    return ragged * tiles * (workload.inputs * per_input + 3 * tile_m * vectors + 10)


def product_features(
    workload: Pointwise, tile: tuple[int, int, int], target: Target
) -> dict[str, float]:
    """Describe a product by its register tile: lanes, pixels, outputs."""
    lanes, tile_m, tile_n = tile
    vectors = tile_n / lanes
    tiles_m, tiles_n = -(-workload.pixels // tile_m), -(-workload.outputs // tile_n)
    computed = tiles_m * tile_m * tiles_n * tile_n
    panel = size_of(workload.types.weights) * workload.inputs * tile_n
    rows = size_of(workload.types.data) * workload.inputs * tile_m
    return tile_features(tile_m, vectors, tile_m, vectors, target) | {
        "share_of_lanes": lanes / target.lanes_of(workload.types.sums),
        "wasted": computed / (workload.pixels * workload.outputs) - 1,
        "ragged": workload.pixels % tile_m / tile_m,
        "panel_share_of_l1": panel / target.l1d_bytes,
        "rows_share_of_l1": rows / target.l1d_bytes,
        "panels": tiles_n,
        "chunks": tiles_m * tiles_n,
        "cycles_per_flop": tile_cycles(workload, target, *tile) / workload.flops,
    }


SCHEDULE = MatrixProduct()
