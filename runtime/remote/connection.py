"""A connection to one board: calls within time limits, uploads, and errors that name the board.

TVM's runtime library speaks the protocol and waits for answers without a limit. To bound every
wait, the sockets that it keeps to itself are found among the process's file descriptors and given
timeouts.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import stat
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from mobilenet_tvm.runtime.address import join_host_port
from mobilenet_tvm.runtime.files import require_ordinary
from mobilenet_tvm.runtime.remote.errors import (
    BoardCrashed,
    BoardError,
    BoardLost,
    BoardTimeout,
    NoBoard,
)
from mobilenet_tvm.runtime.remote.info import BoardInfo
from mobilenet_tvm.runtime.remote.marks import CRASHED, MAX_UPLOAD, PREFIX, USER_ERROR
from mobilenet_tvm.targets.errors import UserError

#: Seconds in which a free board has to accept a client and describe itself.
CONNECT_TIMEOUT = 10.0

#: Seconds that a client waits beyond the session's limit, so that the board can report it.
_GRACE_PERIOD = 5.0
#: Seconds in which a closing connection sends TVM's last message.
_CLOSE_TIMEOUT = 1.0

#: How many file descriptors are looked through where Linux does not list them.
_MAX_DESCRIPTORS = 1 << 16

#: TVM numbers the device types of the n-th session from (n + 1) times this on.
_DEVICES_PER_SESSION = 128
_CPU = 1

#: Connecting to a board is exclusive: a new socket to its address then belongs to the new session.
_locks: dict[tuple[str, int], threading.Lock] = defaultdict(threading.Lock)

_Self = TypeVar("_Self", bound="Connection")


class Connection:
    """A connection to a board, on which its users take turns.

    A process can have 32 of them, which is TVM's limit.

    Parameters
    ----------
    host, port : str, int
        Where the board listens.
    match_key : str
        What its tracker gave with the board; empty where there is no tracker.
    timeout : float
        Seconds after which the board ends the session, whatever it is doing.
    wait : float
        Seconds to wait until the board answers.

    Attributes
    ----------
    board : BoardInfo
        What the board is.
    address : str
        Where it listens, as ``HOST:PORT``.
    resources : ExitStack
        What is released when the connection is closed.

    Raises
    ------
    NoBoard
        If there is no board, or it does not answer in time.
    """

    def __init__(self, host: str, port: int, match_key: str, timeout: float, wait: float) -> None:
        self.address = join_host_port(host, port)
        self.board = BoardInfo(self.address)
        self.resources = ExitStack()
        self._functions: dict[str, Any] = {}
        self._uploaded: set[str] = set()
        self._turn = threading.RLock()
        self._timeout = 0.0
        self._open = False
        self._module, self._socket = _connect(host, port, match_key, timeout, wait)
        self._open = True
        self._deadline = time.monotonic() + timeout + _GRACE_PERIOD
        try:
            self.board = self._describe()
        except UserError as error:
            self.close()
            raise NoBoard(f"the board at {self.address} does not work: {error}") from None

    def __repr__(self) -> str:
        """Return the board, its address and whether the connection is open, in one line."""
        state = "" if self._open else ", closed"
        return f"<{type(self).__name__} with board {self.board} at {self.address}{state}>"

    def __enter__(self: _Self) -> _Self:
        """Return the connection itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()

    def __del__(self) -> None:
        """Close the connection."""
        with suppress(Exception):
            self.close()

    @property
    def native(self) -> bool:
        """Whether the board runs this project's server, so that `call` finds its functions."""
        return self.board.features is not None

    @property
    def device(self) -> Any:
        """The board's CPU as TVM's device, for tensors there."""
        import tvm_ffi

        index = tvm_ffi.get_global_func("rpc.SessTableIndex")(self._module)
        return tvm_ffi.device(_CPU + _DEVICES_PER_SESSION * (index + 1), 0)

    def call(self, name: str, *arguments: Any, timeout: float | None = None) -> Any:
        """Call a function that is registered on the board.

        Parameters
        ----------
        name : str
            Its name in TVM's registry.
        *arguments
            Numbers, texts, bytes, and objects that came from the board.
        timeout : float, optional
            Seconds in which it has to answer. Default: the rest of the session.

        Returns
        -------
        Any
            What it returns.

        Raises
        ------
        BoardError
            If it fails, or there is no such function.
        BoardCrashed, BoardTimeout, BoardLost
            If the session is over, for that reason.
        """
        with self.guarded(timeout):
            if name not in self._functions:
                self._functions[name] = _function(self._module, name)
            if self._functions[name] is None:
                raise BoardError(f"board {self.board.name} has no function {name}; update it")
            return self._functions[name](*arguments)

    def upload(self, path: str | Path, timeout: float | None = None) -> str:
        """Upload a file, unless the board has one with the same contents.

        Parameters
        ----------
        path : str or Path
            The file.
        timeout : float, optional
            Seconds that the board may be silent. Default: the rest of the session.

        Returns
        -------
        str
            Its name on the board: the SHA-256 of its contents, and its suffix.

        Raises
        ------
        UserError
            If the file cannot be read, or is larger than boards take.
        """
        path = Path(path)
        try:
            require_ordinary(path)
            size = path.stat().st_size
            if size > MAX_UPLOAD:
                raise UserError(f"{path}: {size} bytes, of which boards take {MAX_UPLOAD}")
            contents = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        name = hashlib.sha256(contents).hexdigest() + path.suffix
        if name in self._uploaded:
            return name
        if not self.native:
            self.call("tvm.rpc.server.upload", name, contents, timeout=timeout)
        elif not self.call(f"{PREFIX}has", name, timeout=timeout):
            self.call(f"{PREFIX}store", name, contents, timeout=timeout)
        self._uploaded.add(name)
        return name

    def load_module(self, name: str) -> Any:
        """Load an uploaded library on the board.

        Parameters
        ----------
        name : str
            What `upload` returned.

        Returns
        -------
        tvm_ffi.Module
            Its functions run on the board; call them inside `guarded`.
        """
        import tvm_ffi

        with self.guarded():
            return tvm_ffi.get_global_func("rpc.LoadRemoteModule")(self._module, name)

    @contextmanager
    def guarded(self, timeout: float | None = None) -> Iterator[None]:
        """Use the board inside the context by other means than `call`.

        Parameters
        ----------
        timeout : float, optional
            Seconds that the board may be silent. Default: the rest of the session.

        Raises
        ------
        BoardError, BoardCrashed, BoardTimeout, BoardLost
            In place of what TVM raises.
        """
        with self._turn:
            if not self._open:
                raise BoardLost(f"the session of board {self.board.name} is over; open another")
            left = self._deadline - time.monotonic()
            self._limit_silence(max(0.001, left if timeout is None else min(timeout, left)))
            began = time.monotonic()
            try:
                yield
            except RuntimeError as error:
                silent = time.monotonic() - began >= self._timeout
                raise self._translated(str(error), silent) from error
            except KeyboardInterrupt:
                self._break()
                raise

    def close(self) -> None:
        """End the session; its board is free for others."""
        if self._open:
            # TVM sends a last message, and a full buffer must not block it.
            self._limit_silence(_CLOSE_TIMEOUT)
            with suppress(Exception):
                self._module.get_function("CloseRPCConnection")()
        self._break()

    def _break(self) -> None:
        """Shut the socket down, so that nothing waits for the board any more."""
        if self._open:
            self._open = False
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        self.resources.close()

    def _limit_silence(self, seconds: float) -> None:
        if seconds != self._timeout:
            value = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                self._socket.setsockopt(socket.SOL_SOCKET, option, value)
            self._timeout = seconds

    def _translated(self, message: str, silent: bool) -> Exception:
        """Return the error that a user gets for one of TVM's, and end the session if it is over."""
        name = self.board.name
        lines = [line for line in message.splitlines() if line.strip()] or ["no reason given"]
        if "RPCSessionTimeoutError: " in message:
            self._break()
            reason = message.rpartition("RPCSessionTimeoutError: ")[2].strip()
            return BoardTimeout(f"board {name} ended the session: {reason}")
        if CRASHED in message:
            self._break()
            reason = message.rpartition(CRASHED)[2].strip()
            return BoardCrashed(f"the code that board {name} ran ended its session ({reason})")
        if lines[0].startswith("RPCError: "):
            _, mark, said = message.partition(USER_ERROR)
            return BoardError(f"board {name}: {said if mark else lines[-1]}")
        self._break()
        if silent:
            return BoardTimeout(f"board {name} was silent for {self._timeout:.0f} s; it hangs")
        return BoardLost(f"the connection to board {name} broke ({lines[-1]})")

    def _describe(self) -> BoardInfo:
        """Ask the board what it is; of TVM's own servers only those with a compiler know."""
        with self.guarded(CONNECT_TIMEOUT):
            info = _function(self._module, f"{PREFIX}info")
            if info is not None:
                return BoardInfo.from_dict(_description(info()))
            triple = _function(self._module, "target.llvm_get_system_triple")
            machine = str(triple()).partition("-")[0] if triple is not None else ""
            return BoardInfo(self.address, architecture=machine)


