"""Measures a model's latency."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mobilenet_tvm.runtime.base_model import Array, BaseModel, empty_aligned


@dataclass(frozen=True)
class Latency:
    """The times of a model's calls.

    Parameters
    ----------
    seconds : ndarray of float64
        One value per call, in the order of the calls.
    """

    seconds: Array

    @property
    def rounds(self) -> int:
        """Number of calls."""
        return len(self.seconds)

    @property
    def minimum(self) -> float:
        """Shortest time, in seconds."""
        return float(self.seconds.min())

    @property
    def median(self) -> float:
        """Median time, in seconds."""
        return float(np.median(self.seconds))

    @property
    def p90(self) -> float:
        """90th percentile, in seconds."""
        return float(np.percentile(self.seconds, 90))

    @property
    def p99(self) -> float:
        """99th percentile, in seconds."""
        return float(np.percentile(self.seconds, 99))

    def to_dict(self) -> dict[str, float]:
        """Return the number of calls, and the statistics in milliseconds."""
        names = ("minimum", "median", "p90", "p99")
        return {"rounds": self.rounds} | {f"{name}_ms": 1e3 * getattr(self, name) for name in names}


def measure_latency(
    model: BaseModel,
    inputs: Mapping[str, ArrayLike] | None = None,
    rounds: int = 100,
    warmup: int = 10,
) -> Latency:
    """Time calls of a model, made one after the other as an app makes them.

    Parameters
    ----------
    model : BaseModel
        The model.
    inputs : mapping of str to array_like, optional
        By name. Default: random numbers.
    rounds : int
        Number of timed calls.
    warmup : int
        Number of calls before them, which warm the caches and wake TVM's workers.

    Returns
    -------
    Latency
        The time of each call, from NumPy inputs to NumPy outputs.
    """
    given = random_inputs(model) if inputs is None else inputs
    arrays = [given[info.name] for info in model.inputs]
    for _ in range(warmup):
        model(*arrays)
    nanoseconds = np.empty(rounds, np.int64)
    for index in range(rounds):
        start = time.perf_counter_ns()
        model(*arrays)
        nanoseconds[index] = time.perf_counter_ns() - start
    return Latency(nanoseconds * 1e-9)


def random_inputs(model: BaseModel, seed: int = 0) -> dict[str, Array]:
    """Return random inputs, which the model takes without a copy.

    Parameters
    ----------
    model : BaseModel
        The model, for its inputs' names, shapes and dtypes.
    seed : int
        Seed of the random numbers.

    Returns
    -------
    dict of str to ndarray
        By name: normally distributed floats, uniformly distributed integers.
    """
    rng = np.random.default_rng(seed)
    inputs = {}
    for info in model.inputs:
        array = empty_aligned(info)
        if array.dtype.kind in "iu":
            limits = np.iinfo(array.dtype)
            low, high = max(limits.min, -128), min(limits.max, 255)
            array[...] = rng.integers(low, high, info.shape, endpoint=True)
        else:
            array[...] = rng.standard_normal(info.shape)
        inputs[info.name] = array
    return inputs
