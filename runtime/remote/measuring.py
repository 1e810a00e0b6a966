"""What a host and a board say to each other about measuring one candidate."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobilenet_tvm.runtime.measure import Failure, Measurement, Place, measure, pinned_threads
from mobilenet_tvm.runtime.remote.marks import PREFIX
from mobilenet_tvm.runtime.threads import Threads

#: By this name a board has `answer`.
FUNCTION = f"{PREFIX}measure"


@dataclass(frozen=True)
class Request:
    """What a board is to measure; files are named as they were uploaded.

    Parameters
    ----------
    library : str
        The candidate.
    arguments : sequence of str
        Its arguments but the output, as numpy stores arrays.
    weights : sequence of int
        Which of them stay the same from one inference to the next.
    reference : str
        The right result.
    allowed : float
        How far apart two right results may be, as a share of the largest value.
    threads : int
        How many share the layer.
    place : Place
        Where on the board it runs.
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
        """Read what `to_json` gave."""
        facts = json.loads(text)
        return cls(**facts | {"place": Place(**facts["place"])})

    def to_json(self) -> str:
        """Return it as a board takes it."""
        return json.dumps(asdict(self))


def answerer(locate: Callable[[str], Path]) -> Callable[[str], str]:
    """Return the function that a board offers as `FUNCTION`.

    Parameters
    ----------
    locate : callable
        Returns where an uploaded file lies.
    """
    pinned: Threads | None = None

    def answer(request: str) -> str:
        nonlocal pinned
        asked = Request.from_json(request)
        if pinned is None:
            # Once: one session has one number of threads.
            pinned = pinned_threads(asked.threads, asked.place.kind)
        reference = locate(asked.reference)
        output = np.full_like(np.load(reference), np.nan)
        arguments = [*(np.load(locate(name)) for name in asked.arguments), output]
        outcome = pinned.call(
            measure,
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
    """Read what a board has answered.

    Parameters
    ----------
    text : str
        Nothing in it is trusted.

    Raises
    ------
    ValueError
        If it is no answer to a request.
    """
    row = json.loads(str(text))
    if isinstance(row, dict) and row.keys() == {"kind", "reason"}:
        return Failure(str(row["kind"]), " ".join(str(row["reason"]).split()))
    try:
        seconds, minimum, spread = (float(row[name]) for name in ("seconds", "minimum", "spread"))
        found = Measurement(seconds, minimum, spread, int(row["repeats"]))
    except (KeyError, OverflowError, TypeError):
        raise ValueError("no times") from None
    # In a form that refuses NaN.
    if not (0 < found.minimum <= found.seconds < 1e6 and found.spread >= 0 < found.repeats):
        raise ValueError("impossible times")
    return found
