"""Helpers of the GPU schedules: loops bound to threads, 128-bit loads, clamped borders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import s_tir, te, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV

from mobilenet_tvm.schedules.loops import extent, replace_body
from mobilenet_tvm.targets.gpu import Gpu
from mobilenet_tvm.targets.target import Target

#: Bytes of the widest load.
MAX_LOAD_BYTES = 16

#: Bytes of a register.
WORD_BYTES = 4

#: Candidate sizes of a work-group; Arm's guide recommends 64 to 256.
GROUP_SIZES = (64, 128, 256)

#: Minimum share of the modelled cycles that fusing must save, since a model is not a measurement.
MIN_GAIN = 0.1

#: Registers for addresses and counters.
ADDRESS_REGISTERS = 6


def gpu_of(target: Target) -> Gpu:
    """Return a target's GPU, which it must have."""
    assert target.gpu is not None  # noqa: S101
    return target.gpu


def lanes_of(dtype: str) -> int:
    """Return how many values of a type the widest load holds."""
    return MAX_LOAD_BYTES // np.dtype(dtype).itemsize


def arithmetic(dtype: str, gpu: Gpu) -> str:
    """Return the type in which a GPU multiplies values of a type."""
    return "float32" if gpu.float16_rate == 1 else dtype


def fma_per_cycle(dtype: str, gpu: Gpu) -> int:
    """Return how many multiply-adds of values of a type a unit starts per cycle."""
    faster = arithmetic(dtype, gpu) == "float16"
    return gpu.fma_per_cycle * (gpu.float16_rate if faster else 1)