def _connect(
    host: str, port: int, match_key: str, timeout: float, wait: float
) -> tuple[Any, socket.socket]:
    """Return TVM's session with the board at an address, and its socket."""
    where = join_host_port(host, port)
    result: list[Any] = []

    def run() -> None:
        import tvm_ffi

        try:
            key = f"{match_key} -timeout={timeout}"
            result.append(tvm_ffi.get_global_func("rpc.Connect")(host, port, key, False))
        except Exception as error:
            result.append(error)

    with _locks[host, port]:
        others = set(_sockets(host, port))
        # TVM neither bounds the time that connecting takes nor lets it be interrupted.
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(wait)
        # A copy: what arrives later is no answer, least of all to the shutdown below.
        answers = tuple(result)
        found = _sockets(host, port)
        new = [socket.socket(fileno=os.dup(found[key])) for key in found.keys() - others]
    if answers and not isinstance(answers[0], Exception):
        (connection,) = new
        return answers[0], connection
    for connection in new:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()
    if answers:
        raise _connection_error(answers[0], where)
    raise NoBoard(f"the board at {where} did not answer in {wait:g} s; it is busy, or hangs")


def _connection_error(error: Exception, where: str) -> NoBoard:
    message = str(error)
    if "matches key" in message:
        return NoBoard(f"the board at {where} takes clients of its tracker only")
    if "Connect to" in message:
        return NoBoard(f"nothing listens at {where}; run 'mobilenet-tvm serve' there")
    if "protocol" in message:
        return NoBoard(
            f"the board at {where} has another version of TVM ({message.splitlines()[-1]})"
        )
    return NoBoard(f"what listens at {where} is not a board")


def _sockets(host: str, port: int) -> dict[int, int]:
    """Return inode and file descriptor of each of this process's sockets to an address."""
    try:
        resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NoBoard(f"the host '{host}' is not known ({error})") from None
    peers = {address[:2] for *_, address in resolved}
    found = {}
    for descriptor in _open_files():
        with suppress(OSError):
            status = os.fstat(descriptor)
            if stat.S_ISSOCK(status.st_mode):
                with socket.socket(fileno=os.dup(descriptor)) as copy:
                    if copy.getpeername()[:2] in peers:
                        found[status.st_ino] = descriptor
    return found


def _open_files() -> Iterable[int]:
    """Return this process's file descriptors; without ``/proc``, all that may be some."""
    try:
        return [int(path.name) for path in Path("/proc/self/fd").iterdir()]
    except OSError:
        return range(_MAX_DESCRIPTORS)


def _description(answer: Any) -> Any:
    """Return what a board says about itself, of any type."""
    try:
        return json.loads(answer)
    except (TypeError, ValueError, RecursionError):
        return None


def _function(module: Any, name: str) -> Any:
    """Return a function of a board; None where it has none of that name."""
    try:
        return module.get_function(name)
    except AttributeError:
        return None
