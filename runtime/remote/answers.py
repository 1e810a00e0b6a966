"""Reads what boards answer, which is not trusted: another program may listen there."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from mobilenet_tvm.runtime.remote.errors import BoardError

#: Most threads that a board may have.
_MAX_THREADS = 1 << 16

Array = np.ndarray[Any, np.dtype[Any]]


def read_threads(answer: Any) -> int:
    """Read a number of threads.

    Raises
    ------
    BoardError
        From here and from the other functions: if the answer is another one.
    """
    if type(answer) is not int or not 0 < answer <= _MAX_THREADS:
        raise invalid("a number of threads")
    return answer


def read_seconds(values: Any) -> Array:
    """Read times in seconds: one at least, each above zero and below an hour."""
    try:
        seconds = np.asarray(values, np.float64)
    except (OverflowError, TypeError, ValueError):
        raise invalid("times") from None
    # Written so that NaN fails.
    if seconds.ndim != 1 or not seconds.size or not ((seconds > 0) & (seconds < 3600)).all():
        raise invalid("times")
    return seconds


def read_calls(values: Any) -> list[tuple[str, Array]]:
    """Read the times of functions, by name."""
    if not isinstance(values, list):
        raise invalid("functions and times")
    calls = []
    for value in values:
        if not (isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)):
            raise invalid("functions and times")
        calls.append((value[0], read_seconds(value[1])))
    return calls


def read_json(answer: Any) -> Any:
    """Read a value that is sent as JSON."""
    try:
        return json.loads(answer)
    except (RecursionError, TypeError, ValueError):
        raise invalid("JSON") from None


def read_bytes(answer: Any, size: int) -> bytes:
    """Read a number of bytes."""
    if not isinstance(answer, bytes) or len(answer) != size:
        raise invalid(f"{size} bytes")
    return answer


def invalid(what: str) -> BoardError:
    """Return the error for an answer that is not what it should be."""
    return BoardError(f"the board did not answer with {what}; update its mobilenet-tvm")