def words(dtype: str, values: int) -> int:
    """Return how many 32-bit registers hold `values` values of a type."""
    return -(-values * np.dtype(dtype).itemsize // WORD_BYTES)


def resident_threads(gpu: Gpu, registers: int) -> float:
    """Return how many threads with `registers` registers each a unit keeps in flight."""
    if registers > gpu.registers:
        return 0.0
    # Arm halves the threads beyond half of the registers; NVIDIA reduces them in steps.
    return gpu.threads / max(1, -(-registers // gpu.full_registers))


def overlapped(*cycles: float) -> float:
    """Return the time of mostly overlapping work: the longest part plus a quarter of the others."""
    return max(cycles) + 0.25 * (sum(cycles) - max(cycles))


def with_traffic(cycles: float, moved: float, gpu: Gpu) -> float:
    """Return the cycles of a kernel from those of its arithmetic and the bytes that it moves."""
    # The shared cache delivers half the combined bandwidth of the units' own caches.
    cached = gpu.units * gpu.load_bytes_per_cycle / 2
    memory = gpu.memory_gb_per_s / gpu.clock_ghz
    return overlapped(cycles, moved / (cached if moved < gpu.l2_bytes else memory))


def bind_threads(sch: s_tir.Schedule, loops: Sequence[LoopRV], group: int) -> LoopRV:
    """Fuse loops, bind each iteration to a thread, and return the loop over a group's threads.

    Neighbouring iterations of the last loop are neighbouring threads: they run in lockstep, and
    their loads should share cache lines.

    Parameters
    ----------
    sch : Schedule
        Changed in place.
    loops : sequence of LoopRV
        Perfectly nested, outermost first.
    group : int
        Threads of a work-group.
    """
    blocks, threads = sch.split(sch.fuse(*loops), [None, group])
    sch.bind(blocks, "blockIdx.x")
    sch.bind(threads, "threadIdx.x")
    return threads


def guarded(sch: s_tir.Schedule, threads: LoopRV, count: int) -> tirx.PrimFunc:
    """Return the function with one condition around a thread's work if the last group is partial.

    A schedule guards every statement separately. Inside this condition, lowering removes those
    guards, and only the threads of the last group diverge.

    Parameters
    ----------
    sch : Schedule
        The finished schedule.
    threads : LoopRV
        From `bind_threads`.
    count : int
        Number of threads that have work.
    """
    func = sch.mod["main"]
    group = extent(sch, threads)
    if count % group == 0:
        return func
    thread = sch.get(threads).loop_var
    block = sch.get(sch.get_loops(sch.get_child_blocks(sch.get_sblock("root"))[0])[0]).loop_var
    inside = block * group + thread < count
    return replace_body(func, thread, lambda body: tirx.IfThenElse(inside, body, None))


def copy_in_vectors(sch: s_tir.Schedule, block: SBlockRV, at: LoopRV, lanes: int) -> None:
    """Copy what a thread needs of an operand into registers, with wide loads.

    Parameters
    ----------
    sch : Schedule
        Changed in place.
    block : SBlockRV
        The block that copies; its last axis is contiguous in memory.
    at : LoopRV
        The loop whose iterations need the copy.
    lanes : int
        Values per load, if the copy's last axis has that many.
    """
    sch.compute_at(block, at, preserve_unit_loops=True)
    sch.set_scope(block, 0, "local")
    axes = len(sch.get(block).iter_vars)
    *rows, last = sch.get_loops(block)[-axes:]
    vectors, lane = sch.split(last, [None, math.gcd(extent(sch, last), lanes)])
    for loop in (*rows, vectors):
        sch.unroll(loop)
    sch.vectorize(lane)


def clamped(data: te.Tensor, padding: Sequence[int], dtype: str, nchw: bool = False) -> te.Tensor:
    """Return a padded image: zeros to the left and right, and the first and last rows repeated.

    Every element is loaded from the nearest position inside, and multiplied by zero if it is on the
    left or right border. A condition around each load would be a branch, and TVM's `Select` between
    vectors is wrong in OpenCL C, which tests only their top bits. The top and bottom border are
    left to the caller: `inside` is constant for a thread there, so it can mask the taps instead.

    Parameters
    ----------
    data : te.Tensor
        NHWC unless `nchw`.
    padding : sequence of int
        Top, left, bottom, right.
    dtype : str
        Type to compute in.
    nchw : bool
        Whether the channels come first.
    """
    top, left, bottom, right = padding
    rows, columns = (2, 3) if nchw else (1, 2)
    sizes = [int(size) for size in data.shape]
    shape = list(sizes)
    shape[rows] += top + bottom
    shape[columns] += left + right

    def element(*indices: Any) -> Any:
        source = list(indices)
        for axis, before in ((rows, top), (columns, left)):
            source[axis] = nearest(indices[axis] - before, sizes[axis], before, shape[axis])
        column = indices[columns] - left
        factor = inside(column, sizes[columns], left, shape[columns], dtype)
        return data[tuple(source)].astype(dtype) * factor

    return te.compute(tuple(shape), element, name="pad")


def nearest(place: Any, size: int, before: int, padded: int) -> Any:
    """Return the nearest position inside; `before` of the `padded` positions precede the first."""
    if before:
        place = tirx.max(place, 0)
    if padded > before + size:
        place = tirx.min(place, size - 1)
    return place


def inside(place: Any, size: int, before: int, padded: int, dtype: str) -> Any:
    """Return 1.0 for a position inside and 0.0 outside; parameters as for `nearest`."""
    conditions = [place >= 0] if before else []
    conditions += [place < size] if padded > before + size else []
    one = tirx.const(1.0, dtype)
    if not conditions:
        return one
    return tirx.Select(tirx.all(*conditions), one, tirx.const(0.0, dtype))


def unroll(sch: s_tir.Schedule, loops: Sequence[LoopRV]) -> None:
    """Unroll loops, so that the arrays they index are kept in registers."""
    for loop in loops:
        sch.unroll(loop)


def store(sch: s_tir.Schedule, loops: Sequence[LoopRV], lane: LoopRV, whole: bool) -> None:
    """Store a tile, with wide stores if all vectors are full."""
    unroll(sch, loops)
    if whole:
        sch.vectorize(lane)
    else:
        sch.unroll(lane)
