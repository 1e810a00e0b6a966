"""Checks and times one compiled layer as it would run in a network, here or on a board.

In a network a layer's input was just written by the layer before it, while its weights were
last read one inference ago. Measured for MobileNetV2 on a Zen 4 server (1 MB of second-level
cache), against each layer's time in the running network: with everything warm, the dense layer
took 0.3 of its time there and the 7x7 pointwise layers 0.9; with all arguments but the input
flushed, as TVM offers it, wide layers took 1.5 times as long. With the weights alone flushed from
all caches before each run, and input and output where the last run left them, nearly every
pointwise layer came within 4 % of the network. So that is how layers are measured here.

On a GPU, whose caches no instruction flushes, copying enough memory to and fro does it, and then
the input is copied anew. Where the caches hold a whole network's weights, nothing is flushed.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobilenet_tvm.runtime.device import CPU, Device, copy, open_device
from mobilenet_tvm.runtime.library import load_artifact
from mobilenet_tvm.runtime.metadata import TensorInfo
from mobilenet_tvm.runtime.model import empty_aligned
from mobilenet_tvm.runtime.threads import Threads

Array = np.ndarray[Any, np.dtype[np.float32]]

#: Seconds of a round, and the most runs in one.
_ROUND, _MOST_RUNS = 0.005, 100
#: A neighbour on the same core's other hardware thread was seen to slow runs by 40 % for 1 to 3
#: milliseconds at a time: so many rounds last longer than that.
_ROUNDS = 4
#: A candidate's time is stable when a round changes it by less than this share.
_STABLE = 0.005
#: Seconds after which no round follows that is not needed, and after which none does at all: a
#: candidate so slow, as on an emulated board, outlasts any neighbour by itself.
_LONGEST, _AT_MOST = 0.2, 1.0

#: Runs that a GPU's clock takes together where no cache has to be flushed between them: a kernel of
#: some microseconds is hardly longer than the clock's own steps.
_TOGETHER = 10

#: Seconds beside which the start of a call is nothing.
_LONG = 0.001

_COOL = "mobilenet_tvm.tuning.cool"


@dataclass(frozen=True)
class Place:
    """Where a candidate runs.

    Parameters
    ----------
    kind : str
        TVM's name of what its code is: `llvm`, `opencl` or `cuda`.
    cold_bytes : int
        How many bytes to copy on a GPU, so that its caches forget the weights; 0 for none.
    """

    kind: str = CPU
    cold_bytes: int = 0


@dataclass(frozen=True)
class Measurement:
    """How long a candidate takes.

    Parameters
    ----------
    seconds : float
        First decile of the runs: other processes only ever add time.
    minimum : float
        Shortest run, in seconds.
    spread : float
        How much longer than `seconds` the median run took, as a share of it.
    repeats : int
        How many runs were timed.
    board, device : str
        Which board has measured it, and what machine that is; empty where this machine has.
    """

    seconds: float
    minimum: float
    spread: float
    repeats: int
    board: str = ""
    device: str = ""


@dataclass(frozen=True)
class Failure:
    """Why a candidate has no time.

    Parameters
    ----------
    kind : str
        `build`, `wrong` (its result), `crashed`, `hung`, or `error`.
    reason : str
        One line.
    """

    kind: str
    reason: str


def check(result: Array, reference: Path, allowed: float) -> Failure | None:
    """Compare a candidate's result with the default decision's, which is stored if it is new.

    Parameters
    ----------
    result : ndarray
        The candidate's; what it did not write is NaN.
    reference : Path
        The file of the default's.
    allowed : float
        The largest difference, as a share of the largest value.

    Returns
    -------
    Failure or None
        None where the result is right.
    """
    if not np.isfinite(result).all():
        return Failure("wrong", "the result is not finite, or not written everywhere")
    if not reference.exists():
        np.save(reference, result)
        return None
    result, expected = (array.astype(np.float32) for array in (result, np.load(reference)))
    difference = float(np.abs(result - expected).max())
    limit = allowed * max(1.0, float(np.abs(expected).max()))
    if difference <= limit:
        return None
    return Failure("wrong", f"the result differs by {difference:.1e}, allowed {limit:.1e}")


def measure(
    library: Path,
    arguments: Sequence[Array],
    weights: Sequence[int],
    reference: Path,
    allowed: float,
    place: Place,
) -> Measurement | Failure:
    """Load, check and time a candidate on this machine, on which TVM's runtime is loaded.

    Parameters
    ----------
    library : Path
        The candidate; its function is called `main`.
    arguments : sequence of ndarray
        What it is called with; the last one is its output and full of NaN.
    weights : sequence of int
        Which of them stay the same from one inference to the next.
    reference : Path
        See `check`.
    allowed : float
        See `check`.
    place : Place
        This machine's CPU, or one of its GPUs.

    Raises
    ------
    UserError
        If this machine lacks such a GPU.
    """
    import tvm_ffi

    device = open_device(place.kind)
    # OpenCL's kernels are compiled by the first call, which keeps no file of a passing candidate.
    module = load_artifact(library, own_copy=not device.is_cpu)
    arrays = [_aligned(array) for array in arguments]
    tensors = [_tensor(array, device) for array in arrays]
    module["main"](*tensors)
    _copy_back(tensors[-1], arrays[-1], device)
    wrong = check(arrays[-1], reference, allowed)
    if wrong is not None:
        return wrong
    if device.is_cpu:
        cool = _flush(tensors[0], [tensors[index] for index in weights]) if weights else None
    else:
        cool = _overwrite(tensors[0], device, place.cold_bytes) if place.cold_bytes else None
    if cool is not None:
        tvm_ffi.register_global_func(_COOL, cool, override=True)
    evaluator = tvm_ffi.get_global_func("runtime.RPCTimeEvaluator")
    where = (device.places[0], device.number)
    number = 1 if device.is_cpu or cool else _TOGETHER
    preparation = _COOL if cool else ""

    def run(repeats: int) -> Sequence[float]:
        once = evaluator(module, "main", *where, number, repeats, 0, 0, 0, 1, 0, preparation)
        return struct.unpack(f"={repeats}d", once(*tensors))

    return time_until_stable(run)


def _tensor(array: Array, device: Device) -> Any:
    """Return an array as TVM's tensor, where the device works on it."""
    import tvm_ffi

    here = tvm_ffi.from_dlpack(array)
    if device.is_cpu:
        return here
    there = device.empty(array.shape, str(array.dtype))
    copy(here, there)
    return there


