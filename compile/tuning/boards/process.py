"""Measures on one board after the other, from a process that may hang or die with the board."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mobilenet_tvm.compile.tuning.boards import client as board_client
from mobilenet_tvm.compile.tuning.boards.child import Child
from mobilenet_tvm.compile.tuning.boards.client import Files
from mobilenet_tvm.compile.tuning.boards.farm import Farm
from mobilenet_tvm.compile.tuning.local.builder import one_line
from mobilenet_tvm.compile.tuning.measure import Failure
from mobilenet_tvm.compile.tuning.task import Outcome
from mobilenet_tvm.runtime.remote.errors import BoardCrashed, BoardError, BoardTimeout, NoBoard
from mobilenet_tvm.runtime.remote.info import BoardInfo
from mobilenet_tvm.targets.errors import UserError

#: Seconds to wait for a free board before the tracker is asked again.
_OPEN_TIMEOUT = 60.0
#: Seconds for the upload of a candidate's files.
_UPLOAD_TIMEOUT = 60.0
#: Seconds that the process has beyond the timeouts that it keeps itself.
_GRACE_PERIOD = 5.0


class BoardProcess:
    """Has at most one board at a time.

    Parameters
    ----------
    farm : Farm
        The boards.
    kind : str
        TVM's name of the kind of device.
    timeout : float
        Seconds after which a candidate counts as hung.
    """

    def __init__(self, farm: Farm, kind: str, timeout: float) -> None:
        self._farm = farm
        self._kind = kind
        self._timeout = timeout
        self._child: Child | None = None
        self._killed = False

    def open(self, lease: float) -> tuple[BoardInfo, str]:
        """Wait for a board and keep it.

        Parameters
        ----------
        lease : float
            Seconds for which it is wanted; some time later the board ends the session itself.

        Returns
        -------
        (BoardInfo, str)
            What it is, and the address at which it listens.

        Raises
        ------
        NoBoard
            If there is none.
        """
        if self._child is None or not self._child.alive:
            self._child = Child()
            if self._killed:
                self._child.kill()
        limit = lease + _UPLOAD_TIMEOUT + self._timeout
        opening = (self._farm.address, self._farm.priority, limit, _OPEN_TIMEOUT, self._kind)
        try:
            # When they end, it may still be connecting to a board that does not answer.
            found: tuple[BoardInfo, str] = self._call(
                board_client.open_session, *opening, timeout=_OPEN_TIMEOUT + 4 * _GRACE_PERIOD
            )
        except (UserError, TimeoutError, ChildProcessError) as error:
            raise NoBoard(one_line(error)) from None
        return found

    def measure(self, candidates: Sequence[Files]) -> tuple[Sequence[Outcome], str | None]:
        """Measure on the board.

        Parameters
        ----------
        candidates : sequence of Files
            What to measure, one after the other.

        Returns
        -------
        outcomes : sequence of Measurement or Failure
            One for each.
        fault : str or None
            What has ended the session, in one line.
        """
        outcomes: list[Outcome] = []
        fault = None
        for files in candidates:
            if fault is None:
                outcome, fault = self._measure_one(files)
            outcomes.append(outcome)
        return outcomes, fault

    def close(self) -> None:
        """Give the board back."""
        try:
            self._call(board_client.close_session, timeout=_GRACE_PERIOD)
        except (UserError, TimeoutError, ChildProcessError):
            self._current.kill()

    def kill(self) -> None:
        """End the process, which gives the board back; another thread may be using it."""
        self._killed = True
        if self._child is not None:
            self._child.kill()

    def _measure_one(self, files: Files) -> tuple[Outcome, str | None]:
        limit = self._timeout
        upload, measure = board_client.upload, board_client.measure_on_board
        try:
            self._call(upload, files, limit, timeout=_UPLOAD_TIMEOUT + _GRACE_PERIOD)
            outcome = self._call(measure, files, limit, timeout=limit + _GRACE_PERIOD)
        except BoardError as error:
            return Failure("error", one_line(error)), None
        except (BoardTimeout, TimeoutError):
            return Failure("hung", "the candidate did not end in time"), "does not answer"
        except BoardCrashed:
            return Failure("crashed", "the candidate killed its process"), "its session crashed"
        except (UserError, ChildProcessError) as error:
            return Failure("crashed", "the board was lost"), one_line(error)
        return outcome, None

    def _call(self, function: Any, *arguments: Any, timeout: float) -> Any:
        return self._current.call(function, *arguments, timeout=timeout)

    @property
    def _current(self) -> Child:
        assert self._child is not None  # noqa: S101
        return self._child
