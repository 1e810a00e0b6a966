"""Measures the peak of a machine: multiply-adds and memory bandwidth of its cores or its GPU."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import te, tirx
from tvm.s_tir import Schedule

from mobilenet_tvm.compile.codegen.build import write_library
from mobilenet_tvm.runtime.measure import shortest_run
from mobilenet_tvm.runtime.remote.answers import read_seconds
from mobilenet_tvm.runtime.remote.connection import Connection
from mobilenet_tvm.runtime.remote.marks import PREFIX
from mobilenet_tvm.runtime.threads import Threads
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.cpu import pointwise
from mobilenet_tvm.schedules.gpu import tensor_core_pointwise
from mobilenet_tvm.schedules.gpu.threads import (
    arithmetic,
    bind_threads,
    copy_in_vectors,
    fma_per_cycle,
    gpu_of,
    lanes_of,
)
from mobilenet_tvm.schedules.workloads import Pointwise, Step, Types, Workload
from mobilenet_tvm.targets.presets import PRESETS, get_target, native
from mobilenet_tvm.targets.target import Target

#: Returns the seconds of the shortest run of a module's function of arrays.
_Timer = Callable[[tvm.IRModule], float]

#: Seconds for which a GPU multiplies: far more than the launch of a kernel takes.
_GPU_SECONDS = 0.01


@dataclass(frozen=True)
class Peak:
    """What some threads together, or a GPU, can do.

    Parameters
    ----------
    gflops : float
        Multiply-adds on registers, in 1e9 operations per second; a multiply-add is two.
    gbytes : float
        Bytes read from memory per second, in 1e9; on a GPU, read and written.
    gops : float
        Multiply-adds of 8-bit integers, in 1e9 operations per second; 0 where none are used.
    """

    gflops: float
    gbytes: float
    gops: float = 0.0

    @property
    def text(self) -> str:
        """The peaks of multiply-adds, as text."""
        integers = f", {self.gops:.1f} GOP/s in int8" if self.gops else ""
        return f"{self.gflops:.1f} GFLOP/s{integers}"

    def of(self, workload: Workload) -> float:
        """Return the peak of a layer's multiply-adds, in 1e9 operations per second."""
        return self.gops if workload.types.integer and self.gops else self.gflops


def target_of(facts: Mapping[str, Any]) -> Target:
    """Return the target in an artifact's metadata, as far as the machine's peak depends on it."""
    if facts.get("kind", "llvm") != "llvm":
        return get_target(facts["name"])
    used = set(facts.get("features", "").split(","))
    fitting = [t for t in PRESETS.values() if t.cpu == facts["cpu"] and used.issuperset(t.features)]
    return max(fitting, key=lambda t: len(t.features), default=None) or native()


def measure_peak(
    target: Target, threads: int = 1, board: Connection | None = None, dtype: str = "float32"
) -> Peak:
    """Measure this machine or a board.

    Parameters
    ----------
    target : Target
        The instructions to use, or the GPU.
    threads : int
        How many threads run on a CPU.
    board : Connection, optional
        Where to measure; here by default.
    dtype : str
        Type of the multiply-adds of floats.

    Returns
    -------
    Peak
        The best of several short runs.
    """
    if board is None:
        threads = Threads(threads).count
    best = _timer(target, threads, board)
    if target.gpu is not None:
        return Peak(_gpu_multiply_adds(target, dtype, best), _gpu_bandwidth(target, best))
    integers = _integer_multiply_adds(threads, target, best) if target.dot else 0.0
    floats = _multiply_adds(threads, target, dtype, best)
    return Peak(floats, _bandwidth(threads, target, best), integers)


def _multiply_adds(threads: int, target: Target, dtype: str, best: _Timer) -> float:
    """Time a matrix product whose data and weights stay in the caches.

    Sums in registers alone are hardly faster: 118 against 117 GFLOP/s on a Zen 4 core.
    """
    workload = Pointwise(280 * threads, 512, 48, types=Types.of(dtype))
    decision = pointwise.SCHEDULE.default(workload, target)
    func = pointwise.SCHEDULE.build(workload, decision, target)
    return 1e-9 * workload.flops / best(_module(func))


def _integer_multiply_adds(threads: int, target: Target, best: _Timer) -> float:
    """Time an integer product whose data and weights stay in the caches."""
    bytes_type = target.bytes_type
    types = Types(bytes_type, "int8", "int32", bytes_type)
    steps = (Step("add_channel"), Step("requantize"))
    workload = Pointwise(280 * threads, 1024, 96, steps, types)
    func = registry.build(workload, registry.default(workload, target), target)
    return 1e-9 * workload.flops / best(_module(func))


