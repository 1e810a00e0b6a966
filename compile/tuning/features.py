"""What the cost model sees of a candidate: numbers that compare layers and targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np

from mobilenet_tvm.compile.tuning.space import Space
from mobilenet_tvm.schedules import registry as operators
from mobilenet_tvm.schedules.cpu import block, depthwise, pointwise, stem
from mobilenet_tvm.schedules.workloads import (
    TENSOR_STEPS,
    Block,
    Convolution,
    Depthwise,
    DepthwisePointwise,
    GlobalPool,
    Pointwise,
    Workload,
)
from mobilenet_tvm.targets.presets import PRESETS
from mobilenet_tvm.targets.target import Target

Table = np.ndarray[Any, np.dtype[np.float32]]

_KINDS: tuple[type, ...] = (
    Block,
    Convolution,
    Depthwise,
    DepthwisePointwise,
    GlobalPool,
    Pointwise,
)


def features(workload: Workload, decision: Any, target: Target) -> dict[str, float]:
    """Describe a candidate; what does not apply is absent.

    Parameters
    ----------
    workload : Workload
        The layer.
    decision : object
        How it is computed.
    target : Target
        The machine.
    """
    found: dict[str, float] = {f"is_{kind.__name__}": isinstance(workload, kind) for kind in _KINDS}
    found |= {
        "flops": workload.flops,
        "bytes": workload.bytes,
        "flops_per_byte": workload.flops / workload.bytes,
        "residuals": sum(step.op in TENSOR_STEPS for step in workload.epilogue),
        "epilogue": len(workload.epilogue),
        "lanes_of_target": target.lanes,
        "registers": target.vector_registers,
        "fma_per_cycle": target.fma_per_cycle,
    }
    found |= {name: float(value) for name, value in asdict(decision).items()}
    if target.gpu is not None:
        return found | _gpu(workload, decision, target)
    match workload:
        case Pointwise():
            found |= _pointwise(workload, decision, target)
        case Depthwise():
            found |= _depthwise(workload, decision, target)
        case DepthwisePointwise():
            found |= _product(workload.pointwise, decision, target)
            found["columns"] = decision.tile_m / decision.tile_x
        case Convolution():
            found |= _stem(workload, decision, target)
        case Block():
            found |= _block(workload, decision, target)
    return found


def _gpu(workload: Workload, decision: Any, target: Target) -> dict[str, float]:
    gpu = target.gpu
    assert gpu is not None  # noqa: S101
    found = operators.estimate(workload, decision, target)
    cycles = found.pop("cycles")
    return found | {
        "units": gpu.units,
        "lockstep": gpu.lockstep,
        "registers_share": found["registers_of_thread"] / gpu.registers,
        "log_cycles": math.log(cycles),
        "cycles_per_flop": cycles / workload.flops,
    }


def _block(workload: Block, decision: block.Decision, target: Target) -> dict[str, float]:
    depthwise = workload.halves.depthwise
    found = _product(workload.halves.pointwise, decision.halves, target)
    found["columns"] = decision.tile_m / decision.tile_x
    first = _stem(workload.first, decision.first, target)
    band = (decision.rows - 1) * depthwise.stride[0] + depthwise.kernel[0]
    bands = depthwise.output[0] / decision.rows
    row_bytes = 4 * depthwise.width * depthwise.channels
    return (
        found
        | {f"first_{name}": value for name, value in first.items()}
        | {
            "band_share_of_l2": band * row_bytes / target.l2_bytes,
            "repeated": bands * band / depthwise.height - 1,
            "chunks": depthwise.batch * bands,
        }
    )


def _pointwise(
    workload: Pointwise, decision: pointwise.Decision, target: Target
) -> dict[str, float]:
    found = _product(workload, decision, target)
    tiles = -(-workload.pixels // decision.tile_m)
    rows = min(decision.block_m, tiles) * decision.tile_m
    block = 4 * rows * (workload.inputs + workload.outputs)
    return found | {
        "block_share_of_l1": 4 * rows * workload.inputs / target.l1d_bytes,
        "block_share_of_l2": block / target.l2_bytes,
        "blocks": tiles / decision.block_m,
        "iterations": workload.inputs / decision.unroll_k,
        "unrolled": decision.unroll_k * decision.tile_m * decision.tile_n / decision.lanes,
    }


def _product(workload: Pointwise, decision: Any, target: Target) -> dict[str, float]:
    vectors = decision.tile_n / decision.lanes
    tiles_m = -(-workload.pixels // decision.tile_m)
    tiles_n = -(-workload.outputs // decision.tile_n)
    computed = tiles_m * decision.tile_m * tiles_n * decision.tile_n
    return _tile(decision.tile_m, vectors, decision.tile_m, vectors, target) | {
        "share_of_lanes": decision.lanes / target.lanes,
        "wasted": computed / (workload.pixels * workload.outputs) - 1,
        "ragged": workload.pixels % decision.tile_m / decision.tile_m,
        "panel_share_of_l1": 4 * workload.inputs * decision.tile_n / target.l1d_bytes,
        "rows_share_of_l1": 4 * workload.inputs * decision.tile_m / target.l1d_bytes,
        "panels": tiles_n,
        "chunks": tiles_m * tiles_n,
        "cycles_per_flop": pointwise.cycles(
            workload, target, decision.lanes, decision.tile_m, decision.tile_n
        )
        / workload.flops,
    }


def _depthwise(
    workload: Depthwise, decision: depthwise.Decision, target: Target
) -> dict[str, float]:
    lanes = math.gcd(workload.channels, target.lanes)
    vectors = decision.tile_c / lanes
    rows = (decision.tile_y - 1) * workload.stride[0] + workload.kernel[0]
    columns = (decision.tile_x - 1) * workload.stride[1] + workload.kernel[1]
    taps = workload.kernel[0] * workload.kernel[1]
    height, width = workload.output
    outputs = decision.tile_y * decision.tile_x
    outer = workload.channels / decision.tile_c
    if not decision.channels_outside:
        outer = height / decision.tile_y
    return _tile(outputs, vectors, rows * columns / taps, 1.0, target) | {
        "share_of_lanes": lanes / target.lanes,
        "loads_per_output": (rows * columns + taps) / outputs,
        "unrolled": outputs * vectors * taps,
        "lines": 4 * decision.tile_c / 64,
        "row_share_of_l1": 4 * width * workload.channels * rows / target.l1d_bytes,
        "column_share_of_l1": 4 * width * decision.tile_c * rows / target.l1d_bytes,
        "tiles_x": width / decision.tile_x,
        "stride": workload.stride[0],
        "taps": taps,
        "chunks": workload.batch * outer,
    }


def _stem(workload: Convolution, decision: stem.Decision, target: Target) -> dict[str, float]:
    lanes = math.gcd(workload.outputs, target.lanes)
    vectors = decision.tile_c / lanes
    taps = workload.kernel[0] * workload.kernel[1] * workload.inputs
    return _tile(decision.tile_x, vectors, decision.tile_x, vectors, target) | {
        "share_of_lanes": lanes / target.lanes,
        "unrolled": decision.tile_x * vectors * taps / workload.kernel[0],
        "panels": workload.outputs / decision.tile_c,
        "taps": taps,
    }


def _tile(
    rows: float, vectors: float, broadcasts: float, loads: float, target: Target
) -> dict[str, float]:
    """Describe a register tile: its sums, and what is read for a step of all of them."""
    sums = rows * vectors
    return {
        "sums": sums,
        "vectors": vectors,
        "sums_share": sums / target.vector_registers,
        "pressure": (sums + vectors + 1) / target.vector_registers,
        "reads_per_sum": (broadcasts + loads) / sums,
        "busy": sums / (target.fma_latency * target.fma_per_cycle),
    }


@cache
def _columns() -> tuple[str, ...]:
    """Return the names of all features, from a layer of each kind."""
    target = Target("", "x86_64", "", "")
    window = ((3, 3), (1, 1), (1, 1, 1, 1))
    layers: list[Workload] = [
        Pointwise(16, 16, 16),
        Depthwise(1, 8, 8, 16, *window),
        DepthwisePointwise(Depthwise(1, 8, 8, 16, *window), 16),
        Convolution(1, 8, 8, 3, 16, *window),
        GlobalPool(1, 16, 16),
        Block(
            Convolution(1, 8, 8, 16, 16, (1, 1), (1, 1), (0, 0, 0, 0)),
            DepthwisePointwise(Depthwise(1, 8, 8, 16, *window), 16),
        ),
    ]
    names: set[str] = set()
    for layer in layers:
        names |= features(layer, operators.default(layer, target), target).keys()
    for gpu in (PRESETS["mali"], PRESETS["cuda"]):
        # On tensor cores, where there are any.
        for layer in (*layers, Pointwise(16, 16, 16, dtype="float16")):
            if operators.supports(layer, gpu):
                names |= features(layer, operators.default(layer, gpu), gpu).keys()
    return tuple(sorted(names))


def table(rows: Sequence[dict[str, float]]) -> Table:
    """Return candidates' features as numbers, [candidates, features]; NaN for what is absent."""
    return np.array([[row.get(name, np.nan) for name in _columns()] for row in rows], np.float32)


# TVM's PerStoreFeature looks at the loops of the scheduled function, which here exist only once a
# candidate is built: 5 ms each, where a whole space takes as long this way.
def matrix(space: Space) -> Table:
    """Return the features of a space, [decisions, features]."""
    return table([features(space.workload, d, space.target) for d in space.decisions])
