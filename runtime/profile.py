"""Measures the time of each function that a compiled model calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mobilenet_tvm.runtime.bench import random_inputs
from mobilenet_tvm.runtime.c_library import CModel
from mobilenet_tvm.runtime.model import Model
from mobilenet_tvm.targets.errors import UserError

#: Prefix of functions that manage memory and shapes, and compute nothing.
_BUILTIN = "vm.builtin."


@dataclass(frozen=True)
class CallTime:
    """The times of one call in the network.

    Parameters
    ----------
    function : str
        The name of the compiled function.
    seconds : ndarray of float64
        One value per run.
    """

    function: str
    seconds: np.ndarray[Any, np.dtype[np.float64]]

    @property
    def minimum(self) -> float:
        """Shortest time, in seconds."""
        return float(self.seconds.min())

    @property
    def median(self) -> float:
        """Median, in seconds."""
        return float(np.median(self.seconds))


def profile(model: Model | CModel, rounds: int = 30, warmup: int = 5) -> list[CallTime]:
    """Run a model and time each call of a function in it.

    Parameters
    ----------
    model : Model or CModel
        The model.
    rounds : int
        Number of timed runs.
    warmup : int
        Number of runs before them.

    Returns
    -------
    list of CallTime
        In the order of the calls. Each time includes about a microsecond of the timer itself. Times
        on a GPU are those of the kernels, without launching them; the kernels of a CUDA graph are
        launched one by one here.

    Raises
    ------
    UserError
        If the model was compiled for C: nothing reports its calls.
    """
    if isinstance(model, CModel):
        raise UserError(
            "a library for C does not report its calls; compile the model without --interface c"
        )
    started: list[Callable[[], float]] = []
    times: list[tuple[str, float]] = []

    def instrument(_function: Any, name: str, before: bool, *_: Any) -> int:
        if before:
            started.append(model.device.start_timer())
        else:
            times.append((str(name), started.pop()()))
        return 0

    inputs: Sequence[Any] = [random_inputs(model)[info.name] for info in model.inputs]
    by_round: list[list[tuple[str, float]]] = []
    with model.instrumented(instrument):
        for _ in range(warmup + rounds):
            times.clear()
            model(*inputs)
            by_round.append([call for call in times if not call[0].startswith(_BUILTIN)])
    collected: dict[int, list[float]] = defaultdict(list)
    for calls in by_round[warmup:]:
        for index, (_, seconds) in enumerate(calls):
            collected[index].append(seconds)
    names = [name for name, _ in by_round[-1]]
    return [CallTime(name, np.array(collected[index])) for index, name in enumerate(names)]
