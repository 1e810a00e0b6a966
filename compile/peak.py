"""Measures what a machine's cores can do: multiply-adds and memory bandwidth."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tvm
from tvm import te
from tvm.s_tir import Schedule

from mobilenet_tvm.compile.linker import link_shared
from mobilenet_tvm.compile.pipeline import llvm_target
from mobilenet_tvm.runtime.remote.marks import PREFIX
from mobilenet_tvm.runtime.remote.session import Session
from mobilenet_tvm.runtime.threads import Threads
from mobilenet_tvm.schedules import pointwise
from mobilenet_tvm.schedules.workload import Pointwise
from mobilenet_tvm.targets.presets import PRESETS, native
from mobilenet_tvm.targets.target import Target

#: Times a function of float32 arrays of some shapes: the shortest of some runs, in seconds.
_Timer = Callable[[Schedule, Target, Sequence[tuple[int, ...]]], float]


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


def measure_peak(threads: int, cpu: str | None = None, board: Session | None = None) -> Peak:
    """Measure this machine or a board.

    Parameters
    ----------
    threads : int
        How many threads run.
    cpu : str, optional
        LLVM's name of the CPU whose instructions are used, as in an artifact's metadata.
        Default: the best that this machine has.
    board : Session, optional
        Where to measure; here by default.

    Returns
    -------
    Peak
        The best of several short runs.
    """
    target = next((t for t in PRESETS.values() if t.cpu == cpu), None) or native()
    if board is not None:
        best = _timer_on(board, threads)
    else:
        pool = Threads(threads)
        threads, best = pool.count, lambda *given: float(pool.call(_best, *given))
    return Peak(_multiply_adds(threads, target, best), _bandwidth(threads, target, best))


def _multiply_adds(threads: int, target: Target, best: _Timer) -> float:
    """Time a matrix product whose data and weights stay in the caches.

    Sums in registers alone are no faster: 118 against 117 GFLOP/s on a Zen 4 core.
    """
    workload = Pointwise(280 * threads, 512, 48)
    decision = pointwise.default(workload, target)
    sch = Schedule(pointwise.build(workload, decision, target))
    panels = workload.outputs // decision.tile_n
    shapes = ((280 * threads, 512), (panels, 512, decision.tile_n), (280 * threads, 48))
    return 1e-9 * workload.flops / best(sch, target, shapes)


def _bandwidth(threads: int, target: Target, best: _Timer) -> float:
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
    return 1e-9 * 4 * threads * rows * columns / best(sch, target, [shape, (threads, columns)])


def _best(sch: Schedule, target: Target, shapes: Sequence[tuple[int, ...]]) -> float:
    compiled = tvm.compile(sch.mod, target=llvm_target(target))
    evaluator = compiled.mod.time_evaluator("main", tvm.cpu(), number=3, repeat=10)
    arrays = [tvm.runtime.tensor(np.ones(shape, np.float32)) for shape in shapes]
    return float(min(evaluator(*arrays).results))


def _timer_on(board: Session, threads: int) -> _Timer:
    def best(sch: Schedule, target: Target, shapes: Sequence[tuple[int, ...]]) -> float:
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "peak.so"
            tvm.compile(sch.mod, target=llvm_target(target)).export_library(
                str(library), fcompile=lambda output, objects, **_: link_shared(output, objects)
            )
            name = board.upload(library)
        return float(board.call(f"{PREFIX}time", name, json.dumps(shapes), threads))

    return best