def _copy_back(tensor: Any, array: Array, device: Device) -> None:
    """Fill an array with what a device has computed, if that is not its memory anyway."""
    import tvm_ffi

    if not device.is_cpu:
        copy(tensor, tvm_ffi.from_dlpack(array))
        device.synchronize()


def _flush(data: Any, weights: Sequence[Any]) -> Callable[..., None]:
    """Return a function that takes weights out of a CPU's caches."""
    import tvm_ffi

    flush = tvm_ffi.get_global_func("cache_flush_cpu_non_first_arg")
    return lambda *_: flush(data, *weights)


def _overwrite(data: Any, device: Device, size: int) -> Callable[..., None]:
    """Return a function that leaves a layer's input in a GPU's caches, and nothing else."""
    source, destination = (device.empty((size,), "uint8") for _ in range(2))
    twin = device.empty(data.shape, str(data.dtype))
    copy(data, twin)

    def overwrite(*_: Any) -> None:
        copy(source, destination)
        copy(twin, data)
        device.synchronize()

    return overwrite


def time_until_stable(run: Callable[[int], Sequence[float]]) -> Measurement:
    """Time rounds of runs until another one changes little, or the time is up.

    Parameters
    ----------
    run : callable
        Runs so many times, and returns the seconds of each.
    """
    start = time.perf_counter()
    runs = int(np.clip(_ROUND / max(min(run(3)), 1e-9), 3, _MOST_RUNS))
    seconds: list[float] = []
    before, rounds = 0.0, 0
    while True:
        seconds += run(runs)
        rounds += 1
        now = float(np.quantile(seconds, 0.1))
        elapsed = time.perf_counter() - start
        stable = abs(now - before) <= _STABLE * before
        if elapsed > _AT_MOST or (rounds >= _ROUNDS and (elapsed > _LONGEST or stable)):
            break
        before = now
    spread = float(np.median(seconds)) / now - 1
    return Measurement(now, min(seconds), spread, len(seconds))


def shortest_run(
    library: Path, tensors: Sequence[tuple[Sequence[int], str]], kind: str, runs: int = 30
) -> float:
    """Time a function whose arguments' values do not matter.

    Parameters
    ----------
    library : Path
        Its function is called `main`.
    tensors : sequence of (sequence of int, str)
        Shapes and dtypes of its arguments.
    kind : str
        TVM's name of what its code is.
    runs : int
        How many times are taken, each of as many calls as last longer than their start.

    Returns
    -------
    float
        Seconds of a call, by the shortest of them.
    """
    device = open_device(kind)
    module = load_artifact(library, own_copy=not device.is_cpu)
    ones = [_tensor(_aligned(np.ones(shape, dtype)), device) for shape, dtype in tensors]
    main = module["main"]

    def seconds(calls: int) -> float:
        device.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            main(*ones)
        device.synchronize()
        return (time.perf_counter() - start) / calls

    # The first call finds nothing in its place.
    seconds(1)
    calls = int(np.clip(_LONG / seconds(1), 1, _MOST_RUNS))
    return min(seconds(calls) for _ in range(runs))


def pinned_threads(count: int, kind: str) -> Threads:
    """Keep this process to as many cores as threads share a layer, and return those.

    A GPU's driver has threads of its own, which keep all cores.
    """
    if kind == CPU and hasattr(os, "sched_setaffinity"):
        # The last ones: the first core usually serves interrupts.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-count:])
    return Threads(count)


def _aligned(array: Array) -> Array:
    """Return a copy that TVM takes without another one."""
    aligned = empty_aligned(TensorInfo("", array.shape, str(array.dtype)))
    aligned[...] = array
    return aligned
