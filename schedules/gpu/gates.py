"""What pointwise layers on GPUs multiply by weights: pixels as they are, or times a gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import s_tir, te

from mobilenet_tvm.schedules.gpu.threads import WORTH_IT, gpu_of, nearest, with_traffic
from mobilenet_tvm.schedules.workloads import Pointwise, size_of
from mobilenet_tvm.targets.target import Target

#: The parameter's name.
GATE = "gate"

#: Returns the packed weights, what the epilogue reads, and the result; takes the input of a pixel
#: and a channel as a function of both.
Stages = Callable[[Callable[[Any, Any], Any]], tuple[te.Tensor, list[te.Tensor], te.Tensor]]


def unscheduled(workload: Pointwise, rows: int, stages: Stages) -> s_tir.Schedule:
    """Return a layer's function, nothing of which is scheduled.

    Parameters
    ----------
    workload : Pointwise
        The layer.
    rows : int
        Pixels of all tiles. The last tile computes its last pixel several times, and stores it
        once.
    stages : callable
        Makes the rest of the function.

    Returns
    -------
    Schedule
        Of a function that takes data [pixels, inputs], packed weights, gates [pictures, inputs]
        where there are any, the epilogue's tensors, and the output [pixels, outputs].
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


def pay(workload: Pointwise, cycles: Callable[[Pointwise], float], target: Target) -> bool:
    """Tell whether a layer multiplies by its gates faster than a kernel before it would.

    That one has to be started, and reads and writes all data. This one multiplies anew for each
    tile of outputs.

    Parameters
    ----------
    workload : Pointwise
        The layer, with its gates.
    cycles : callable
        What a layer takes by its schedule's model.
    target : Target
        Its GPU.
    """
    gpu, plain = gpu_of(target), workload.without_gates()
    together, multiply = (
        with_traffic(cycles(layer), layer.bytes, gpu) for layer in (workload, plain)
    )
    moved = size_of(workload.types.data) * workload.inputs * 2 * workload.pixels
    apart = multiply + with_traffic(0, moved, gpu) + gpu.launch_cycles
    return together < WORTH_IT * apart
