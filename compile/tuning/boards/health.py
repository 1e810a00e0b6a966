"""What a run knows about its boards: which may be used, and which are slower than others.

Pure bookkeeping: it opens no connection and waits for nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

#: Seconds that a board is set aside at its first fault; twice as long at each that follows, up
#: to the maximum.
FIRST_PAUSE, MAX_PAUSE = 2.0, 300.0
#: A board is slow when it takes this many times as long as the median of its siblings.
SLOW_RATIO = 1.5


class State(Enum):
    """Whether a board may be used."""

    #: It may be used, and is not.
    FREE = "free"
    MEASURING = "measuring"
    #: It failed, or is slow, and is tried again later.
    ASIDE = "set aside"
    #: It cannot run the target's code.
    UNFIT = "unfit"


@dataclass
class _Board:
    state: State = State.FREE
    until: float = 0.0
    faults: int = 0
    reason: str = ""
    #: Seconds of the candidate by which boards are compared.
    reference: float | None = None


class Pool:
    """The boards of one run, by name.

    Parameters
    ----------
    clock : callable
        Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._boards: dict[str, _Board] = {}

    def state(self, name: str) -> State:
        """Return a board's state now; one that was never seen is free."""
        board = self._boards.get(name, _Board())
        if board.state is State.ASIDE and self._clock() >= board.until:
            return State.FREE
        return board.state

    def names(self, state: State) -> list[str]:
        """Return the boards in a state."""
        return [name for name in self._boards if self.state(name) is state]

    def faults(self, name: str) -> int:
        """Return how often a board has failed since it last succeeded."""
        return self._boards.get(name, _Board()).faults

    @property
    def suspects(self) -> set[str]:
        """The boards that are unfit, or have failed and not succeeded since."""
        return {n for n, b in self._boards.items() if b.state is State.UNFIT or b.faults > 0}

    def take(self, name: str) -> bool:
        """Begin to measure on a board; tell whether it may be used now."""
        if self.state(name) is not State.FREE:
            return False
        self._boards.setdefault(name, _Board()).state = State.MEASURING
        return True

    def give_back(self, name: str) -> None:
        """End measuring on a board that has no fault."""
        board = self._boards[name]
        if board.state is State.MEASURING:
            board.state = State.FREE

    def succeed(self, name: str) -> None:
        """Note a right result: earlier faults no longer count."""
        self._boards[name].faults = 0

    def reinstate(self, name: str) -> None:
        """Use a board again at once: the candidate was at fault."""
        board = self._boards[name]
        board.faults = 0
        if board.state is State.ASIDE:
            board.state, board.until = State.FREE, 0.0

    def fail(self, name: str, reason: str) -> float:
        """Set a board aside, and return for how many seconds.

        Parameters
        ----------
        name : str
            The board's.
        reason : str
            One line.
        """
        board = self._boards.setdefault(name, _Board())
        pause = min(FIRST_PAUSE * float(2**board.faults), MAX_PAUSE)
        board.faults += 1
        board.state, board.until, board.reason = State.ASIDE, self._clock() + pause, reason
        return pause

    def exclude(self, name: str, reason: str) -> None:
        """Never use a board."""
        board = self._boards.setdefault(name, _Board())
        board.state, board.reason = State.UNFIT, reason

    def slowness(self, name: str, seconds: float) -> float:
        """Compare a board with the others.

        Parameters
        ----------
        name : str
            The board's.
        seconds : float
            For the same work that the others have done.

        Returns
        -------
        float
            How many times as long as the median of the others it took; 1 where there is none.
        """
        others = [
            board.reference
            for other, board in self._boards.items()
            if other != name and board.reference is not None
        ]
        self._boards.setdefault(name, _Board()).reference = seconds
        return seconds / float(statistics.median(others)) if others else 1.0

    def reasons(self) -> list[str]:
        """Return what is wrong with each suspect, a line each."""
        return [f"{name}: {self._boards[name].reason}" for name in sorted(self.suspects)]
