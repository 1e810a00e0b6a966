"""Global average pooling: vectors of channels, accumulated in registers over the pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tvm import s_tir, te, tirx

from mobilenet_tvm.schedules.base import Decision as BaseDecision
from mobilenet_tvm.schedules.cpu.base import PARALLEL_FLOPS, CpuSchedule, function_of
from mobilenet_tvm.schedules.cpu.registers import keep_in_registers
from mobilenet_tvm.schedules.loops import divisors
from mobilenet_tvm.schedules.stages import epilogue_stage
from mobilenet_tvm.schedules.workloads import GlobalPool
from mobilenet_tvm.targets.target import Target


@dataclass(frozen=True)
class Decision(BaseDecision):
    """How to compute a pooling layer.

    Parameters
    ----------
    tile_c : int
        Channels whose sums are held in registers; divides the channels.
    """

    tile_c: int


class Pooling(CpuSchedule[GlobalPool, Decision]):
    """Computes one tile of channels at a time."""

    workload_type = GlobalPool
    decision_type = Decision

    def default(self, workload: GlobalPool, target: Target) -> Decision:
        """Choose the widest tile up to eight vectors, enough to hide the latency of an addition."""
        return Decision(max(self.space(workload, target)["tile_c"]))

    def space(self, workload: GlobalPool, target: Target) -> dict[str, list[Any]]:
        """Return the candidate values of each part of a decision."""
        lanes = _lanes(workload, target)
        return {"tile_c": [lanes * count for count in divisors(workload.channels // lanes, 8)]}

    def valid(self, workload: GlobalPool, decision: Decision, target: Target) -> bool:
        """Return whether `build` accepts a decision."""
        return decision.tile_c in self.space(workload, target)["tile_c"]

    def decisions(self, workload: GlobalPool, target: Target) -> list[Decision]:
        """Return the valid decisions in the space, without duplicates."""
        return [Decision(tile_c) for tile_c in self.space(workload, target)["tile_c"]]

    def build(self, workload: GlobalPool, decision: Decision, target: Target) -> tirx.PrimFunc:
        """Return a function of data [batch, pixels, channels] and an output [batch, channels]."""
        types = workload.types
        image = (workload.batch, workload.pixels, workload.channels)
        data = te.placeholder(image, types.data, name="data")
        pixel = te.reduce_axis((0, workload.pixels), name="pixel")
        shape = (workload.batch, workload.channels)
        total = te.compute(
            shape, lambda n, c: te.sum(data[n, pixel, c].astype(types.sums), axis=pixel), name="sum"
        )
        scale = tirx.const(1.0 / workload.pixels, types.sums)
        operands, result = epilogue_stage(workload, shape, lambda *i: total[i] * scale)
        sch = s_tir.Schedule(function_of([data, *operands, result], target))
        _schedule(sch, decision, _lanes(workload, target), workload.flops >= PARALLEL_FLOPS)
        return sch.mod["main"]

    def features(
        self,
        workload: GlobalPool,  # noqa: ARG002
        decision: Decision,  # noqa: ARG002
        target: Target,  # noqa: ARG002
    ) -> dict[str, float]:
        """Describe a decision: its only parameter is already a feature."""
        return {}

    def cycles(
        self,
        workload: GlobalPool,  # noqa: ARG002
        decision: Decision,  # noqa: ARG002
        target: Target,  # noqa: ARG002
    ) -> float:
        """Estimate a decision's cost: the layer is memory bound, so all cost the same."""
        return 1.0


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


def _lanes(workload: GlobalPool, target: Target) -> int:
    return math.gcd(workload.channels, target.lanes_of(workload.types.data))


SCHEDULE = Pooling()
