"""Checks and times one compiled layer as it would run in a network, here or on a board.

In a network a layer's input was just written by the layer before it, while its weights were
last read one inference ago. Measured for MobileNetV2 on a Zen 4 server (1 MB of second-level
cache), against each layer's time in the running network: with everything warm, the dense layer
took 0.3 of its time there and the 7x7 pointwise layers 0.9; with all arguments but the input
flushed, as TVM offers it, wide layers took 1.5 times as long. With the weights alone flushed from
all caches before each run, and input and output where the last run left them, nearly every
pointwise layer came within 4 % of the network. So that is how layers are measured here.
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

_COOL = "mobilenet_tvm.tuning.cool"
_CPU = 1


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
    expected = np.load(reference)
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
    """
    import tvm_ffi

    module = load_artifact(library)
    arrays = [_aligned(array) for array in arguments]
    tensors = [tvm_ffi.from_dlpack(array) for array in arrays]
    module["main"](*tensors)
    wrong = check(arrays[-1], reference, allowed)
    if wrong is not None:
        return wrong
    flush = tvm_ffi.get_global_func("cache_flush_cpu_non_first_arg")
    cold = [tensors[index] for index in weights]
    tvm_ffi.register_global_func(_COOL, lambda *_: flush(tensors[0], *cold), override=True)
    evaluator = tvm_ffi.get_global_func("runtime.RPCTimeEvaluator")
    preparation = _COOL if cold else ""

    def run(repeats: int) -> Sequence[float]:
        once = evaluator(module, "main", _CPU, 0, 1, repeats, 0, 0, 0, 1, 0, preparation)
        return struct.unpack(f"={repeats}d", once(*tensors))

    return time_until_stable(run)


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


def pinned_threads(count: int) -> Threads:
    """Keep this process to as many cores as threads share a layer, and return those."""
    if hasattr(os, "sched_setaffinity"):
        # The last ones: the first core usually serves interrupts.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-count:])
    return Threads(count)


def _aligned(array: Array) -> Array:
    """Return a copy that TVM takes without another one."""
    copy = empty_aligned(TensorInfo("", array.shape, "float32"))
    copy[...] = array
    return copy
