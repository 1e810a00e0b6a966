"""Checks and times one compiled layer under the conditions of a network, here or on a board.

In a network, a layer's input has just been written by the layer before it, and its weights were
last read one inference ago. For MobileNetV2 on a Zen 4 server (1 MB of second-level cache), layers
were timed alone and compared with their times in the running network. With warm caches, the dense
layer took 0.3 of its time in the network and the 7x7 pointwise layers 0.9. With all arguments but
the input flushed, as TVM offers, wide layers took 1.5 times as long. With only the weights flushed
from all caches before each run, nearly every pointwise layer came within 4 % of the network. Layers
are therefore measured that way.

A GPU has no instruction that flushes its caches: copying enough memory does it, and then the input
is copied again. Where the caches hold a whole network's weights, nothing is flushed.
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

from mobilenet_tvm.runtime.base_model import empty_aligned
from mobilenet_tvm.runtime.device import CPU, Device, copy, open_device
from mobilenet_tvm.runtime.library import load_artifact
from mobilenet_tvm.runtime.metadata import TensorInfo
from mobilenet_tvm.runtime.threads import Threads

Array = np.ndarray[Any, np.dtype[np.float32]]

#: Seconds that a round of runs should last, and the maximum number of runs in one.
_ROUND_SECONDS, _MAX_RUNS = 0.005, 100
#: A process on the core's other hardware thread was seen to slow runs by 40 % for 1 to 3 ms at a
#: time; this many rounds last longer.
_MIN_ROUNDS = 4
#: A candidate's time is stable when another round changes it by at most this fraction.
_STABLE = 0.005
#: Seconds after which an unstable time is accepted, and after which so is one of fewer rounds than
#: `_MIN_ROUNDS`: a candidate so slow, as on an emulated board, outlasts any disturbance by itself.
_TIMEOUT, _HARD_TIMEOUT = 0.2, 1.0

#: Runs that a GPU's timer takes together where no cache is flushed between them: a kernel of some
#: microseconds is hardly longer than the timer's resolution.
_RUNS_PER_TIME = 10

#: Seconds of calls beside which launching them is negligible.
_LONG = 0.001

#: The function that TVM's evaluator calls before each run.
_FLUSH = "mobilenet_tvm.tuning.flush"


@dataclass(frozen=True)
class Place:
    """Where a candidate runs.

    Parameters
    ----------
    kind : str
        TVM's name for the kind of its code: `llvm`, `opencl` or `cuda`.
    cold_bytes : int
        How many bytes to copy on a GPU to evict the weights from its caches; 0 for none.
    """

    kind: str = CPU
    cold_bytes: int = 0


@dataclass(frozen=True)
class Measurement:
    """A candidate's time.

    Parameters
    ----------
    seconds : float
        First decile of the runs' times, since other processes only ever add time.
    minimum : float
        Shortest run, in seconds.
    spread : float
        How much longer than `seconds` the median run took, as a fraction of it.
    repeats : int
        Number of timed runs.
    board, device : str
        The board that measured it, and its machine or GPU; empty for this machine.
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
        `build`, `wrong` (result), `crashed`, `hung`, or `error`.
    reason : str
        Details, in one line.
    """

    kind: str
    reason: str


def check(result: Array, reference: Path, allowed: float) -> Failure | None:
    """Compare a candidate's result with the default decision's, or store it as that.

    Parameters
    ----------
    result : ndarray
        The candidate's result, with NaN where it wrote nothing.
    reference : Path
        The file of the default decision's result. If it does not exist, the candidate is the
        default, and its result is stored there.
    allowed : float
        Maximum difference, as a fraction of the largest value.

    Returns
    -------
    Failure or None
        None if the result is correct.
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
    return Failure("wrong", f"the result differs by {difference:.1e}, more than {limit:.1e}")


