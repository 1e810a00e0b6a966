"""Which boards a run may use, and whether they can run the target's code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mobilenet_tvm.runtime.address import Address, join_host_port
from mobilenet_tvm.runtime.remote.devices import ListedBoard, list_boards
from mobilenet_tvm.runtime.remote.errors import NoBoard
from mobilenet_tvm.runtime.remote.info import BoardInfo
from mobilenet_tvm.runtime.remote.session import Session
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.target import Target

#: Seconds to wait where no board is left.
WAIT_TIMEOUT = 60.0


@dataclass(frozen=True)
class Farm:
    """Which boards a run uses, and how.

    Parameters
    ----------
    address : Address
        A board's, or a tracker's and a key.
    limit : int, optional
        The maximum number of boards at a time; all by default.
    priority : int
        Of several runs that wait for a board, the one with the highest priority gets it.
    wait_timeout : float
        Seconds to wait where no board is left.
    """

    address: Address
    limit: int | None = None
    priority: int = 1
    wait_timeout: float = WAIT_TIMEOUT


def survey(address: Address) -> list[ListedBoard]:
    """Return the boards at an address, including busy ones.

    Raises
    ------
    NoBoard
        If there is none, or no tracker.
    """
    if address.scheme != "tracker":
        with Session.open(address) as session:
            return [ListedBoard("", session.address, False, session.board)]
    boards = registered(address)
    if not boards:
        raise NoBoard(f"no board at {address}; 'mobilenet-tvm devices' lists those that are there")
    return boards


def registered(address: Address) -> list[ListedBoard]:
    """Return the boards that are registered under an address's key.

    Raises
    ------
    NoBoard
        If there is no tracker.
    """
    boards = list_boards(join_host_port(address.host, address.port))
    return [board for board in boards if board.key == address.key]


def label(info: BoardInfo, address: str) -> str:
    """Return a name that is unique in a run: two boards may have the same one."""
    return info.name if info.name == address else f"{info.name} ({address})"


def require_fitting(boards: Sequence[ListedBoard], target: Target) -> str:
    """Make sure that some board can run a target's code; return the machine that it is.

    Raises
    ------
    UserError
        If none can.
    """
    infos = [board.info for board in boards]
    fitting = [info for info in infos if not misfit(info, target)]
    if not fitting:
        first, *others = infos
        also = f"; nor can the other {len(others)}" if others else ""
        hint = f"; tune with --target {first.target}" if first.target and target.gpu is None else ""
        raise UserError(f"{misfit(first, target)}{also}{hint}")
    return fitting[0].machine or fitting[0].name


def misfit(board: BoardInfo, target: Target) -> str:
    """Return why a board cannot run a target's code; empty if it can, or does not say."""
    if board.architecture and board.architecture != target.architecture:
        return (
            f"board {board.name} is {board.architecture} and cannot run code for "
            f"'{target.name}', which is {target.architecture}"
        )
    missing = set() if board.features is None else {*target.required_features} - board.features
    if missing:
        lacking = ", ".join(sorted(missing))
        return f"board {board.name} cannot run code for '{target.name}': its CPU lacks {lacking}"
    return ""
