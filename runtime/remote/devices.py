"""Lists the boards that a tracker knows."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from mobilenet_tvm.runtime.address import join_host_port, split_host_port
from mobilenet_tvm.runtime.remote.errors import NoBoard
from mobilenet_tvm.runtime.remote.info import BoardInfo
from mobilenet_tvm.runtime.remote.wire import TrackerLink
from mobilenet_tvm.targets.errors import UserError

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListedBoard:
    """A board as a tracker knows it.

    Parameters
    ----------
    key : str
        The key for its kind of board.
    address : str
        Where it listens, as ``HOST:PORT``.
    busy : bool, optional
        Whether a client uses it; None for TVM's own servers, which do not report it.
    info : BoardInfo
        Its description of itself.
    """

    key: str
    address: str
    busy: bool | None
    info: BoardInfo


def list_boards(tracker: str) -> list[ListedBoard]:
    """Ask a tracker for its boards.

    Parameters
    ----------
    tracker : str
        ``HOST:PORT``.

    Returns
    -------
    list of ListedBoard
        Sorted by key, then by name; without those whose descriptions cannot be read.

    Raises
    ------
    NoBoard
        If no tracker answers.
    """
    host, port = split_host_port(tracker)
    try:
        with TrackerLink(host, port) as link:
            _, facts = link.summary()
    except OSError as error:
        raise NoBoard(
            f"no tracker answers at {tracker} ({error}); start one with 'mobilenet-tvm tracker'"
        ) from None
    boards = []
    for fact in facts:
        where = join_host_port(*fact["addr"])
        busy = fact.get("busy")
        try:
            info = BoardInfo.from_dict(fact.get("board", {"name": where}))
        except UserError as error:
            _LOGGER.warning("warning: the board at %s is left out: %s", where, error)
            continue
        key = fact["key"].partition(":")[2]
        boards.append(ListedBoard(key, where, busy if isinstance(busy, bool) else None, info))
    return sorted(boards, key=lambda board: (board.key, board.info.name, board.address))
