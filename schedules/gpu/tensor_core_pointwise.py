"""Pointwise convolution in float16 on NVIDIA's tensor cores, accumulating in float32.

Like `shared_pointwise`, but warps multiply 16x16 matrices. Rows in shared memory are padded by 16
bytes, so that the rows of a matrix fall into different banks. If there are several steps, the next
step's operands are copied to shared memory while a step is computed.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import s_tir, te, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV

from mobilenet_tvm.schedules.base import Array
from mobilenet_tvm.schedules.base import Decision as BaseDecision
from mobilenet_tvm.schedules.gpu import tensor_cores
from mobilenet_tvm.schedules.gpu.base import GpuPointwise
from mobilenet_tvm.schedules.gpu.gates import unscheduled
from mobilenet_tvm.schedules.gpu.split_k import split_product
from mobilenet_tvm.schedules.gpu.tensor_cores import SIZE
from mobilenet_tvm.schedules.gpu.threads import (
    ADDRESS_REGISTERS,
    gpu_of,
    lanes_of,
    overlapped,
    store,
    unroll,
)
from mobilenet_tvm.schedules.workloads import Pointwise, Workload, size_of
from mobilenet_tvm.targets.gpu import Gpu
from mobilenet_tvm.targets.target import Target

#: Threads of a warp.
WARP = 32

#: Types that tensor cores multiply and accumulate here.
OPERANDS, SUMS = "float16", "float32"

#: Operands of the widest load; also the padding of a row in shared memory.
HALVES = lanes_of(OPERANDS)

#: Sums that a thread passes through the epilogue at a time.
LANES = lanes_of(SUMS)


@dataclass(frozen=True)
class Decision(BaseDecision):
    """How to compute a pointwise layer.

    Parameters
    ----------
    tile_m, tile_n : int
        Pixels and outputs of a warp: whole matrices.
    warps_m, warps_n : int
        Warps of a tile, along pixels and along outputs.
    split_k : int
        Parts of the inputs, each summed by its own warps.
    step_k : int
        Inputs of a part held in shared memory at a time: whole matrices.
    """

    tile_m: int
    tile_n: int
    warps_m: int
    warps_n: int
    split_k: int
    step_k: int

    @property
    def warps(self) -> int:
        """Warps of a work-group."""
        return self.warps_m * self.warps_n * self.split_k

    @property
    def high(self) -> int:
        """Pixels of a work-group."""
        return self.tile_m * self.warps_m

    @property
    def wide(self) -> int:
        """Outputs of a work-group."""
        return self.tile_n * self.warps_n


class TensorCorePointwise(GpuPointwise[Decision]):
    """A work-group's tile, multiplied by its warps on tensor cores."""

    decision_type = Decision

    def takes(self, workload: Workload, target: Target) -> bool:
        """Return whether the GPU has tensor cores and the layer has enough pixels for a matrix."""
        return (
            super().takes(workload, target)
            and isinstance(workload, Pointwise)
            and gpu_of(target).tensor_fma_per_cycle > 0
            and workload.types.data == workload.types.weights == OPERANDS
            and workload.pixels >= SIZE
        )

    def space(self, workload: Pointwise, target: Target) -> dict[str, list[Any]]:  # noqa: ARG002
        """Return the candidate values of each part of a decision."""
        return {
            "tile": [(m, n) for m in (16, 32, 64) for n in (16, 32, 64) if m * n <= 2048],
            "warps": [(m, n) for m in (1, 2, 4) for n in (1, 2, 4)],
            "split_k": [1, 2, 4, 8],
            "step_k": [16, 32, 64],
        }

    def valid(self, workload: Pointwise, decision: Decision, target: Target) -> bool:
        """Return whether `build` accepts a decision."""
        parts = self.space(workload, target)
        return (
            (decision.tile_m, decision.tile_n) in parts["tile"]
            and (decision.warps_m, decision.warps_n) in parts["warps"]
            and decision.split_k in parts["split_k"]
            and decision.step_k in parts["step_k"]
            and self._fits(workload, decision, gpu_of(target))
        )

    def decisions(self, workload: Pointwise, target: Target) -> list[Decision]:
        """Return the valid decisions in the space that do not compute mostly padding."""
        gpu = gpu_of(target)
        everything = (
            Decision(tile_m, tile_n, warps_m, warps_n, split_k, step_k)
            for (tile_m, tile_n), (warps_m, warps_n), split_k, step_k in itertools.product(
                *self.space(workload, target).values()
            )
        )
        min_inputs = padded_inputs(workload, Decision(SIZE, SIZE, 1, 1, 1, SIZE))
        return [
            decision
            for decision in everything
            if decision.tile_m < workload.pixels + SIZE
            and decision.tile_n < workload.outputs + SIZE
            and padded_inputs(workload, decision) < 1.5 * min_inputs
            and self._fits(workload, decision, gpu)
        ]

    def pack(self, weights: Sequence[Array], decision: Decision) -> list[Array]:
        """Return weights [inputs, outputs], both zero-padded to whole steps and tiles."""
        (weight,) = weights
        inputs, outputs = weight.shape
        step = decision.split_k * decision.step_k
        return [
            np.ascontiguousarray(
                np.pad(weight, ((0, -inputs % step), (0, -outputs % decision.wide)))
            )
        ]

    def build(self, workload: Pointwise, decision: Decision, target: Target) -> tirx.PrimFunc:  # noqa: ARG002
        """Return the scheduled function."""
        rows = self.padded_pixels(workload, decision)
        sch = unscheduled(workload, rows, functools.partial(self.product, workload, decision))
        schedule(sch, workload, decision, LANES if workload.gates else HALVES)
        return sch.mod["main"]

    def padded_pixels(self, workload: Pointwise, decision: Decision) -> int:
        """Return the pixels of all tiles, including those of the last tile beyond the image."""
        return -(-workload.pixels // decision.high) * decision.high

    def product(
        self, workload: Pointwise, decision: Decision, element: Callable[[Any, Any], Any]
    ) -> tuple[te.Tensor, list[te.Tensor], te.Tensor]:
        """Return the packed weights, the epilogue's operands, and the result."""
        inputs = workload.inputs
        rows, deep = self.padded_pixels(workload, decision), padded_inputs(workload, decision)
        columns = -(-workload.outputs // decision.wide) * decision.wide
        weight = te.placeholder((deep, columns), workload.types.weights, name="weight")
        lanes = math.gcd(inputs, HALVES)

        def filled(m: Any, k: Any) -> Any:
            if deep == inputs:
                return element(m, k)
            # All values of a vector are inside, or none.
            inside = k // lanes < inputs // lanes
            return tirx.if_then_else(inside, element(m, k), tirx.const(0, workload.types.data))

        staged = te.compute((rows, deep), filled, name="rows")
        parts = (decision.split_k, decision.step_k)
        return weight, *split_product(workload, staged, weight, *parts)

    def registers(self, workload: Pointwise, decision: Decision, gpu: Gpu) -> int:  # noqa: ARG002
        """Return a thread's registers: its share of the sums and operands, and addresses."""
        tile = decision.tile_m * decision.tile_n
        return tile // WARP + (decision.tile_m + decision.tile_n) // 2 + 4 * ADDRESS_REGISTERS

    def cycles(self, workload: Pointwise, decision: Decision, target: Target) -> float:
        """Estimate the cycles of a layer."""
        gpu = gpu_of(target)
        high, wide = decision.high, decision.wide
        groups = -(-workload.pixels // high) * -(-workload.outputs // wide)
        resident = max(
            1,
            min(
                gpu.threads // (decision.warps * WARP),
                65536 // (self.registers(workload, decision, gpu) * decision.warps * WARP),
                4 * gpu.shared_bytes // shared_bytes(workload, decision),
            ),
        )
        # The work of a unit for all of its groups, and the latency of a single group.
        deep = padded_inputs(workload, decision)
        multiply = high * wide * deep / gpu.tensor_fma_per_cycle
        half = size_of(OPERANDS)
        operands = decision.warps_m * decision.warps_n * (decision.tile_m + decision.tile_n) * deep
        load = half * operands / gpu.load_bytes_per_cycle
        read = high * (2 if workload.gates else 1) + wide
        fetch = 2 * half * read * deep / gpu.load_bytes_per_cycle
        add = 2 * size_of(SUMS) * decision.split_k * high * wide / gpu.load_bytes_per_cycle
        add += half * high * wide / gpu.load_bytes_per_cycle
        busy = -(-groups // gpu.units) * overlapped(multiply, load + fetch + add)
        steps = deep // (decision.split_k * decision.step_k)
        waits = steps + 2 if is_pipelined(workload, decision) else 2 * steps + 2
        alone = waits * gpu.load_latency + overlapped(multiply, load)
        rounds = -(-groups // (gpu.units * resident))
        return overlapped(busy, rounds * alone)

    def _fits(self, workload: Pointwise, decision: Decision, gpu: Gpu) -> bool:
        """Return whether the parts of a decision are compatible."""
        return (
            decision.warps * WARP <= min(gpu.group_threads, 512)
            and decision.high * decision.wide % (decision.warps * WARP * LANES) == 0
            and shared_bytes(workload, decision) <= gpu.shared_bytes
        )


def padded_inputs(workload: Pointwise, decision: Decision) -> int:
    """Return the inputs of all steps, including the zero padding."""
    step = decision.split_k * decision.step_k
    return -(-workload.inputs // step) * step


def is_pipelined(workload: Pointwise, decision: Decision) -> bool:
    """Return whether a step's operands are copied, unchanged, during the previous step."""
    deep = padded_inputs(workload, decision)
    several = deep > decision.split_k * decision.step_k
    return several and not workload.gates and deep == workload.inputs and deep % HALVES == 0


def schedule(sch: s_tir.Schedule, workload: Pointwise, decision: Decision, fetched: int) -> None:
    """Schedule the stages; a thread fetches or computes `fetched` inputs of a pixel at once."""
    tensor_cores.register()
    product, result = sch.get_sblock("pointwise"), sch.get_sblock("epilogue")
    sums = sch.get_sblock("partial")
    partial = sch.cache_write(sums, 0, tensor_cores.SUMS)
    sch.set_scope(partial, 0, tensor_cores.RESULTS)
    sch.set_scope(product, 0, "local")

    # The threads of a group share a tile's outputs evenly.
    m, n, addend = sch.get_loops(product)
    m_tiles, m_tile = sch.split(m, [None, decision.high])
    n_tiles, n_vector, lane = sch.split(n, [None, decision.wide // LANES, LANES])
    sch.reorder(m_tiles, n_tiles, m_tile, n_vector, addend, lane)
    tile = sch.fuse(m_tiles, n_tiles)
    sch.bind(tile, "blockIdx.x")
    threads = _bind(sch, sch.fuse(m_tile, n_vector), decision)
    sch.unroll(addend)
    sch.vectorize(lane)
    sch.reverse_compute_at(result, threads, preserve_unit_loops=True)
    store(sch, [], sch.get_loops(result)[-1], workload.outputs % LANES == 0)

    # The sums: accumulated in fragments, one part of a tile at a time, then moved to shared memory.
    sch.compute_at(partial, tile, preserve_unit_loops=True)
    part, m, n = sch.get_loops(partial)[-3:]
    m_warp, m_matrix, m_in = sch.split(m, [decision.warps_m, None, SIZE])
    n_warp, n_matrix, n_in = sch.split(n, [decision.warps_n, None, SIZE])
    sch.reorder(part, m_warp, n_warp, m_matrix, n_matrix, m_in, n_in)
    warp = sch.fuse(part, m_warp, n_warp)
    sch.bind(warp, "threadIdx.y")
    unroll(sch, [m_matrix, n_matrix])
    sch.compute_at(sums, warp, preserve_unit_loops=True)
    *_, row, column, steps, k = sch.get_loops(sums)
    m_matrix, m_sum = sch.split(row, [None, SIZE])
    n_matrix, n_sum = sch.split(column, [None, SIZE])
    k_matrix, k_sum = sch.split(k, [None, SIZE])
    sch.reorder(steps, k_matrix, m_matrix, n_matrix, m_sum, n_sum, k_sum)
    unroll(sch, [k_matrix, m_matrix, n_matrix])
    rows, weights = sch.get_sblock("rows"), sch.cache_read(sums, 1, tensor_cores.OPERANDS)
    sch.set_scope(rows, 0, tensor_cores.OPERANDS)
    for index, scope, intrinsic in (
        (0, tensor_cores.DATA, tensor_cores.LOAD_DATA),
        (1, tensor_cores.WEIGHTS, tensor_cores.LOAD_WEIGHTS),
    ):
        fragments = sch.cache_read(sums, index, scope)
        sch.compute_at(fragments, k_matrix, preserve_unit_loops=True)
        _by_matrix(sch, fragments, intrinsic)
    _fetch(sch, rows, steps, decision, math.gcd(workload.inputs, fetched))
    _fetch(sch, weights, steps, decision, HALVES)
    init = sch.decompose_reduction(product, addend)
    sch.vectorize(sch.get_loops(init)[-1])
    init = sch.decompose_reduction(sums, steps)
    *_, m_matrix, n_matrix, m_init, _ = sch.get_loops(init)
    unroll(sch, [m_matrix, n_matrix])
    sch.tensorize(m_init, tensor_cores.FILL)
    sch.tensorize(m_sum, tensor_cores.MULTIPLY)
    stored = sch.blockize(m_in)
    sch.tensorize(stored, tensor_cores.STORE)
    sch.storage_align(stored, 0, axis=-2, factor=2 * LANES, offset=LANES)
    if fetched == HALVES and is_pipelined(workload, decision):
        # Both copies form the first stage, which runs asynchronously; TVM inserts the waits.
        sch.annotate(steps, "software_pipeline_stage", [0, 0, 1])
        sch.annotate(steps, "software_pipeline_order", [0, 1, 2])
        sch.annotate(steps, "software_pipeline_async_stages", [0])


def _bind(sch: s_tir.Schedule, loop: LoopRV, decision: Decision) -> LoopRV:
    """Bind a loop to all threads of a group; return the loop over the threads of a warp."""
    _, warps, threads = sch.split(loop, [None, decision.warps, WARP])
    sch.bind(warps, "threadIdx.y")
    sch.bind(threads, "threadIdx.x")
    return threads


def _by_matrix(sch: s_tir.Schedule, block: SBlockRV, intrinsic: str) -> None:
    """Tile a block into matrices and tensorize it."""
    row, column = sch.get_loops(block)[-2:]
    rows, row = sch.split(row, [None, SIZE])
    columns, column = sch.split(column, [None, SIZE])
    sch.reorder(rows, columns, row, column)
    unroll(sch, [rows, columns])
    sch.tensorize(row, intrinsic)


def _fetch(
    sch: s_tir.Schedule, block: SBlockRV, at: LoopRV, decision: Decision, lanes: int
) -> None:
    """Copy a tile of an operand into shared memory with all threads of a group."""
    sch.compute_at(block, at, preserve_unit_loops=True)
    vectors, lane = sch.split(sch.fuse(*sch.get_loops(block)[-2:]), [None, lanes])
    _bind(sch, vectors, decision)
    sch.vectorize(lane)
    sch.storage_align(block, 0, axis=-2, factor=2 * HALVES, offset=HALVES)


def shared_bytes(workload: Pointwise, decision: Decision) -> int:
    """Return a group's shared memory: one or two steps of operands, and the sums of all parts."""
    step = decision.split_k * decision.step_k
    operands = decision.high * (step + HALVES) + step * (decision.wide + HALVES)
    stages = 2 if is_pipelined(workload, decision) else 1
    sums = decision.split_k * decision.high * (decision.wide + LANES)
    return size_of(OPERANDS) * stages * operands + size_of(SUMS) * sums


SCHEDULE = TensorCorePointwise()