def _bandwidth(threads: int, target: Target, best: _Timer) -> float:
    """Sum an array that is larger than the caches."""
    lanes = target.lanes_of("float32")
    columns = 16 * lanes
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
    outer, lane = sch.split(c, [None, lanes])
    sch.reorder(r, outer, lane)
    sch.unroll(outer)
    sch.vectorize(lane)
    sch.decompose_reduction(block, r)
    return 1e-9 * 4 * threads * rows * columns / best(sch.mod)


def _gpu_multiply_adds(target: Target, dtype: str, best: _Timer) -> float:
    """Time threads that add to sums in registers; all load the same factors from a cache.

    Each has eight vectors of sums that do not depend on each other, for drivers that run one thread
    of a core at a time: those for CPUs. Where there are tensor cores, a large product on them is
    timed instead.
    """
    product = Pointwise(1 << 16, 1024, 1024, types=Types.of(dtype))
    if tensor_core_pointwise.SCHEDULE.takes(product, target):
        return _tensor_multiply_adds(product, target, best)
    gpu, vectors, steps = gpu_of(target), 8, 1024
    type_ = arithmetic(dtype, gpu)
    lanes, group = lanes_of(type_), 4 * gpu.lockstep
    per_second = 1e9 * gpu.units * fma_per_cycle(dtype, gpu) * gpu.clock_ghz
    groups = max(1, round(_GPU_SECONDS * per_second / (vectors * lanes * steps * group)))
    shapes = ((groups * group, lanes), (steps, vectors), (groups * group, vectors, lanes))
    data, factors = (te.placeholder(shape, type_) for shape in shapes[:2])
    k = te.reduce_axis((0, steps), name="k")
    total = te.compute(
        shapes[2], lambda t, v, lane: te.sum(data[t, lane] * factors[k, v], axis=k), name="total"
    )
    sch = Schedule(te.create_prim_func([data, factors, total]))
    block = sch.get_sblock("total")
    stored = sch.cache_write(block, 0, "local")
    loop, _, lane = sch.get_loops(stored)
    thread = bind_threads(sch, [loop], group)
    sch.vectorize(lane)
    sch.compute_at(block, thread)
    copy_in_vectors(sch, sch.cache_read(block, 0, "local"), thread, lanes)
    vector, lane, step = sch.get_loops(block)[-3:]
    sch.reorder(step, vector, lane)
    copy_in_vectors(sch, sch.cache_read(block, 1, "local"), step, lanes)
    sch.unroll(vector)
    sch.vectorize(lane)
    *_, vector, lane = sch.get_loops(sch.decompose_reduction(block, step))
    sch.unroll(vector)
    sch.vectorize(lane)
    flops = 2 * groups * group * vectors * lanes * steps
    return 1e-9 * flops / best(sch.mod)


def _tensor_multiply_adds(product: Pointwise, target: Target, best: _Timer) -> float:
    decision = tensor_core_pointwise.SCHEDULE.default(product, target)
    sch = Schedule(tensor_core_pointwise.SCHEDULE.build(product, decision, target))
    return 1e-9 * product.flops / best(sch.mod)


def _gpu_bandwidth(target: Target, best: _Timer) -> float:
    """Add to each element of an array that is larger than the caches."""
    gpu = gpu_of(target)
    size = max(1 << 24, 2 * gpu.l2_bytes)
    data = te.placeholder((size,), name="data")
    result = te.compute((size,), lambda i: data[i] + 1.0, name="result")
    sch = Schedule(te.create_prim_func([data, result]))
    (loop,) = sch.get_loops(sch.get_sblock("result"))
    vector, lane = sch.split(loop, [None, lanes_of("float32")])
    bind_threads(sch, [vector], 4 * gpu.lockstep)
    sch.vectorize(lane)
    return 1e-9 * 2 * 4 * size / best(sch.mod)


def _timer(target: Target, threads: int, board: Connection | None) -> _Timer:
    def best(mod: tvm.IRModule) -> float:
        parameters = mod["main"].params
        tensors = [(tuple(map(int, p.ty.shape)), str(p.ty.dtype)) for p in parameters]
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "peak.so"
            write_library(mod, target, library)
            if board is None:
                return float(Threads(threads).call(shortest_run, library, tensors, target.kind))
            name = board.upload(library)
        given = (name, json.dumps(tensors), threads, target.kind)
        return float(read_seconds([board.call(f"{PREFIX}time", *given)])[0])

    return best


def _module(func: tirx.PrimFunc) -> tvm.IRModule:
    return tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
