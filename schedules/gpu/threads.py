"""What all GPU schedules share: loops bound to threads, loads of 128 bits, clamped borders."""

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
WIDEST = 16

#: Bytes of a register.
WORD = 4

#: Work-groups that a space offers; Arm's guide wants 64 to 256.
GROUPS = (64, 128, 256)

#: A model is no measurement: fused layers have to save a tenth.
WORTH_IT = 0.9

#: Registers for addresses and counters.
ADDRESS_REGISTERS = 6


def gpu_of(target: Target) -> Gpu:
    """Return a target's GPU; only targets that have one get here."""
    assert target.gpu is not None  # noqa: S101
    return target.gpu


def lanes_of(dtype: str) -> int:
    """Return how many values the widest load has."""
    return WIDEST // np.dtype(dtype).itemsize


def arithmetic(dtype: str, gpu: Gpu) -> str:
    """Return the type in which a GPU multiplies values of some type."""
    return "float32" if gpu.float16_rate == 1 else dtype


def fma_per_cycle(dtype: str, gpu: Gpu) -> int:
    """Return how many multiply-adds of values of some type a unit starts per cycle."""
    faster = arithmetic(dtype, gpu) == "float16"
    return gpu.fma_per_cycle * (gpu.float16_rate if faster else 1)


def words(dtype: str, values: int) -> int:
    """Return how many 32-bit registers hold values of some type."""
    return -(-values * np.dtype(dtype).itemsize // WORD)


def resident_threads(gpu: Gpu, registers: int) -> float:
    """Return how many threads of so many registers a unit keeps in flight."""
    if registers > gpu.registers:
        return 0.0
    # Arm halves the threads beyond the first half of the registers; NVIDIA's share falls in steps.
    return gpu.threads / max(1, -(-registers // gpu.full_registers))


def overlapped(*cycles: float) -> float:
    """Return how long works take that mostly hide each other: the longest, and a quarter more."""
    return max(cycles) + 0.25 * (sum(cycles) - max(cycles))


def with_traffic(cycles: float, moved: float, gpu: Gpu) -> float:
    """Return the cycles of a kernel, the slower of its arithmetic and its traffic."""
    # Units together take half of what their caches give from the one that they share.
    cached = gpu.units * gpu.load_bytes_per_cycle / 2
    memory = gpu.memory_gb_per_s / gpu.clock_ghz
    return overlapped(cycles, moved / (cached if moved < gpu.l2_bytes else memory))


def bind_threads(sch: s_tir.Schedule, loops: Sequence[LoopRV], group: int) -> LoopRV:
    """Fuse loops, give each iteration a thread, and return the loop over a group's threads.

    The last loop's neighbours are neighbours in a group: they work in lock-step, and their loads
    should share cache lines.

    Parameters
    ----------
    sch : Schedule
        Changed in place.
    loops : sequence of LoopRV
        Outermost first, one inside the other.
    group : int
        Threads of a work-group.
    """
    blocks, threads = sch.split(sch.fuse(*loops), [None, group])
    sch.bind(blocks, "blockIdx.x")
    sch.bind(threads, "threadIdx.x")
    return threads


def guarded(sch: s_tir.Schedule, threads: LoopRV, count: int) -> tirx.PrimFunc:
    """Return the function with one condition around a thread's work, where a group is not full.

    A schedule puts the condition around every statement. Inside this one, lowering drops it: only
    the threads of the last group ever disagree.

    Parameters
    ----------
    sch : Schedule
        Finished.
    threads : LoopRV
        From `bind_threads`.
    count : int
        How many threads have work.
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
    """Let a thread copy what it needs of an operand into registers, by wide loads.

    Parameters
    ----------
    sch : Schedule
        Changed in place.
    block : SBlockRV
        Copies; its last axis is contiguous in memory.
    at : LoopRV
        The iteration that needs the copy.
    lanes : int
        Values of a load, where the copy's last axis has so many.
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
    """Return a picture with a border: zeros beside it, and its own first and last rows repeated.

    Every element is loaded, from the nearest place inside; where it stands for the border beside
    the picture, it is multiplied by zero. A condition around the load would be a branch for each,
    and TVM's `Select` between vectors is wrong in OpenCL C, where their top bits count. Rows are
    the business of `inside`, which is constant for a thread and so masks its taps.

    Parameters
    ----------
    data : te.Tensor
        NHWC unless `nchw`.
    padding : sequence of int
        Top, left, bottom, right.
    dtype : str
        To compute in.
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
    """Return the nearest place inside; `before` of the `padded` places lie before the first."""
    if before:
        place = tirx.max(place, 0)
    if padded > before + size:
        place = tirx.min(place, size - 1)
    return place


def inside(place: Any, size: int, before: int, padded: int, dtype: str) -> Any:
    """Return 1.0 for a place inside and 0.0 beyond; the others are those of `nearest`."""
    conditions = [place >= 0] if before else []
    conditions += [place < size] if padded > before + size else []
    one = tirx.const(1.0, dtype)
    if not conditions:
        return one
    return tirx.Select(tirx.all(*conditions), one, tirx.const(0.0, dtype))


def unroll(sch: s_tir.Schedule, loops: Sequence[LoopRV]) -> None:
    """Unroll loops, so that what they index is in registers."""
    for loop in loops:
        sch.unroll(loop)


def store(sch: s_tir.Schedule, loops: Sequence[LoopRV], lane: LoopRV, whole: bool) -> None:
    """Finish and store a tile, by wide stores where all vectors are whole."""
    unroll(sch, loops)
    if whole:
        sch.vectorize(lane)
    else:
        sch.unroll(lane)
