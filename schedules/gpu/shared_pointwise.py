"""Pointwise convolution and dense on NVIDIA GPUs: operands staged in shared memory.

A work-group computes a tile of pixels x outputs. If there are few tiles, its threads also split the
inputs and reduce their sums in shared memory, so that all units have work at batch 1.
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
from mobilenet_tvm.schedules.gpu.base import GpuPointwise
from mobilenet_tvm.schedules.gpu.gates import unscheduled
from mobilenet_tvm.schedules.gpu.split_k import split_product
from mobilenet_tvm.schedules.gpu.threads import (
    ADDRESS_REGISTERS,
    WORD_BYTES,
    arithmetic,
    gpu_of,
    lanes_of,
    overlapped,
    store,
    unroll,
    words,
)
from mobilenet_tvm.schedules.loops import extent
from mobilenet_tvm.schedules.workloads import Pointwise, size_of
from mobilenet_tvm.targets.gpu import Gpu
from mobilenet_tvm.targets.target import Target


@dataclass(frozen=True)
class Decision(BaseDecision):
    """How to compute a pointwise layer.

    Parameters
    ----------
    tile_m, tile_n : int
        Pixels and outputs of a thread; outputs are full vectors of four.
    threads_m, threads_n : int
        Threads of a tile, along pixels and along outputs.
    split_k : int
        Parts of the inputs, each summed by its own threads; divides the inputs and the tile's
        outputs, which the threads then share.
    step_k : int
        Inputs of a part held in shared memory at a time; divides a part.
    """

    tile_m: int
    tile_n: int
    threads_m: int
    threads_n: int
    split_k: int
    step_k: int

    @property
    def threads(self) -> int:
        """Threads of a work-group."""
        return self.threads_m * self.threads_n * self.split_k


class SharedPointwise(GpuPointwise[Decision]):
    """Computes a tile per work-group, with operands in shared memory."""

    decision_type = Decision

    def space(self, workload: Pointwise, target: Target) -> dict[str, list[Any]]:  # noqa: ARG002
        """Return the candidate values of each part of a decision."""
        return {
            "tile": [(m, n) for m in (1, 2, 4, 8) for n in (4, 8, 16) if m <= workload.pixels],
            "threads": [(m, n) for m in (1, 2, 4, 8, 16) for n in (4, 8, 16, 32)],
            "split_k": [s for s in (1, 2, 4, 8, 16) if workload.inputs % s == 0],
            "step_k": [1, 2, 4, 8, 16, 32],
        }

    def valid(self, workload: Pointwise, decision: Decision, target: Target) -> bool:
        """Return whether `build` accepts a decision."""
        parts = self.space(workload, target)
        return (
            (decision.tile_m, decision.tile_n) in parts["tile"]
            and (decision.threads_m, decision.threads_n) in parts["threads"]
            and decision.split_k in parts["split_k"]
            and decision.step_k in parts["step_k"]
            and self._fits(workload, decision, gpu_of(target))
        )

    def decisions(self, workload: Pointwise, target: Target) -> list[Decision]:
        """Return the valid decisions in the space, without duplicates."""
        gpu = gpu_of(target)
        everything = (
            Decision(tile_m, tile_n, threads_m, threads_n, split_k, step_k)
            for (tile_m, tile_n), (threads_m, threads_n), split_k, step_k in itertools.product(
                *self.space(workload, target).values()
            )
        )
        return [
            decision
            for decision in everything
            # Short steps are only for inputs that longer ones do not divide.
            if (decision.step_k >= 8 or workload.inputs // decision.split_k % 8)
            and self._fits(workload, decision, gpu)
        ]

    def pack(self, weights: Sequence[Array], decision: Decision) -> list[Array]:
        """Return weights [inputs, outputs], the outputs zero-padded to full tiles."""
        (weight,) = weights
        wide = decision.tile_n * decision.threads_n
        return [np.ascontiguousarray(np.pad(weight, ((0, 0), (0, -weight.shape[1] % wide))))]

    def build(self, workload: Pointwise, decision: Decision, target: Target) -> tirx.PrimFunc:
        """Return the scheduled function."""
        rows = self.padded_pixels(workload, decision)
        sch = unscheduled(workload, rows, functools.partial(self.product, workload, decision))
        data = workload.types.data
        computed = arithmetic(data, gpu_of(target)) if workload.gates else data
        schedule(sch, workload, decision, lanes_of(computed))
        return sch.mod["main"]

    def padded_pixels(self, workload: Pointwise, decision: Decision) -> int:
        """Return the pixels of all tiles, including those of the last tile beyond the image."""
        high = decision.tile_m * decision.threads_m
        return -(-workload.pixels // high) * high

    def product(
        self, workload: Pointwise, decision: Decision, element: Callable[[Any, Any], Any]
    ) -> tuple[te.Tensor, list[te.Tensor], te.Tensor]:
        """Return the packed weights, the epilogue's operands, and the result."""
        wide = decision.tile_n * decision.threads_n
        rows, columns = self.padded_pixels(workload, decision), -(-workload.outputs // wide) * wide
        weight = te.placeholder((workload.inputs, columns), workload.types.weights, name="weight")
        # A partial last tile reads its last pixel several times and stores it once.
        staged = te.compute((rows, workload.inputs), element, name="rows")
        parts = (decision.split_k, decision.step_k)
        return weight, *split_product(workload, staged, weight, *parts)

    def registers(self, workload: Pointwise, decision: Decision, gpu: Gpu) -> int:  # noqa: ARG002
        """Return a thread's registers: sums, operands of its pixels and outputs, addresses."""
        tile = decision.tile_m * decision.tile_n
        return tile + decision.tile_m + decision.tile_n + 4 * ADDRESS_REGISTERS

    def cycles(self, workload: Pointwise, decision: Decision, target: Target) -> float:
        """Estimate the cycles of a layer."""
        gpu = gpu_of(target)
        high, wide = decision.tile_m * decision.threads_m, decision.tile_n * decision.threads_n
        groups = -(-workload.pixels // high) * -(-workload.outputs // wide)
        resident = max(
            1,
            min(
                gpu.threads // decision.threads,
                65536 // (self.registers(workload, decision, gpu) * decision.threads),
                4 * gpu.shared_bytes // shared_bytes(workload, decision),
            ),
        )
        # The work of a unit for all of its groups, and the latency of a single group.
        part = workload.inputs // decision.split_k
        multiply = high * wide * workload.inputs / gpu.fma_per_cycle
        operands = decision.threads * (decision.tile_m + decision.tile_n) * part
        load = words(workload.types.data, operands) / gpu.load_bytes_per_cycle
        read = high * (2 if workload.gates else 1) + wide
        fetched = WORD_BYTES * words(workload.types.data, read * workload.inputs)
        fetch = fetched / gpu.load_bytes_per_cycle
        add = (
            size_of(workload.types.sums) * decision.split_k * high * wide / gpu.load_bytes_per_cycle
        )
        busy = -(-groups // gpu.units) * overlapped(multiply, load + fetch + add)
        alone = part / decision.step_k * (2 * gpu.load_latency) + overlapped(multiply, load)
        rounds = -(-groups // (gpu.units * resident))
        return overlapped(busy, rounds * alone)

    def _fits(self, workload: Pointwise, decision: Decision, gpu: Gpu) -> bool:
        """Return whether the parts of a decision are compatible."""
        return (
            decision.tile_m * decision.tile_n % decision.split_k == 0
            and workload.inputs // decision.split_k % decision.step_k == 0
            and gpu.lockstep <= decision.threads <= min(gpu.group_threads, 512)
            and self.registers(workload, decision, gpu) <= gpu.registers // 2
            and shared_bytes(workload, decision) <= gpu.shared_bytes
        )


def schedule(sch: s_tir.Schedule, workload: Pointwise, decision: Decision, fetched: int) -> None:
    """Schedule the stages; a thread fetches or computes `fetched` inputs of a pixel at once."""
    product, result = sch.get_sblock("pointwise"), sch.get_sblock("epilogue")
    sums, widest = sch.get_sblock("partial"), lanes_of(workload.types.sums)
    partial = sch.cache_write(sums, 0, "local")
    sch.set_scope(partial, 0, "shared")
    sch.set_scope(product, 0, "local")

    # The threads of a group share a tile's outputs evenly, as vectors if there are enough.
    m, n, addend = sch.get_loops(product)
    high, wide = decision.tile_m * decision.threads_m, decision.tile_n * decision.threads_n
    m_tiles, m_tile = sch.split(m, [None, high])
    lanes = math.gcd(decision.tile_m * decision.tile_n // decision.split_k, widest)
    n_tiles, n_vector, lane = sch.split(n, [None, wide // lanes, lanes])
    sch.reorder(m_tiles, n_tiles, m_tile, n_vector, addend, lane)
    tile = sch.fuse(m_tiles, n_tiles)
    sch.bind(tile, "blockIdx.x")
    _, threads = sch.split(sch.fuse(m_tile, n_vector), [None, decision.threads])
    sch.bind(threads, "threadIdx.x")
    sch.unroll(addend)
    sch.vectorize(lane)
    sch.reverse_compute_at(result, threads, preserve_unit_loops=True)
    store(sch, [], sch.get_loops(result)[-1], lanes > 1 and workload.outputs % lanes == 0)

    # The sums: accumulated in registers, one part of a tile at a time, then moved to shared memory.
    sch.compute_at(partial, tile, preserve_unit_loops=True)
    part, m, n = sch.get_loops(partial)[-3:]
    m_thread, m_tile = sch.split(m, [decision.threads_m, None])
    n_thread, n_vector, n_lane = sch.split(n, [decision.threads_n, None, widest])
    sch.reorder(part, m_thread, n_thread, m_tile, n_vector, n_lane)
    threads = sch.fuse(part, m_thread, n_thread)
    sch.bind(threads, "threadIdx.x")
    unroll(sch, [m_tile, n_vector])
    sch.vectorize(n_lane)
    sch.compute_at(sums, threads, preserve_unit_loops=True)
    *_, row, column, steps, k_inner = sch.get_loops(sums)
    n_vector, n_lane = sch.split(column, [None, widest])
    sch.reorder(steps, k_inner, row, n_vector, n_lane)
    unroll(sch, [k_inner, row, n_vector])
    sch.vectorize(n_lane)
    rows = sch.get_sblock("rows")
    sch.set_scope(rows, 0, "shared")
    _fetch(sch, rows, steps, decision, fetched)
    weight = sch.cache_read(sums, 1, "shared")
    _fetch(sch, weight, steps, decision, lanes_of(workload.types.weights))
    init = sch.decompose_reduction(product, addend)
    sch.vectorize(sch.get_loops(init)[-1])
    init = sch.decompose_reduction(sums, steps)
    *_, row, n_vector, n_lane = sch.get_loops(init)
    unroll(sch, [row, n_vector])
    sch.vectorize(n_lane)


def _fetch(
    sch: s_tir.Schedule, block: SBlockRV, at: LoopRV, decision: Decision, widest: int
) -> None:
    """Copy a tile of an operand into shared memory with all threads of a group."""
    sch.compute_at(block, at, preserve_unit_loops=True)
    loops = sch.get_loops(block)[-2:]
    lanes = math.gcd(extent(sch, loops[-1]), widest)
    _, threads, lane = sch.split(sch.fuse(*loops), [None, decision.threads, lanes])
    sch.bind(threads, "threadIdx.x")
    sch.vectorize(lane)


def shared_bytes(workload: Pointwise, decision: Decision) -> int:
    """Return a group's shared memory: one step of both operands, and the sums of all parts."""
    high, wide = decision.tile_m * decision.threads_m, decision.tile_n * decision.threads_n
    operands = decision.split_k * decision.step_k * (high + wide)
    sums = decision.split_k * high * wide
    return WORD_BYTES * (words(workload.types.data, operands) + words(workload.types.sums, sums))


SCHEDULE = SharedPointwise()
