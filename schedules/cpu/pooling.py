"""Global average pooling: vectors of channels, sums in registers while the pixels pass by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tvm import s_tir, te, tirx

from mobilenet_tvm.schedules.base import PARALLEL_FLOPS, divisors, epilogue_stage, keep_in_registers
from mobilenet_tvm.schedules.workloads import GlobalPool
from mobilenet_tvm.targets.target import Target


@dataclass(frozen=True)
class Decision:
    """How to compute a pooling.

    Parameters
    ----------
    tile_c : int
        Channels whose sums are in registers; divides the channels.
    """

    tile_c: int


def default(workload: GlobalPool, target: Target) -> Decision:
    """Choose the widest tile up to eight vectors, enough to hide an addition's latency.

    Parameters
    ----------
    workload : GlobalPool
        The layer.
    target : Target
        Gives the vector width.

    Returns
    -------
    Decision
        Always valid for the workload.
    """
    return Decision(max(space(workload, target)["tile_c"]))


def space(workload: GlobalPool, target: Target) -> dict[str, list[Any]]:
    """Return the candidates for each part of a decision."""
    lanes = math.gcd(workload.channels, target.lanes)
    return {"tile_c": [lanes * count for count in divisors(workload.channels // lanes, 8)]}


def valid(workload: GlobalPool, decision: Decision, target: Target) -> bool:
    """Tell whether `build` takes a decision."""
    return decision.tile_c in space(workload, target)["tile_c"]


def decisions(workload: GlobalPool, target: Target) -> list[Decision]:
    """Return the valid decisions of the space, each once."""
    return [Decision(tile_c) for tile_c in space(workload, target)["tile_c"]]


def build(workload: GlobalPool, decision: Decision, target: Target) -> tirx.PrimFunc:
    """Return the scheduled function.

    Parameters
    ----------
    workload : GlobalPool
        The layer.
    decision : Decision
        How to compute it.
    target : Target
        Gives the vector width.

    Returns
    -------
    PrimFunc
        Takes data [batch, pixels, channels], the epilogue's tensors, and the output
        [batch, channels].
    """
    data = te.placeholder((workload.batch, workload.pixels, workload.channels), name="data")
    pixel = te.reduce_axis((0, workload.pixels), name="pixel")
    shape = (workload.batch, workload.channels)
    total = te.compute(shape, lambda n, c: te.sum(data[n, pixel, c], axis=pixel), name="sum")
    scale = tirx.const(1.0 / workload.pixels, "float32")
    operands, result = epilogue_stage(workload.epilogue, shape, lambda *i: total[i] * scale)
    lanes = math.gcd(workload.channels, target.lanes)
    sch = s_tir.Schedule(te.create_prim_func([data, *operands, result]))
    _schedule(sch, decision, lanes, workload.flops >= PARALLEL_FLOPS)
    return sch.mod["main"]


def _schedule(sch: s_tir.Schedule, decision: Decision, lanes: int, parallel: bool) -> None:
    total, result = sch.get_sblock("sum"), sch.get_sblock("epilogue")
    n, c = sch.get_loops(result)
    tiles, c_vector, c_lane = sch.split(c, [None, decision.tile_c // lanes, lanes])
    outer = sch.fuse(n, tiles)
    if parallel:
        sch.parallel(outer)
    sch.compute_at(total, outer, preserve_unit_loops=True)
    *_, tc, pixel = sch.get_loops(total)
    vector, lane = sch.split(tc, [None, lanes])
    sch.reorder(pixel, vector, lane)
    keep_in_registers(sch, [vector], lane)
    init = sch.decompose_reduction(total, pixel)
    *_, vector, lane = sch.get_loops(init)
    keep_in_registers(sch, [vector], lane)
    keep_in_registers(sch, [c_vector], c_lane)
