"""Takes a board for a while: through a tracker, at an address, or behind SSH."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from pathlib import Path

from mobilenet_tvm.runtime.address import Address, join_host_port
from mobilenet_tvm.runtime.library import load_runtime
from mobilenet_tvm.runtime.remote.connection import CONNECT_TIMEOUT, Connection
from mobilenet_tvm.runtime.remote.errors import BoardError, NoBoard
from mobilenet_tvm.runtime.remote.marks import PREFIX
from mobilenet_tvm.runtime.remote.model import RemoteModel
from mobilenet_tvm.runtime.remote.ssh import PORT as SSH_PORT
from mobilenet_tvm.runtime.remote.ssh import tunnel
from mobilenet_tvm.runtime.remote.wire import TrackerLink
from mobilenet_tvm.targets.errors import UserError, WrongUseError

_LOGGER = logging.getLogger(__name__)

#: Seconds that a session may last by default.
TIMEOUT = 600.0
#: Seconds to wait for a free board by default.
WAIT = 60.0


class Session(Connection):
    """A board, for a while; get it by `Session.open` or `connect`, and close it."""

    @classmethod
    def open(
        cls,
        address: Address | str,
        priority: int = 1,
        timeout: float = TIMEOUT,
        wait: float = WAIT,
    ) -> Session:
        """Take a board.

        Parameters
        ----------
        address : Address or str
            Where it is.
        priority : int
            Of several clients that wait at a tracker, the one with the highest comes first.
        timeout : float
            Seconds after which the board ends the session, whatever it is doing.
        wait : float
            Seconds to wait for a free board.

        Returns
        -------
        Session
            The board is this client's until it is closed.

        Raises
        ------
        NoBoard
            If there is none, or none became free in time.
        """
        place = Address.parse(address) if isinstance(address, str) else address
        load_runtime()
        if place.scheme == "tracker":
            return _open_through_tracker(place, priority, timeout, wait)
        if place.scheme == "rpc":
            return cls(place.host, place.port, "", timeout, wait)
        if place.scheme == "ssh":
            return _open_through_ssh(place, timeout, wait)
        raise WrongUseError(f"'{place}' is this machine; a session needs a board")

    def load(self, path: str | Path, threads: int | None = None) -> RemoteModel:
        """Load an artifact on the board.

        Parameters
        ----------
        path : str or Path
            The ``.so`` that ``compile`` wrote, on this machine; it is uploaded once.
        threads : int, optional
            How many threads work on one call. Default: the board's fast physical cores.

        Returns
        -------
        RemoteModel
            Call it with NumPy arrays while the session is open.

        Raises
        ------
        UserError
            If the file is not an artifact, is damaged, or was compiled for another architecture or
            for CPU features that the board's CPU lacks; none of its code has run then.
        """
        if threads is not None and threads < 1:
            raise UserError(f"threads={threads}; give 1 or more")
        if not self.native:
            raise UserError(
                f"the board at {self.address} runs TVM's own server, which has no models; "
                "start 'mobilenet-tvm serve' there"
            )
        return RemoteModel(self, Path(path), threads)

    def gpu(self, kind: str) -> str:
        """Make a board's GPU ready and return its name.

        Parameters
        ----------
        kind : str
            TVM's name of its code: ``opencl`` or ``cuda``.

        Raises
        ------
        BoardError
            If the board has no such GPU, or no driver for it.
        """
        if not self.native:
            raise BoardError(
                f"the board at {self.address} runs TVM's own server, which measures CPUs only; "
                "start 'mobilenet-tvm serve' there"
            )
        return str(self.call(f"{PREFIX}gpu", kind))


def connect(
    address: Address | str, priority: int = 1, timeout: float = 3600.0, wait: float = WAIT
) -> Session:
    """Take a board to load models on it; for the parameters see `Session.open`."""
    return Session.open(address, priority, timeout, wait)


def _open_through_tracker(place: Address, priority: int, timeout: float, wait: float) -> Session:
    deadline = time.monotonic() + wait
    while True:
        host, port, match_key = _take_board(place, priority, deadline)
        try:
            return Session(host, port, match_key, timeout, CONNECT_TIMEOUT)
        except NoBoard as error:
            # The tracker has not noticed yet that it is gone.
            if time.monotonic() >= deadline:
                raise
            _LOGGER.warning("warning: %s", error)


def _open_through_ssh(place: Address, timeout: float, wait: float) -> Session:
    with ExitStack() as resources:
        port = resources.enter_context(tunnel(place))
        try:
            session = Session("127.0.0.1", port, "", timeout, wait)
        except NoBoard:
            raise NoBoard(
                f"no board answers at port {SSH_PORT} of the loopback of {place}; run "
                "'mobilenet-tvm serve', or the serve.py of a board's folder, there"
            ) from None
        session.resources.enter_context(resources.pop_all())
        return session


def _take_board(place: Address, priority: int, deadline: float) -> tuple[str, int, str]:
    """Return host, port and match key of a free board with the address's key."""
    where = join_host_port(place.host, place.port)
    try:
        with TrackerLink(place.host, place.port) as link:
            keys = [facts["key"].partition(":")[2] for facts in link.summary()[1]]
            if place.key not in keys:
                known = ", ".join(sorted(set(keys))) or "none"
                raise NoBoard(f"tracker {where} has no board of key {place.key}; keys: {known}")
            left = max(0.001, deadline - time.monotonic())
            try:
                return link.request(place.key, priority, left)
            except TimeoutError:
                count = keys.count(place.key)
                raise NoBoard(
                    f"no board of key {place.key} became free at tracker {where}, "
                    f"of {count}; wait longer, or see 'mobilenet-tvm devices'"
                ) from None
    except OSError as error:
        raise NoBoard(
            f"no tracker answers at {where} ({error}); start one with 'mobilenet-tvm tracker'"
        ) from None
