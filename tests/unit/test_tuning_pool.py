"""The boards of a run, by a clock that the test sets."""

from __future__ import annotations

import pytest

from mobilenet_tvm.compile.tuning.boards.health import (
    FIRST_PAUSE,
    MAX_PAUSE,
    SLOW_RATIO,
    Pool,
    State,
)


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return them."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pool(clock: Clock) -> Pool:
    return Pool(clock)


def test_a_board_is_had_once_at_a_time(pool: Pool) -> None:
    assert pool.take("a")
    assert pool.state("a") is State.MEASURING
    assert not pool.take("a")
    pool.give_back("a")
    assert pool.take("a")


def test_a_board_that_failed_is_set_aside_for_a_time(pool: Pool, clock: Clock) -> None:
    pool.take("a")
    assert pool.fail("a", "does not answer") == FIRST_PAUSE
    pool.give_back("a")
    assert pool.state("a") is State.ASIDE
    assert not pool.take("a")
    assert pool.take("b")
    clock.now += FIRST_PAUSE
    assert pool.take("a")


def test_pauses_double_up_to_the_maximum_and_begin_anew_after_a_right_result(
    pool: Pool, clock: Clock
) -> None:
    pauses = []
    for _ in range(10):
        pauses.append(pool.fail("a", "does not answer"))
        clock.now += pauses[-1]
        assert pool.take("a")
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == MAX_PAUSE
    pool.succeed("a")
    assert pool.fail("a", "does not answer") == FIRST_PAUSE


def test_a_board_is_reinstated_when_the_candidate_was_at_fault(pool: Pool) -> None:
    pool.take("a")
    pool.fail("a", "does not answer")
    pool.reinstate("a")
    assert pool.take("a")
    assert not pool.suspects


def test_reinstating_does_not_take_a_board_from_who_measures_on_it(pool: Pool) -> None:
    pool.take("a")
    pool.reinstate("a")
    assert pool.state("a") is State.MEASURING


def test_an_unfit_board_is_never_used_and_says_why(pool: Pool, clock: Clock) -> None:
    pool.exclude("a", "lacks avx2")
    clock.now += 10 * MAX_PAUSE
    assert not pool.take("a")
    assert pool.reasons() == ["a: lacks avx2"]


def test_a_suspect_is_no_hope_until_it_has_measured(pool: Pool, clock: Clock) -> None:
    pool.fail("a", "does not answer")
    clock.now += MAX_PAUSE
    assert pool.state("a") is State.FREE
    assert pool.suspects == {"a"}
    pool.take("a")
    pool.succeed("a")
    assert not pool.suspects


def test_a_board_without_siblings_is_not_slow(pool: Pool) -> None:
    assert pool.slowness("a", 1.0) == 1.0
    assert pool.slowness("a", 9.0) == 1.0


def test_a_slow_board_is_known_by_the_median_of_the_others(pool: Pool) -> None:
    for name, seconds in {"a": 1.0, "b": 1.1, "c": 9.0}.items():
        pool.slowness(name, seconds)
    assert pool.slowness("d", 1.1 * SLOW_RATIO) == pytest.approx(SLOW_RATIO)
    assert pool.slowness("c", 9.0) > SLOW_RATIO
    assert pool.slowness("a", 1.0) < 1.0
