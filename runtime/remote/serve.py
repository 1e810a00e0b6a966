"""Makes this machine a board: waits for clients, and runs each session in a process of its own.

This file is also in the folder for boards that ``mobilenet-tvm bundle --board`` makes. It needs
NumPy, tvm-ffi and TVM's runtime library. The process that waits never runs a client's code, so no
such code can end it.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import random
import resource
import select
import signal
import socket
import sys
import time
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import tvm_ffi

from mobilenet_tvm.runtime.address import check_key, join_host_port, split_host_port
from mobilenet_tvm.runtime.folders import prune
from mobilenet_tvm.runtime.library import load_runtime
from mobilenet_tvm.runtime.remote.board import serve_session, uploads
from mobilenet_tvm.runtime.remote.info import BoardInfo
from mobilenet_tvm.runtime.remote.listen import LOOPBACK, listen
from mobilenet_tvm.runtime.remote.lobby import Lobby
from mobilenet_tvm.runtime.remote.marks import CRASHED, MAX_UPLOAD
from mobilenet_tvm.runtime.remote.wire import (
    MISMATCH,
    SESSION_MAGIC,
    TrackerLink,
    WrongPeerError,
    send_int,
    send_text,
)
from mobilenet_tvm.runtime.scratch import scratch_folder
from mobilenet_tvm.targets.errors import UserError, WrongUseError
from mobilenet_tvm.targets.printable import PrintableFormatter, printable

_LOGGER = logging.getLogger(__name__)

#: Boards listen by default on the first of these ports that is free.
PORTS = range(9090, 9190)

#: Maximum seconds of a session, unless its client asks for less.
SESSION_LIMIT = 3600.0

#: Seconds to wait for a tracker's answer.
_TRACKER_TIMEOUT = 5.0
#: Seconds between two polls of the tracker, and between two attempts to reach it.
_POLL_INTERVAL, _RETRY_INTERVAL = 2.0, 1.0
#: Seconds after which an offer that was taken but not used is renewed.
_OFFER_TIMEOUT = 6.0
#: Seconds that a session's process may go on after its client is gone.
_GRACE_PERIOD = 1.0
#: Seconds between two checks of a session's process; its end is noticed at once in any case.
_WATCH_INTERVAL = 1.0

# From Linux's include/uapi/linux/prctl.h.
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class ServeOptions:
    """How to serve.

    Parameters
    ----------
    host : str
        The address to listen on. Anyone who can reach it can run code here.
    port : int, optional
        The port; 0 for any free one. Default: the first of `PORTS` that is free.
    tracker : (str, int), optional
        Host and port of the tracker to register at; then only its clients get sessions.
    key : str
        The tracker's key for this kind of board.
    name : str, optional
        The board's name. Default: the host name.
    session_limit : float
        Maximum seconds of a session.
    """

    host: str = LOOPBACK
    port: int | None = None
    tracker: tuple[str, int] | None = None
    key: str = ""
    name: str | None = None
    session_limit: float = SESSION_LIMIT

    def __post_init__(self) -> None:
        """Check that the options fit together.

        Raises
        ------
        WrongUseError
            If there is a tracker without a key or a key without a tracker, or no time for sessions.
        """
        if (self.tracker is None) != (self.key == ""):
            raise WrongUseError("--tracker and --key belong together; give both or neither")
        if not self.session_limit > 0:
            raise WrongUseError(f"a session limit of {self.session_limit:g} s; give more than 0")
        if self.key:
            check_key(self.key)


def serve(options: ServeOptions) -> None:
    """Serve until `KeyboardInterrupt`.

    Parameters
    ----------
    options : ServeOptions
        How to serve.

    Raises
    ------
    UserError
        If it cannot listen on the address, or TVM's runtime is missing.
    """
    # Before any session, so that forked processes already have it.
    load_runtime()
    # The only threads here are those of NumPy's BLAS, which is made for forks.
    warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
    ports = PORTS if options.port is None else [options.port]
    server = _Server(listen(options.host, ports), options)
    try:
        server.run()
    except KeyboardInterrupt:
        _LOGGER.info("board %s ended", server.info.name)
    finally:
        server.close()


class _Server:
    """A board that listens."""

    def __init__(self, listener: socket.socket, options: ServeOptions) -> None:
        self.info = BoardInfo.of_this_machine(options.name)
        self._lobby = Lobby(listener)
        self._options = options
        self._port = int(listener.getsockname()[1])
        self._link: TrackerLink | None = None
        self._next_attempt = 0.0
        self._tracker_lost = False
        # What a client has to present; None while no session is offered.
        self._match_key: str | None = None if options.tracker else ""
        self._taken_since: float | None = None
        self._session: int | None = None

    def run(self) -> NoReturn:
        """Run sessions, one after the other."""
        options = self._options
        where = join_host_port(options.host, self._port)
        through = f", key {options.key}" if options.key else ""
        _LOGGER.info("board %s listens on %s%s", self.info, where, through)
        while True:
            connection, client, limit = self._accept()
            with connection:
                self._announce(busy=True)
                began = time.monotonic()
                try:
                    end = self._run_session(connection, limit)
                except OSError as error:
                    end = f"failed ({error})"
                _LOGGER.info("session of %s, %.1f s: %s", client, time.monotonic() - began, end)
            with suppress(OSError, UserError):
                prune(uploads())
            self._announce(busy=False)

    def close(self) -> None:
        """End the current session, and stop listening."""
        self._kill_session()
        self._lobby.close()
        if self._link is not None:
            self._link.close()

    def _accept(self) -> tuple[socket.socket, str, float]:
        """Wait for a client; return its connection, its address and its session's limit."""
        while True:
            self._offer()
            period = _POLL_INTERVAL if self._link else _RETRY_INTERVAL
            found = self._lobby.next(period if self._options.tracker else None)
            if found is None:
                continue
            client, said = found
            limit = self._answer(client.connection, said)
            if limit is not None:
                if self._options.tracker:
                    self._match_key = None
                return client.connection, client.address, limit
            client.connection.close()

    def _answer(self, connection: socket.socket, said: str) -> float | None:
        """Return the limit of the client's session; None if it is not a client of this board."""
        name, *given = said.split() or [""]
        try:
            if name != f"client:{self._match_key}":
                send_int(connection, MISMATCH)
                raise WrongPeerError("not its turn")
            send_int(connection, SESSION_MAGIC)
            send_text(connection, f"server:{self._options.key}")
        except OSError as error:
            _LOGGER.info("rejected a connection (%s)", error)
            return None
        limit = self._options.session_limit
        for option in given:
            if option.startswith("-timeout="):
                with suppress(ValueError):
                    seconds = float(option.removeprefix("-timeout="))
                    limit = seconds if 0 < seconds < limit else limit
        return limit

    def _offer(self) -> None:
        """Make sure that the tracker knows this board, and can assign it to a client."""
        now = time.monotonic()
        tracker = self._options.tracker
        if tracker is None or (self._link is None and now < self._next_attempt):
            return
        try:
            if self._link is None:
                self._link = TrackerLink(*tracker, timeout=_TRACKER_TIMEOUT)
                self._match_key = None
                self._describe(self._link, busy=False)
                if self._tracker_lost:
                    _LOGGER.info("the tracker is back")
                self._tracker_lost = False
            if self._match_key is not None:
                if self._match_key in self._link.offered():
                    self._taken_since = None
                elif self._taken_since is None:
                    self._taken_since = now
                elif now - self._taken_since > _OFFER_TIMEOUT:
                    self._match_key = None
            if self._match_key is None:
                match_key = f"{self._options.key}:{random.random()}"  # noqa: S311
                self._link.offer(self._options.key, self._port, match_key, self._address())
                self._match_key, self._taken_since = match_key, None
        except OSError as error:
            self._lose_tracker(error)

    def _announce(self, busy: bool) -> None:
        """Tell the tracker, if there is one, whether this board is busy."""
        if self._link is None:
            return
        try:
            self._describe(self._link, busy)
        except OSError as error:
            self._lose_tracker(error)

    def _describe(self, link: TrackerLink, busy: bool) -> None:
        facts = {"key": f"server:{self._options.key}", "addr": [self._address(), self._port]}
        link.describe({**facts, "busy": busy, "board": self.info.to_dict()})

    def _address(self) -> str | None:
        """Return the address for clients; None for the one that the tracker sees."""
        return None if self._options.host in ("0.0.0.0", "::") else self._options.host  # noqa: S104

    def _lose_tracker(self, error: OSError) -> None:
        if self._link is not None:
            self._link.close()
        self._link = None
        self._next_attempt = time.monotonic() + _RETRY_INTERVAL
        if not self._tracker_lost:
            assert self._options.tracker is not None  # noqa: S101
            where = join_host_port(*self._options.tracker)
            _LOGGER.info("no tracker answers at %s (%s); trying again", where, error)
        self._tracker_lost = True

    def _run_session(self, connection: socket.socket, limit: float) -> str:
        """Run a session in a process of its own, and return how it ended."""
        connection.settimeout(None)
        _notice_vanished_clients(connection)
        with scratch_folder("mobilenet-tvm-of-session-") as folder:
            # When the process ends, its end of the pipe is closed.
            ended, alive = os.pipe()
            try:
                try:
                    self._session = os.fork()
                    if self._session == 0:
                        self._be_session(connection, folder)
                finally:
                    os.close(alive)
                end = self._watch(connection, ended, limit)
            finally:
                os.close(ended)
                self._kill_session()
        if isinstance(end, str):
            _tell(connection, f"RPCSessionTimeoutError: {end}")
            return f"killed, {end}"
        if os.WIFSIGNALED(end):
            name = signal.Signals(os.WTERMSIG(end)).name
            _tell(connection, f"{CRASHED}{name}")
            return f"killed by {name}"
        if os.WEXITSTATUS(end):
            _tell(connection, f"{CRASHED}status {os.WEXITSTATUS(end)}")
            return f"ended with status {os.WEXITSTATUS(end)}"
        return "ended"

    def _be_session(self, connection: socket.socket, folder: Path) -> NoReturn:
        """Serve a client in this forked process, and end it."""
        status = 1
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_UPLOAD, MAX_UPLOAD))
            with suppress(OSError):
                # If memory runs out, the kernel ends this process and no other.
                Path("/proc/self/oom_score_adj").write_text("1000")
            self._lobby.close(forked=True)
            if self._link is not None:
                self._link.close()
            os.chdir(folder)
            serve_session(connection.detach(), self.info, folder)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _watch(self, connection: socket.socket, ended: int, limit: float) -> int | str:
        """Wait until a session's process ends; return its status, or why it has to be killed."""
        assert self._session is not None  # noqa: S101
        deadline, reason = time.monotonic() + limit, f"it reached its limit of {limit:g} s"
        poller = select.poll()
        poller.register(ended, select.POLLIN)
        poller.register(connection, select.POLLRDHUP)
        # Clients that come meanwhile wait for their turn; those that say nothing do not.
        poller.register(self._lobby, select.POLLIN)
        while True:
            wait = min(_WATCH_INTERVAL, deadline - time.monotonic())
            events = dict(poller.poll(max(0, 1000 * wait)))
            self._lobby.attend()
            process, status = os.waitpid(self._session, os.WNOHANG)
            if process:
                self._session = None
                return status
            now = time.monotonic()
            if connection.fileno() in events:
                poller.unregister(connection)
                if now + _GRACE_PERIOD < deadline:
                    deadline, reason = now + _GRACE_PERIOD, "its client is gone"
            if now >= deadline:
                return reason

    def _kill_session(self) -> None:
        if self._session:
            with suppress(OSError):
                os.killpg(self._session, signal.SIGKILL)
            with suppress(OSError):
                os.kill(self._session, signal.SIGKILL)
            os.waitpid(self._session, 0)
        self._session = None


def _notice_vanished_clients(connection: socket.socket) -> None:
    """Make the kernel end the connection of a client that was switched off, within 30 seconds."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _tell(connection: socket.socket, message: str) -> None:
    """Answer a client in place of its session's process."""
    connection.setblocking(False)
    with suppress(Exception):
        tvm_ffi.get_global_func("rpc.ReturnException")(connection.fileno(), message)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Parse the command line and serve; exit with status 1 on an error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tracker", metavar="HOST:PORT", help="tracker to register at")
    parser.add_argument("--key", default="", help="the tracker's key for this board")
    parser.add_argument("--host", default=LOOPBACK, help="address to listen on")
    parser.add_argument("--port", type=int, help="port; 0 for any free one")
    parser.add_argument("--name", help="the board's name (default: the host name)")
    parser.add_argument("--session-limit", type=float, default=SESSION_LIMIT, metavar="SECONDS")
    given = vars(parser.parse_args())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    try:
        tracker = given.pop("tracker")
        serve(ServeOptions(tracker=split_host_port(tracker) if tracker else None, **given))
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except UserError as error:
        sys.exit(f"error: {printable(str(error))}")


if __name__ == "__main__":
    main()