def measure_candidate(
    library: Path,
    arguments: Sequence[Array],
    weights: Sequence[int],
    reference: Path,
    allowed: float,
    place: Place,
) -> Measurement | Failure:
    """Load, check and time a candidate in this process.

    Parameters
    ----------
    library : Path
        The candidate; its function is called `main`.
    arguments : sequence of ndarray
        Its arguments. The last one is its output, filled with NaN.
    weights : sequence of int
        Indices of the arguments that stay the same from one inference to the next.
    reference : Path
        See `check`.
    allowed : float
        See `check`.
    place : Place
        This machine's CPU, or one of its GPUs.

    Returns
    -------
    Measurement or Failure
        Its time, or what is wrong with its result.

    Raises
    ------
    UserError
        If this machine lacks such a GPU.
    """
    import tvm_ffi

    device = open_device(place.kind)
    # The first call compiles OpenCL's kernels. It does not cache them: candidates are many.
    module = load_artifact(library, own_copy=not device.is_cpu)
    arrays = [_aligned(array) for array in arguments]
    tensors = [_tensor(array, device) for array in arrays]
    module["main"](*tensors)
    _copy_back(tensors[-1], arrays[-1], device)
    wrong = check(arrays[-1], reference, allowed)
    if wrong is not None:
        return wrong
    if device.is_cpu:
        flush = _cpu_flush(tensors[0], [tensors[index] for index in weights]) if weights else None
    else:
        flush = _gpu_flush(tensors[0], device, place.cold_bytes) if place.cold_bytes else None
    if flush is not None:
        tvm_ffi.register_global_func(_FLUSH, flush, override=True)
    evaluator = tvm_ffi.get_global_func("runtime.RPCTimeEvaluator")
    where = (device.places[0], device.number)
    number = 1 if device.is_cpu or flush else _RUNS_PER_TIME
    preparation = _FLUSH if flush else ""

    def run(repeats: int) -> Sequence[float]:
        once = evaluator(module, "main", *where, number, repeats, 0, 0, 0, 1, 0, preparation)
        return struct.unpack(f"={repeats}d", once(*tensors))

    return time_until_stable(run)


def _tensor(array: Array, device: Device) -> Any:
    """Return an array as TVM's tensor in the device's memory."""
    import tvm_ffi

    here = tvm_ffi.from_dlpack(array)
    if device.is_cpu:
        return here
    there = device.empty(array.shape, str(array.dtype))
    copy(here, there)
    return there


def _copy_back(tensor: Any, array: Array, device: Device) -> None:
    """Fill an array with a device's tensor, unless the two share their memory."""
    import tvm_ffi

    if not device.is_cpu:
        copy(tensor, tvm_ffi.from_dlpack(array))
        device.synchronize()


def _cpu_flush(data: Any, weights: Sequence[Any]) -> Callable[..., None]:
    """Return a function that flushes weights from a CPU's caches."""
    import tvm_ffi

    flush = tvm_ffi.get_global_func("cache_flush_cpu_non_first_arg")
    return lambda *_: flush(data, *weights)


def _gpu_flush(data: Any, device: Device, size: int) -> Callable[..., None]:
    """Return a function that evicts all but a layer's input from a GPU's caches."""
    source, destination = (device.empty((size,), "uint8") for _ in range(2))
    data_copy = device.empty(data.shape, str(data.dtype))
    copy(data, data_copy)

    def flush(*_: Any) -> None:
        copy(source, destination)
        copy(data_copy, data)
        device.synchronize()

    return flush


def time_until_stable(run: Callable[[int], Sequence[float]]) -> Measurement:
    """Time rounds of runs until another round changes little, or the time is up.

    Parameters
    ----------
    run : callable
        Takes a number of runs, and returns the seconds of each.

    Returns
    -------
    Measurement
        Of all rounds.
    """
    start = time.perf_counter()
    runs = int(np.clip(_ROUND_SECONDS / max(min(run(3)), 1e-9), 3, _MAX_RUNS))
    seconds: list[float] = []
    before, rounds = 0.0, 0
    while True:
        seconds += run(runs)
        rounds += 1
        now = float(np.quantile(seconds, 0.1))
        elapsed = time.perf_counter() - start
        stable = abs(now - before) <= _STABLE * before
        if elapsed > _HARD_TIMEOUT or (rounds >= _MIN_ROUNDS and (elapsed > _TIMEOUT or stable)):
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
        TVM's name for the kind of its code.
    runs : int
        Number of times taken, each of enough calls to make launching them negligible.

    Returns
    -------
    float
        Seconds of a call, from the shortest of those times.
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

    # The first call is slow: caches are cold, and a GPU's kernels are not loaded.
    seconds(1)
    calls = int(np.clip(_LONG / seconds(1), 1, _MAX_RUNS))
    return min(seconds(calls) for _ in range(runs))


def pinned_threads(count: int, kind: str) -> Threads:
    """Bind this process to as many cores as threads share a layer.

    For a GPU it stays on all cores, since the driver has threads of its own.

    Parameters
    ----------
    count : int
        How many threads share a layer.
    kind : str
        TVM's name for the kind of the candidates' code.

    Returns
    -------
    Threads
        With which to call the candidates.
    """
    if kind == CPU and hasattr(os, "sched_setaffinity"):
        # The last ones: the first core usually serves interrupts.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-count:])
    return Threads(count)


def _aligned(array: Array) -> Array:
    """Return a copy that TVM takes without copying it again."""
    aligned = empty_aligned(TensorInfo("", array.shape, str(array.dtype)))
    aligned[...] = array
    return aligned
