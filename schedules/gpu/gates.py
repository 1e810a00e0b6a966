"""The data of pointwise layers on GPUs, multiplied by gates if there are any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import s_tir, te

from mobilenet_tvm.schedules.gpu.threads import MIN_GAIN, gpu_of, nearest, with_traffic
from mobilenet_tvm.schedules.workloads import Pointwise, size_of
from mobilenet_tvm.targets.target import Target

#: Name of the parameter of gates.
GATE = "gate"

#: Maps a function that gives the input of a pixel and a channel to the packed weights, the
#: epilogue's operands, and the result.
Stages = Callable[[Callable[[Any, Any], Any]], tuple[te.Tensor, list[te.Tensor], te.Tensor]]


def unscheduled(workload: Pointwise, rows: int, stages: Stages) -> s_tir.Schedule:
    """Return the unscheduled function of a layer.

    Parameters
    ----------
    workload : Pointwise
        The layer.
    rows : int
        Pixels of all tiles. A partial last tile computes its last pixel several times and stores it
        once.
    stages : callable
        Creates the rest of the function.

    Returns
    -------
    Schedule
        Of a function that takes data [pixels, inputs], packed weights, gates [images, inputs] if
        there are any, the epilogue's tensors, and the output [pixels, outputs].
    """
    pixels, inputs = workload.pixels, workload.inputs
    data = te.placeholder((pixels, inputs), workload.types.data, name="data")
    if workload.gates:
        gate = te.placeholder((workload.gates, inputs), workload.types.data, name=GATE)
        gates, size = [gate], pixels // workload.gates
    else:
        gates, size = [], pixels

    def element(m: Any, k: Any) -> Any:
        m = nearest(m, pixels, 0, rows)
        return data[m, k] * gates[0][m // size, k] if gates else data[m, k]

    weight, operands, result = stages(element)
    return s_tir.Schedule(te.create_prim_func([data, weight, *gates, *operands, result]))


def pays(workload: Pointwise, cycles: Callable[[Pointwise], float], target: Target) -> bool:
    """Return whether applying the gates in this layer is faster than in a separate kernel.

    A separate kernel has to be launched, and reads and writes all data. This layer repeats the
    multiplication for each tile of outputs.

    Parameters
    ----------
    workload : Pointwise
        The layer, with its gates.
    cycles : callable
        Estimates the cycles of a layer by its schedule's model.
    target : Target
        The machine.
    """
    gpu, plain = gpu_of(target), workload.without_gates()
    gated, plain_cycles = (
        with_traffic(cycles(layer), layer.bytes, gpu) for layer in (workload, plain)
    )
    moved = size_of(workload.types.data) * workload.inputs * 2 * workload.pixels
    separate = plain_cycles + with_traffic(0, moved, gpu) + gpu.launch_cycles
    return gated < (1 - MIN_GAIN) * separate
