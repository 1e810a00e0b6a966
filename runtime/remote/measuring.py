"""Requests to measure a candidate on a board, and the board's answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobilenet_tvm.runtime.measure import (
    Failure,
    Measurement,
    Place,
    measure_candidate,
    pinned_threads,
)
from mobilenet_tvm.runtime.remote.marks import PREFIX
from mobilenet_tvm.runtime.threads import Threads

#: The name of the function on the board that answers requests.
FUNCTION = f"{PREFIX}measure"


@dataclass(frozen=True)
class Request:
    """A request to measure a candidate. Files are named as they were uploaded.

    Parameters
    ----------
    library : str
        The candidate.
    arguments : sequence of str
        Its arguments except the output, as `.npy` files.
    weights : sequence of int
        Indices of the arguments that stay the same from one inference to the next.
    reference : str
        The correct result, as a `.npy` file.
    allowed : float
        Maximum difference from it, as a fraction of the largest value.
    threads : int
        How many threads share the layer.
    place : Place
        The board's CPU, or one of its GPUs.
    """

    library: str
    arguments: Sequence[str]
    weights: Sequence[int]
    reference: str
    allowed: float
    threads: int
    place: Place

    @classmethod
    def from_json(cls, text: str) -> Request:
        """Read what `to_json` returned."""
        facts = json.loads(text)
        return cls(**facts | {"place": Place(**facts["place"])})

    def to_json(self) -> str:
        """Return the request as the text that is sent."""
        return json.dumps(asdict(self))


def answerer(locate: Callable[[str], Path]) -> Callable[[str], str]:
    """Return the function that a board registers as `FUNCTION`.

    Parameters
    ----------
    locate : callable
        Returns the path of an uploaded file.
    """
    pinned: Threads | None = None

    def answer(request: str) -> str:
        nonlocal pinned
        asked = Request.from_json(request)
        if pinned is None:
            # Once, since a session keeps its number of threads.
            pinned = pinned_threads(asked.threads, asked.place.kind)
        reference = locate(asked.reference)
        output = np.full_like(np.load(reference), np.nan)
        arguments = [*(np.load(locate(name)) for name in asked.arguments), output]
        outcome = pinned.call(
            measure_candidate,
            locate(asked.library),
            arguments,
            asked.weights,
            reference,
            asked.allowed,
            asked.place,
        )
        return json.dumps(asdict(outcome))

    return answer


def read_answer(text: Any) -> Measurement | Failure:
    """Read a board's answer.

    Parameters
    ----------
    text : str
        The answer, which is not trusted.

    Returns
    -------
    Measurement or Failure
        What the board found.

    Raises
    ------
    ValueError
        If the text is not an answer, or its times are impossible.
    """
    try:
        row = json.loads(str(text))
    except RecursionError:
        raise ValueError("no JSON") from None
    if isinstance(row, dict) and row.keys() == {"kind", "reason"}:
        return Failure(str(row["kind"]), " ".join(str(row["reason"]).split()))
    try:
        seconds, minimum, spread = (float(row[name]) for name in ("seconds", "minimum", "spread"))
        found = Measurement(seconds, minimum, spread, int(row["repeats"]))
    except (KeyError, OverflowError, TypeError):
        raise ValueError("no times") from None
    # Written so that NaN fails.
    if not (0 < found.minimum <= found.seconds < 1e6 and found.spread >= 0 < found.repeats):
        raise ValueError("impossible times")
    return found
