"""Which layer is next while others are measured."""

from __future__ import annotations

import math

import pytest

from mobilenet_tvm.compile.tuning.scheduler import promise


def test_a_layer_without_a_time_comes_first() -> None:
    assert promise([]) == math.inf


def test_a_layer_that_takes_longer_promises_more_and_less_with_each_batch() -> None:
    assert promise([2.0]) > promise([1.0])
    assert promise([2.0, 2.0]) < promise([2.0])


def test_a_layer_that_still_gains_promises_more_than_one_that_does_not() -> None:
    assert promise([4.0, 3.0, 2.0, 1.0]) > promise([1.0, 1.0, 1.0, 1.0])
    # Gains count over the last batches only.
    assert promise([9.0, 1.0, 1.0, 1.0, 1.0]) == pytest.approx(promise([1.0] * 5))
