"""Measures what this machine's cores can do: multiply-adds and memory bandwidth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import te
from tvm.s_tir import Schedule

from mobilenet_tvm.compile.pipeline import llvm_target
from mobilenet_tvm.targets.presets import PRESETS, native
from mobilenet_tvm.targets.target import Target


@dataclass(frozen=True)
class Peak:
    """What a number of threads can do together.

    Parameters
    ----------
    gflops : float
        float32 multiply-adds on registers, in 1e9 operations per second (two each).
    gbytes : float
        Bytes read from memory per second, in 1e9.
    """

    gflops: float
    gbytes: float


def measure_peak(threads: int, cpu: str | None = None) -> Peak:
    """Measure this machine.

    Parameters
    ----------
    threads : int
        How many threads run.
    cpu : str, optional
        LLVM's name of the CPU whose instructions are used, as in an artifact's metadata.
        Default: the best that this machine has.

    Returns
    -------
    Peak
        The best of several short runs.
    """
    target = next((t for t in PRESETS.values() if t.cpu == cpu), None) or native()
    tvm.get_global_func("runtime.config_threadpool")(-3, threads, [])
    return Peak(_multiply_adds(threads, target), _bandwidth(threads, target))


def _multiply_adds(threads: int, target: Target) -> float:
    """Run chains of dependent multiply-adds, as many side by side as hide their latency."""
    chains, steps = min(12, target.vector_registers - 3), 1 << 14
    width = chains * target.lanes
    start = te.placeholder((threads, width), name="start")
    step = te.reduce_axis((0, steps), name="step")
    # The factor changes with the step, so that the loop cannot be folded.
    factor = te.placeholder((steps,), name="factor")
    total = te.compute(
        (threads, width),
        lambda t, i: te.sum(start[t, i] * factor[step], axis=step),
        name="total",
    )
    sch = Schedule(te.create_prim_func([start, factor, total]))
    block = sch.get_sblock("total")
    sums = sch.cache_write(block, 0, "local")
    t, i = sch.get_loops(sums)
    sch.parallel(t)
    block = sch.get_sblock("total")
    sch.reverse_compute_at(sums, sch.get_loops(block)[0])
    t, i, k = sch.get_loops(block)
    chain, lane = sch.split(i, [None, target.lanes])
    outer, inner = sch.split(k, [None, 8])
    sch.reorder(outer, inner, chain, lane)
    sch.unroll(inner)
    sch.unroll(chain)
    sch.vectorize(lane)
    init = sch.decompose_reduction(block, outer)
    *_, chain, lane = sch.get_loops(init)
    sch.unroll(chain)
    sch.vectorize(lane)
    arrays = [
        np.ones((threads, width), np.float32),
        np.linspace(0, 1, steps, dtype=np.float32),
        np.zeros((threads, width), np.float32),
    ]
    return 2e-9 * threads * width * steps / _best(sch, target, arrays)


def _bandwidth(threads: int, target: Target) -> float:
    """Sum an array that is larger than the caches."""
    columns = 16 * target.lanes
    rows = (1 << 27) // (4 * columns * threads)
    data = te.placeholder((threads, rows, columns), name="data")
    row = te.reduce_axis((0, rows), name="row")
    total = te.compute(
        (threads, columns), lambda t, c: te.sum(data[t, row, c], axis=row), name="total"
    )
    sch = Schedule(te.create_prim_func([data, total]))
    block = sch.get_sblock("total")
    t, c, r = sch.get_loops(block)
    sch.parallel(t)
    outer, lane = sch.split(c, [None, target.lanes])
    sch.reorder(r, outer, lane)
    sch.unroll(outer)
    sch.vectorize(lane)
    sch.decompose_reduction(block, r)
    shape = (threads, rows, columns)
    arrays = [np.zeros(shape, np.float32), np.zeros((threads, columns), np.float32)]
    return 1e-9 * arrays[0].nbytes / _best(sch, target, arrays)


def _best(sch: Any, target: Target, arrays: list[np.ndarray[Any, Any]]) -> float:
    """Return the shortest of some runs, in seconds."""
    compiled = tvm.compile(sch.mod, target=llvm_target(target))
    evaluator = compiled.mod.time_evaluator("main", tvm.cpu(), number=3, repeat=10)
    return float(min(evaluator(*map(tvm.runtime.tensor, arrays)).results))
