"""Makes this machine a board: waits for clients, runs each one's session in a process of its own.

This file also lies in the folder for boards that ``mobilenet-tvm bundle`` makes. It needs NumPy,
tvm-ffi and TVM's runtime library. The process that waits never runs a client's code, so that no
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
import tempfile
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
from mobilenet_tvm.runtime.remote.marks import CRASHED
from mobilenet_tvm.runtime.remote.wire import (
    MISMATCH,
    SESSION_MAGIC,
    TrackerLink,
    WrongPeerError,
    receive_int,
    receive_text,
    send_int,
    send_text,
)
from mobilenet_tvm.targets.errors import UserError, WrongUseError

_LOGGER = logging.getLogger(__name__)

#: Where boards listen by default: at the first of these ports that is free.
PORTS = range(9090, 9190)

#: The most seconds that a session may last, where its client asks for no limit or a later one.
SESSION_LIMIT = 3600.0

#: Seconds to wait for a client's handshake, and for a tracker's answer.
_HANDSHAKE, _ANSWER = 3.0, 5.0
#: Seconds between two looks at the tracker, and between two attempts to reach it.
_LOOK, _RETRY = 2.0, 1.0
#: Seconds after which an offer that was taken, but not used, is made anew.
_UNUSED = 6.0
#: Seconds that a session's process may go on when its client is gone.
_GRACE = 1.0
#: Seconds between two looks at a session's process, whose end is noticed at once all the same.
_WATCH = 1.0

# From Linux' include/uapi/linux/prctl.h.
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class ServeOptions:
    """How to serve.

    Parameters
    ----------
    host : str
        The address to listen at. Whoever reaches it can run code here.
    port : int, optional
        0 for any free one; by default the first of `PORTS` that is free.
    tracker : (str, int), optional
        Host and port of the tracker to register at; sessions then come through it only.
    key : str
        What kind of board this is, for the tracker.
    name : str, optional
        The board's own name; the host name by default.
    session_limit : float
        The most seconds that a session may last.
    """

    host: str = LOOPBACK
    port: int | None = None
    tracker: tuple[str, int] | None = None
    key: str = ""
    name: str | None = None
    session_limit: float = SESSION_LIMIT

    def __post_init__(self) -> None:
        """Check what does not fit together.

        Raises
        ------
        WrongUseError
            If there is a tracker without a key, or a key without a tracker.
        """
        if (self.tracker is None) != (self.key == ""):
            raise WrongUseError("--tracker and --key belong together; give both or neither")
        if self.key:
            check_key(self.key)


def serve(options: ServeOptions) -> None:
    """Serve until `KeyboardInterrupt`.

    Parameters
    ----------
    options : ServeOptions
        How.

    Raises
    ------
    UserError
        If the address cannot be listened at, or TVM's runtime is missing.
    """
    # Before any session, so that each one's process has it as soon as it is forked.
    load_runtime()
    # NumPy's BLAS has threads, and is made for forks; nothing else here has any.
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
        self._listener = listener
        self._options = options
        self._port = int(listener.getsockname()[1])
        self._link: TrackerLink | None = None
        self._next_attempt = 0.0
        self._away = False
        # What a client must know; None while no session is offered.
        self._match_key: str | None = None if options.tracker else ""
        self._taken_since: float | None = None
        self._session: int | None = None

    def run(self) -> NoReturn:
        """Run one session after the other."""
        options = self._options
        where = join_host_port(options.host, self._port)
        through = f", key {options.key}" if options.key else ""
        _LOGGER.info("board %s listens at %s%s", self.info, where, through)
        while True:
            connection, client, limit = self._accept()
            with connection:
                self._announce(busy=True)
                began = time.monotonic()
                try:
                    end = self._run_session(connection, limit)
                except OSError as error:
                    end = f"not possible ({error})"
                _LOGGER.info("session of %s, %.1f s: %s", client, time.monotonic() - began, end)
            with suppress(OSError):
                prune(uploads())
            self._announce(busy=False)

    def close(self) -> None:
        """End what runs."""
        self._kill_session()
        self._listener.close()
        if self._link is not None:
            self._link.close()

    def _accept(self) -> tuple[socket.socket, str, float]:
        """Wait for a client; return its connection, its address and its session's limit."""
        while True:
            self._offer()
            period = _LOOK if self._link else _RETRY
            wait = period if self._options.tracker else None
            if not select.select([self._listener], [], [], wait)[0]:
                continue
            try:
                connection, address = self._listener.accept()
            except OSError:
                continue
            limit = self._shake_hands(connection)
            if limit is not None:
                if self._options.tracker:
                    self._match_key = None
                return connection, str(address[0]), limit
            connection.close()

    def _shake_hands(self, connection: socket.socket) -> float | None:
        """Return the limit of the client's session; None where it is no client of this board."""
        try:
            connection.settimeout(_HANDSHAKE)
            if receive_int(connection) != SESSION_MAGIC:
                raise WrongPeerError("not TVM's RPC")
            name, *given = receive_text(connection).split() or [""]
            if name != f"client:{self._match_key}":
                send_int(connection, MISMATCH)
                raise WrongPeerError("not its turn")
            send_int(connection, SESSION_MAGIC)
            send_text(connection, f"server:{self._options.key}")
        except OSError as error:
            _LOGGER.info("turned a connection away (%s)", error)
            return None
        limit = self._options.session_limit
        for option in given:
            if option.startswith("-timeout="):
                with suppress(ValueError):
                    seconds = float(option.removeprefix("-timeout="))
                    limit = seconds if 0 < seconds < limit else limit
        return limit

    def _offer(self) -> None:
        """See to it that the tracker knows this board and can give it away."""
        now = time.monotonic()
        tracker = self._options.tracker
        if tracker is None or (self._link is None and now < self._next_attempt):
            return
        try:
            if self._link is None:
                self._link = TrackerLink(*tracker, timeout=_ANSWER)
                self._match_key = None
                self._describe(self._link, busy=False)
                if self._away:
                    _LOGGER.info("the tracker is back")
                self._away = False
            if self._match_key is not None:
                if self._match_key in self._link.offered():
                    self._taken_since = None
                elif self._taken_since is None:
                    self._taken_since = now
                elif now - self._taken_since > _UNUSED:
                    self._match_key = None
            if self._match_key is None:
                match_key = f"{self._options.key}:{random.random()}"  # noqa: S311
                self._link.offer(self._options.key, self._port, match_key, self._address())
                self._match_key, self._taken_since = match_key, None
        except OSError as error:
            self._lose_tracker(error)

    def _announce(self, busy: bool) -> None:
        """Tell the tracker, where there is one, what this board does."""
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
        """Return the address that clients are told; None for the one that the tracker sees."""
        return None if self._options.host in ("0.0.0.0", "::") else self._options.host  # noqa: S104

    def _lose_tracker(self, error: OSError) -> None:
        if self._link is not None:
            self._link.close()
        self._link = None
        self._next_attempt = time.monotonic() + _RETRY
        if not self._away:
            assert self._options.tracker is not None  # noqa: S101
            where = join_host_port(*self._options.tracker)
            _LOGGER.info("no tracker at %s (%s); trying again and again", where, error)
        self._away = True

    def _run_session(self, connection: socket.socket, limit: float) -> str:
        """Run a session in a process of its own; return how it ended."""
        connection.settimeout(None)
        _notice_vanished_clients(connection)
        with tempfile.TemporaryDirectory(prefix="mobilenet-tvm-session-") as folder:
            # The process's end closes its end of the pipe.
            ended, alive = os.pipe()
            try:
                try:
                    self._session = os.fork()
                    if self._session == 0:
                        self._be_session(connection, Path(folder))
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
            with suppress(OSError):
                # Where memory runs out, the kernel ends this process and no other.
                Path("/proc/self/oom_score_adj").write_text("1000")
            self._listener.close()
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
        """Wait for the end of a session's process; return its status, or why it must be killed."""
        assert self._session is not None  # noqa: S101
        deadline, reason = time.monotonic() + limit, f"it reached its limit of {limit:g} s"
        poller = select.poll()
        poller.register(ended, select.POLLIN)
        poller.register(connection, select.POLLRDHUP)
        while True:
            wait = min(_WATCH, deadline - time.monotonic())
            events = dict(poller.poll(max(0, 1000 * wait)))
            process, status = os.waitpid(self._session, os.WNOHANG)
            if process:
                self._session = None
                return status
            now = time.monotonic()
            if connection.fileno() in events:
                poller.unregister(connection)
                if now + _GRACE < deadline:
                    deadline, reason = now + _GRACE, "its client is gone"
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
    """Let the kernel end a connection whose other end was switched off, within half a minute."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _tell(connection: socket.socket, message: str) -> None:
    """Answer a client in the place of its session's process."""
    connection.setblocking(False)
    with suppress(Exception):
        tvm_ffi.get_global_func("rpc.ReturnException")(connection.fileno(), message)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Parse the command line and serve; exit with status 1 on an error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tracker", metavar="HOST:PORT", help="the tracker to register at")
    parser.add_argument("--key", default="", help="what kind of board this is, for the tracker")
    parser.add_argument("--host", default=LOOPBACK, help="the address to listen at")
    parser.add_argument("--port", type=int, help="0 for any free one")
    parser.add_argument("--name", help="the board's name; the host name by default")
    parser.add_argument("--session-limit", type=float, default=SESSION_LIMIT, metavar="SECONDS")
    given = vars(parser.parse_args())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        tracker = given.pop("tracker")
        serve(ServeOptions(tracker=split_host_port(tracker) if tracker else None, **given))
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
