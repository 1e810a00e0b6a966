"""What a host and a board say to each other about measuring."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from mobilenet_tvm.runtime.measure import Failure, Measurement
from mobilenet_tvm.runtime.remote.measuring import read_answer

GOOD = Measurement(2e-6, 1e-6, 0.1, 20)


@pytest.mark.parametrize("outcome", [GOOD, Failure("wrong", "it differs")])
def test_an_answer_is_read_as_written(outcome: Measurement | Failure) -> None:
    assert read_answer(json.dumps(asdict(outcome))) == outcome


@pytest.mark.parametrize(
    "changes",
    [
        {"seconds": float("nan")},
        {"seconds": float("inf"), "minimum": 1.0},
        {"seconds": 0.0, "minimum": 0.0},
        {"minimum": 3e-6},
        {"spread": -0.5},
        {"repeats": 0},
        {"repeats": float("inf")},
        {"seconds": None},
        {"seconds": "soon"},
    ],
    ids=str,
)
def test_times_that_cannot_be_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"times|could not convert"):
        read_answer(json.dumps(asdict(GOOD) | changes))


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", "3", '"no"', "\0\1", None, b"\xff"])
def test_garbage_is_refused(text: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_answer(text)


def test_a_reason_is_one_line() -> None:
    answer = read_answer(json.dumps({"kind": "error", "reason": "a\n  b"}))
    assert answer == Failure("error", "a b")
