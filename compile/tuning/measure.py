"""Checks and times one compiled candidate as it would run in a network.

In a network a layer's input was just written by the layer before it, while its weights were
last read one inference ago. Measured for MobileNetV2 on a Zen 4 server (1 MB of second-level
cache), against each layer's time in the running network: with everything warm, the dense layer
took 0.3 of its time there and the 7x7 pointwise layers 0.9; with all arguments but the input
flushed, as TVM offers it, wide layers took 1.5 times as long. With the weights alone flushed from
all caches before each run, and input and output where the last run left them, nearly every
pointwise layer came within 4 % of the network. So that is how candidates are measured here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
import tvm_ffi

from mobilenet_tvm.schedules import operators
from mobilenet_tvm.schedules.workload import CHANNEL_STEPS, TENSOR_STEPS, Workload

Array = np.ndarray[Any, np.dtype[np.float32]]

#: Names and shapes of a function's parameters; the first is the data, the last the output.
Parameters = Sequence[tuple[str, tuple[int, ...]]]

#: What logs say of the caches.
CACHES = "weights cold, data warm"

#: Seconds of a round, and the most runs in one.
_ROUND, _MOST_RUNS = 0.005, 100
#: A neighbour on the same core's other hardware thread was seen to slow runs by 40 % for 1 to 3
#: milliseconds at a time: so many rounds last longer than that.
_ROUNDS = 4
#: A candidate's time is stable when a round changes it by less than this share.
_STABLE = 0.005
#: No further round after so many seconds.
_LONGEST = 0.2

_COOL = "mobilenet_tvm.tuning.cool"


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
    """

    seconds: float
    minimum: float
    spread: float
    repeats: int


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


def random_arguments(
    workload: Workload, decision: Any, parameters: Parameters
) -> tuple[list[Array], list[int]]:
    """Return arguments for a candidate, equal for all decisions apart from the packing.

    Parameters
    ----------
    workload : Workload
        The layer.
    decision : object
        Says how weights are packed.
    parameters : sequence of (str, tuple of int)
        The function's.

    Returns
    -------
    arrays : list of ndarray
        One per parameter. Sums of weighted inputs have variance 1; the output is NaN.
    weights : list of int
        Which arrays stay the same from one inference to the next.
    """
    rng = np.random.default_rng(0)

    def normal(shape: tuple[int, ...], scale: float = 1.0) -> Array:
        return rng.standard_normal(shape, np.float32) * np.float32(scale)

    plain = [normal(shape, np.prod(shape[:-1]) ** -0.5) for shape in workload.weights]
    remaining = iter(operators.pack(workload, plain, decision))
    arrays, weights = [], []
    last = len(parameters) - 1
    for index, (name, shape) in enumerate(parameters):
        step = name.rpartition("_")[0]
        if index == last:
            arrays.append(np.full(shape, np.nan, np.float32))
        elif index == 0 or step in CHANNEL_STEPS | TENSOR_STEPS:
            arrays.append(normal(shape))
        else:
            arrays.append(next(remaining))
        if 0 < index < last and step not in TENSOR_STEPS:
            weights.append(index)
    return arrays, weights


def tolerance(workload: Workload, outputs: int) -> float:
    """Return how far apart two right results may be, as a share of the largest.

    Rounding errors of a float32 sum grow like the root of the number of its terms.
    """
    terms = max(1.0, workload.flops / (2 * outputs))
    return float(16 * np.finfo(np.float32).eps * terms**0.5)


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
    path: str, workload: Workload, decision: Any, parameters: Parameters, reference: Path
) -> Measurement | Failure:
    """Load, check and time a candidate on this machine.

    Parameters
    ----------
    path : str
        The library; its function is called `main`.
    workload : Workload
        What it computes.
    decision : object
        How.
    parameters : sequence of (str, tuple of int)
        The function's.
    reference : Path
        See `check`.
    """
    module = tvm.runtime.load_module(path)
    arrays, weights = random_arguments(workload, decision, parameters)
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    module["main"](*tensors)
    result = tensors[-1].numpy()
    wrong = check(result, reference, tolerance(workload, result.size))
    if wrong is not None:
        return wrong
    flush = tvm.get_global_func("cache_flush_cpu_non_first_arg")
    cold = [tensors[index] for index in weights]
    tvm_ffi.register_global_func(_COOL, lambda *_: flush(tensors[0], *cold), override=True)

    def run(repeats: int) -> Sequence[float]:
        evaluator = module.time_evaluator(
            "main", tvm.cpu(), number=1, repeat=repeats, f_preproc=_COOL if cold else ""
        )
        results: Sequence[float] = evaluator(*tensors).results
        return results

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
        late = time.perf_counter() - start > _LONGEST
        if rounds >= _ROUNDS and (late or abs(now - before) <= _STABLE * before):
            break
        before = now
    spread = float(np.median(seconds)) / now - 1
    return Measurement(now, min(seconds), spread, len(seconds))
