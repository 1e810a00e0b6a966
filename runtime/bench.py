"""Measures how long a model takes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mobilenet_tvm.runtime.model import Array, BaseModel, Model, empty_aligned


@dataclass(frozen=True)
class Latency:
    """How long each call took.

    Parameters
    ----------
    seconds : ndarray of float64
        One value per round, in the order in which they ran.
    """

    seconds: Array

    @property
    def rounds(self) -> int:
        """Number of calls."""
        return len(self.seconds)

    @property
    def minimum(self) -> float:
        """Shortest call, in seconds."""
        return float(self.seconds.min())

    @property
    def median(self) -> float:
        """Median, in seconds."""
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
        """Return the number of rounds, and the statistics in milliseconds."""
        names = ("minimum", "median", "p90", "p99")
        return {"rounds": self.rounds} | {f"{name}_ms": 1e3 * getattr(self, name) for name in names}


def measure_latency(
    model: Model,
    inputs: Mapping[str, ArrayLike] | None = None,
    rounds: int = 100,
    warmup: int = 10,
) -> Latency:
    """Call a model again and again, as an app does, and time each call.

    Parameters
    ----------
    model : Model
        The model.
    inputs : mapping of str to array_like, optional
        By name; random numbers by default.
    rounds : int
        How many calls are timed.
    warmup : int
        How many calls run before them, so that caches are warm and TVM's workers awake.

    Returns
    -------
    Latency
        The time of each call, from arrays in to arrays out.
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
    """Return an input for each of a model's inputs, which it takes without a copy.

    Parameters
    ----------
    model : BaseModel
        Gives names, shapes and dtypes.
    seed : int
        Of the random numbers.

    Returns
    -------
    dict of str to ndarray
        Normally distributed floats, uniformly distributed integers.
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
