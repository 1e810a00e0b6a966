"""Pointwise convolution and dense on a GPU: a register tile per thread, nothing shared.

A thread multiplies `tile_m` pixels by `tile_n` outputs. Neighbours take the same pixels and the
next outputs: they read the same data, and weights that lie side by side.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import s_tir, te, tirx
from tvm.s_tir.schedule import LoopRV

from mobilenet_tvm.schedules.base import epilogue_stage
from mobilenet_tvm.schedules.gpu.threads import (
    ADDRESS_REGISTERS,
    GROUPS,
    LANES,
    bind_threads,
    copy_in_vectors,
    gpu_of,
    guarded,
    nearest,
    overlapped,
    resident_threads,
    store,
    unroll,
)
from mobilenet_tvm.schedules.workload import Pointwise
from mobilenet_tvm.targets.gpu import Gpu
from mobilenet_tvm.targets.target import Target


@dataclass(frozen=True)
class Decision:
    """How to compute a pointwise layer.

    Parameters
    ----------
    tile_m : int
        Pixels of a thread.
    tile_n : int
        Outputs of a thread: whole vectors of four.
    unroll_k : int
        Inputs per iteration of the innermost loop; divides the inputs.
    group : int
        Threads of a work-group.
    """

    tile_m: int
    tile_n: int
    unroll_k: int
    group: int


def default(workload: Pointwise, target: Target) -> Decision:
    """Choose the decision of the fewest cycles by a model of a unit.

    Parameters
    ----------
    workload : Pointwise
        The layer.
    target : Target
        Its GPU: units, registers, threads, rates.

    Returns
    -------
    Decision
        Always valid for the workload.
    """
    gpu = gpu_of(target)
    candidates = [d for d in decisions(workload, target) if d.group == GROUPS[0]]
    return min(candidates, key=lambda d: (cycles(workload, d, gpu), -d.unroll_k, d.tile_m))


def space(workload: Pointwise, target: Target) -> dict[str, list[Any]]:
    """Return the candidates for each part of a decision."""
    return {
        "tile": _tiles(workload, gpu_of(target)),
        "group": [group for group in GROUPS if group <= gpu_of(target).group_threads],
    }


def valid(workload: Pointwise, decision: Decision, target: Target) -> bool:
    """Tell whether `build` takes a decision."""
    parts = space(workload, target)
    tile = (decision.tile_m, decision.tile_n, decision.unroll_k)
    return tile in parts["tile"] and decision.group in parts["group"]


def decisions(workload: Pointwise, target: Target) -> list[Decision]:
    """Return the valid decisions of the space, each once."""
    parts = space(workload, target)
    return [
        Decision(tile_m, tile_n, unroll_k, group)
        for (tile_m, tile_n, unroll_k), group in itertools.product(parts["tile"], parts["group"])
    ]


def pack(weight: np.ndarray[Any, Any], decision: Decision) -> np.ndarray[Any, Any]:
    """Lay weights out as the schedule reads them.

    Parameters
    ----------
    weight : ndarray
        [inputs, outputs].
    decision : Decision
        Gives the outputs of a thread.

    Returns
    -------
    ndarray
        [tile_n / 4, inputs, outputs / tile_n, 4]: neighbouring threads read neighbouring vectors.
        The last are filled up with zeros.
    """
    inputs, outputs = weight.shape
    vectors = decision.tile_n // LANES
    full = np.pad(weight, ((0, 0), (0, -outputs % decision.tile_n)))
    return np.ascontiguousarray(full.reshape(inputs, -1, vectors, LANES).transpose(2, 0, 1, 3))


def build(workload: Pointwise, decision: Decision, target: Target) -> tirx.PrimFunc:  # noqa: ARG001
    """Return the scheduled function.

    Parameters
    ----------
    workload : Pointwise
        The layer.
    decision : Decision
        How to compute it.
    target : Target
        The same code serves all.

    Returns
    -------
    PrimFunc
        Takes data [pixels, inputs], packed weights, the epilogue's tensors, and the output
        [pixels, outputs].
    """
    pixels, padded = workload.pixels, padded_pixels(workload, decision)
    data = te.placeholder((pixels, workload.inputs), name="data")
    # The last tile computes its last pixel several times, and stores it once.
    weight, operands, result = stages(
        workload, decision, lambda m, k: data[nearest(m, pixels, 0, padded), k]
    )
    sch = s_tir.Schedule(te.create_prim_func([data, weight, *operands, result]))
    threads = schedule(sch, decision, workload.outputs)
    return guarded(sch, threads, thread_count(workload, decision))


def padded_pixels(workload: Pointwise, decision: Decision) -> int:
    """Return the pixels of all tiles, the last one's beyond the picture included."""
    high = decision.tile_m
    return -(-workload.pixels // high) * high


def stages(
    workload: Pointwise, decision: Decision, element: Callable[[Any, Any], Any]
) -> tuple[te.Tensor, list[te.Tensor], te.Tensor]:
    """Return the packed weights, what the epilogue reads, and the result.

    Parameters
    ----------
    workload : Pointwise
        The layer.
    decision : Decision
        How it is computed.
    element : callable
        Gives the input of a pixel and a channel, also of pixels beyond the last.
    """
    pixels, inputs, outputs = workload.pixels, workload.inputs, workload.outputs
    tile_n = decision.tile_n
    rows, panels = padded_pixels(workload, decision), -(-outputs // tile_n)
    weight = te.placeholder((tile_n // LANES, inputs, panels, LANES), name="weight")
    tile_data = te.compute(
        (rows, inputs),
        element,
        name="rows",
    )
    k = te.reduce_axis((0, inputs), name="k")
    product = te.compute(
        (rows, panels * tile_n),
        lambda m, n: te.sum(
            tile_data[m, k] * weight[n % tile_n // LANES, k, n // tile_n, n % LANES], axis=k
        ),
        name="pointwise",
    )
    operands, result = epilogue_stage(
        workload.epilogue, (pixels, outputs), lambda m, n: product[m, n]
    )
    return weight, operands, result


def thread_count(workload: Pointwise, decision: Decision) -> int:
    """Return how many tiles there are, one for each thread."""
    rows = padded_pixels(workload, decision) // decision.tile_m
    return rows * -(-workload.outputs // decision.tile_n)


def schedule(sch: s_tir.Schedule, decision: Decision, outputs: int) -> LoopRV:
    """Schedule the stages; return the loop over a group's threads."""
    product, result = sch.get_sblock("pointwise"), sch.get_sblock("epilogue")
    m, n = sch.get_loops(result)
    m_tiles, m_tile = sch.split(m, [None, decision.tile_m])
    n_tiles, n_vector, n_lane = sch.split(n, [None, decision.tile_n // LANES, LANES])
    sch.reorder(m_tiles, n_tiles, m_tile, n_vector, n_lane)
    sch.compute_at(product, n_tiles, preserve_unit_loops=True)
    threads = bind_threads(sch, [m_tiles, n_tiles], decision.group)
    sch.set_scope(product, 0, "local")

    *_, row, column, k = sch.get_loops(product)
    k_outer, k_inner = sch.split(k, [None, decision.unroll_k])
    vector, lane = sch.split(column, [None, LANES])
    sch.reorder(k_outer, k_inner, row, vector, lane)
    copy_in_vectors(sch, sch.get_sblock("rows"), k_outer)
    copy_in_vectors(sch, sch.cache_read(product, 1, "local"), k_inner)
    unroll(sch, [k_inner, row, vector])
    sch.vectorize(lane)
    init = sch.decompose_reduction(product, k_outer)
    *_, row, vector, lane = sch.get_loops(init)
    unroll(sch, [row, vector])
    sch.vectorize(lane)
    store(sch, [m_tile, n_vector], n_lane, outputs % LANES == 0)
    return threads


def registers(workload: Pointwise, decision: Decision) -> int:  # noqa: ARG001
    """Return what a thread holds: sums, its pixels' inputs, one input's weights, addresses."""
    sums = decision.tile_m * decision.tile_n
    return sums + decision.tile_m * decision.unroll_k + decision.tile_n + ADDRESS_REGISTERS


def cycles(workload: Pointwise, decision: Decision, gpu: Gpu) -> float:
    """Estimate the cycles of a layer.

    Parameters
    ----------
    workload : Pointwise
        The layer.
    decision : Decision
        How it is computed.
    gpu : Gpu
        A unit multiplies, or loads lines for a warp, or waits for loads with too few threads.
    """
    columns = -(-workload.outputs // decision.tile_n)
    warps = -(-workload.pixels // decision.tile_m) * columns / gpu.lockstep
    multiply = decision.tile_m * decision.tile_n * gpu.lockstep / gpu.fma_per_cycle
    # A warp reads a vector of so many pixels, for four inputs, and weights that lie side by side.
    across = min(gpu.lockstep, columns)
    line = gpu.load_bytes_per_cycle
    load_data = decision.tile_m * -(-gpu.lockstep // across) / LANES
    load_weights = decision.tile_n / LANES * max(1.0, 4 * LANES * across / line)
    issue = overlapped(multiply, load_data + load_weights)
    # A last tile of fewer pixels asks before it stores each.
    ragged = 1.05 if workload.pixels % decision.tile_m else 1.0
    busy = ragged * warps * issue * workload.inputs / gpu.units
    # A warp's iteration waits once for its loads, as long as no other warp has work.
    resident = resident_threads(gpu, registers(workload, decision)) / gpu.lockstep
    rounds = max(1.0, warps / gpu.units / resident)
    steps = workload.inputs / decision.unroll_k
    wait = rounds * steps * (gpu.load_latency + decision.unroll_k * issue)
    return overlapped(busy, wait)


def _tiles(workload: Pointwise, gpu: Gpu) -> list[tuple[int, int, int]]:
    """Return (tile_m, tile_n, unroll_k) that fit a thread's registers."""
    pixels, vectors = workload.pixels, -(-workload.outputs // LANES)
    tiles = itertools.product(
        [m for m in (1, 2, 3, 4, 5, 6, 7, 8) if m <= pixels],
        [LANES * count for count in (1, 2, 4) if vectors % count == 0],
        # With one pixel a thread has only the inputs to load ahead.
        [k for k in (1, 2, 4, 8, 16) if workload.inputs % k == 0 and (k <= 8 or pixels == 1)],
    )
    return [
        tile for tile in tiles if registers(workload, Decision(*tile, GROUPS[0])) <= gpu.registers
    ]
