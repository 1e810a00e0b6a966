"""A session: one board, for a while.

TVM's runtime library speaks the protocol, and waits for an answer as long as it takes. So that
nothing here waits forever, its sockets, which it shows to nobody, are found among those of the
process and given time-outs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import stat
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mobilenet_tvm.runtime.address import Address, join_host_port
from mobilenet_tvm.runtime.library import load_runtime
from mobilenet_tvm.runtime.remote.errors import (
    BoardCrashed,
    BoardError,
    BoardLost,
    BoardTimeout,
    NoBoard,
)
from mobilenet_tvm.runtime.remote.info import BoardInfo
from mobilenet_tvm.runtime.remote.marks import CRASHED, PREFIX, USER_ERROR
from mobilenet_tvm.runtime.remote.ssh import PORT as SSH_PORT
from mobilenet_tvm.runtime.remote.ssh import tunnel
from mobilenet_tvm.runtime.remote.wire import TrackerLink
from mobilenet_tvm.targets.errors import UserError, WrongUseError

if TYPE_CHECKING:
    from mobilenet_tvm.runtime.remote.model import RemoteModel

_LOGGER = logging.getLogger(__name__)

#: Seconds that a session may last, where nothing else is said.
TIMEOUT = 600.0
#: Seconds to wait for a free board.
WAIT = 60.0

#: Seconds in which a board has to answer a client that comes with a tracker's word that it is free.
_CONNECT = 10.0
#: Seconds that a client waits longer than the board's limit, for the board to say so.
_GRACE = 5.0

#: Devices of the n-th session have TVM's device types from (n + 1) times this on.
_DEVICES_PER_SESSION = 128
_CPU = 1

# One connection at a time to a board, so that it is known which socket is whose.
_locks: dict[tuple[str, int], threading.Lock] = defaultdict(threading.Lock)


class Session:
    """A board, for a while; get it by `Session.open` or `connect`, and close it.

    Its users take turns. A process can have 32 of them, which is TVM's limit.

    Attributes
    ----------
    board : BoardInfo
        What the board is.
    address : str
        Where it listens, as ``HOST:PORT``.
    """

    def __init__(self, module: Any, connection: socket.socket, address: str, timeout: float):
        self.address = address
        self.board = BoardInfo(address)
        self._module = module
        self._socket = connection
        self._deadline = time.monotonic() + timeout + _GRACE
        self._timeout = 0.0
        self._functions: dict[str, Any] = {}
        self._uploaded: set[str] = set()
        self._resources = ExitStack()
        self._turn = threading.RLock()
        self._open = True
        self.board = self._describe()

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
            Where.
        priority : int
            Of several clients that wait at a tracker the one with the largest comes first.
        timeout : float
            Seconds that the session may last; then the board ends it, whatever it does.
        wait : float
            Seconds to wait for a board that is free.

        Returns
        -------
        Session
            The board is this client's until it is closed.

        Raises
        ------
        NoBoard
            If there is none, or none was free in time.
        """
        place = Address.parse(address) if isinstance(address, str) else address
        load_runtime()
        if place.scheme == "tracker":
            return _open_through_tracker(place, priority, timeout, wait)
        if place.scheme == "rpc":
            return _connect(place.host, place.port, "", timeout, wait)
        if place.scheme == "ssh":
            return _open_through_ssh(place, timeout, wait)
        raise WrongUseError(f"'{place}' is this machine; a session needs a board")

    def __enter__(self) -> Session:
        """Return the session itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
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
            Numbers, texts, bytes, and what came from the board.
        timeout : float, optional
            Seconds in which it has to answer; what is left of the session by default.

        Returns
        -------
        Any
            What it returns.

        Raises
        ------
        BoardError
            If it failed, or there is no such function.
        BoardCrashed, BoardTimeout, BoardLost
            If the session is over for that reason.
        """
        with self.guarded(timeout):
            if name not in self._functions:
                self._functions[name] = _function(self._module, name)
            if self._functions[name] is None:
                raise BoardError(f"board {self.board.name} has no function {name}; update it")
            return self._functions[name](*arguments)

    def upload(self, path: str | Path, timeout: float | None = None) -> str:
        """Bring a file to the board, unless it has one with the same contents.

        Parameters
        ----------
        path : str or Path
            The file.
        timeout : float, optional
            Seconds that the board may be silent; what is left of the session by default.

        Returns
        -------
        str
            Its name on the board: the SHA-256 of its contents, and its suffix.
        """
        path = Path(path)
        contents = path.read_bytes()
        name = hashlib.sha256(contents).hexdigest() + path.suffix
        if name in self._uploaded:
            return name
        if not self.native:
            self.call("tvm.rpc.server.upload", name, contents, timeout=timeout)
        elif not self.call(f"{PREFIX}has", name, timeout=timeout):
            self.call(f"{PREFIX}store", name, contents, timeout=timeout)
        self._uploaded.add(name)
        return name

    def load(self, path: str | Path, threads: int | None = None) -> RemoteModel:
        """Load an artifact on the board.

        Parameters
        ----------
        path : str or Path
            The ``.so`` that ``compile`` wrote, on this machine; it is uploaded once.
        threads : int, optional
            How many threads work on one call. By default the board's fast physical cores.

        Returns
        -------
        RemoteModel
            Call it with NumPy arrays, as long as the session is open.

        Raises
        ------
        UserError
            If the file is no artifact, or damaged, or compiled for another architecture or a
            CPU with features that the board's lacks. Nothing of the file has run then.
        """
        from mobilenet_tvm.runtime.remote.model import RemoteModel

        if threads is not None and threads < 1:
            raise UserError(f"threads={threads}; give 1 or more")
        if not self.native:
            raise UserError(
                f"the board at {self.address} runs TVM's own server, which has no models; "
                "start 'mobilenet-tvm serve' there"
            )
        return RemoteModel(self, Path(path), threads)

    def gpu(self, kind: str) -> str:
        """Return what a board calls its GPU, and make it ready.

        Parameters
        ----------
        kind : str
            TVM's name of its code: `opencl` or `cuda`.

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
            Seconds that the board may be silent; what is left of the session by default.

        Raises
        ------
        BoardError, BoardCrashed, BoardTimeout, BoardLost
            In the place of what TVM raises.
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
        """Give the board back."""
        if self._open:
            # TVM writes its farewell, which a full buffer must not hold up.
            self._limit_silence(1.0)
            with suppress(Exception):
                self._module.get_function("CloseRPCConnection")()
        self._break()

    def __del__(self) -> None:
        """Give the board back."""
        with suppress(Exception):
            self.close()

    def _break(self) -> None:
        """Let nothing wait for the board any more."""
        if self._open:
            self._open = False
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        self._resources.close()

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
        with self.guarded(_CONNECT):
            info = _function(self._module, f"{PREFIX}info")
            if info is not None:
                return BoardInfo.from_dict(json.loads(info()))
            triple = _function(self._module, "target.llvm_get_system_triple")
            machine = str(triple()).partition("-")[0] if triple is not None else ""
            return BoardInfo(self.address, architecture=machine)


def connect(
    address: Address | str, priority: int = 1, timeout: float = 3600.0, wait: float = WAIT
) -> Session:
    """Take a board, to load models on it; see `Session.open`."""
    return Session.open(address, priority, timeout, wait)


def _open_through_tracker(place: Address, priority: int, timeout: float, wait: float) -> Session:
    deadline = time.monotonic() + wait
    while True:
        host, port, match_key = _take_board(place, priority, deadline)
        try:
            return _connect(host, port, match_key, timeout, _CONNECT)
        except NoBoard as error:
            # The tracker has not noticed yet that it is gone.
            if time.monotonic() >= deadline:
                raise
            _LOGGER.warning("warning: %s", error)


def _open_through_ssh(place: Address, timeout: float, wait: float) -> Session:
    with ExitStack() as resources:
        port = resources.enter_context(tunnel(place))
        try:
            session = _connect("127.0.0.1", port, "", timeout, wait)
        except NoBoard:
            raise NoBoard(
                f"no board answers at port {SSH_PORT} of the loopback of {place}; run "
                "'mobilenet-tvm serve', or the serve.py of a board's folder, there"
            ) from None
        session._resources = resources.pop_all()
        return session


def _take_board(place: Address, priority: int, deadline: float) -> tuple[str, int, str]:
    """Return host, port and match key of a free board of a key."""
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


def _connect(host: str, port: int, match_key: str, timeout: float, wait: float) -> Session:
    """Open a session with the board at an address."""
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
        # TVM neither bounds the time that connecting takes nor can be interrupted.
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(wait)
        # A copy: what comes after the wait is no answer, least of all to the shutdown below.
        answers = tuple(result)
        found = _sockets(host, port)
        new = [socket.socket(fileno=os.dup(found[key])) for key in found.keys() - others]
    if answers and not isinstance(answers[0], Exception):
        (connection,) = new
    else:
        for connection in new:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        if answers:
            raise _why_not(answers[0], where)
        raise NoBoard(f"the board at {where} did not answer in {wait:g} s; busy, or hanging")
    try:
        return Session(answers[0], connection, where, timeout)
    except (BoardLost, BoardTimeout, BoardCrashed, BoardError) as error:
        raise NoBoard(f"the board at {where} does not work: {error}") from None


def _why_not(error: Exception, where: str) -> NoBoard:
    message = str(error)
    if "matches key" in message:
        return NoBoard(f"the board at {where} takes clients of its tracker only")
    if "Connect to" in message:
        return NoBoard(f"nothing listens at {where}; run 'mobilenet-tvm serve' there")
    if "protocol" in message:
        return NoBoard(
            f"the board at {where} has another version of TVM ({message.splitlines()[-1]})"
        )
    return NoBoard(f"what listens at {where} is no board")


def _sockets(host: str, port: int) -> dict[int, int]:
    """Return number and file descriptor of each of this process's sockets to an address."""
    peers = {address[:2] for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    found = {}
    for path in Path("/dev/fd").iterdir():
        with suppress(OSError):
            descriptor = int(path.name)
            status = os.fstat(descriptor)
            if stat.S_ISSOCK(status.st_mode):
                with socket.socket(fileno=os.dup(descriptor)) as copy:
                    if copy.getpeername()[:2] in peers:
                        found[status.st_ino] = descriptor
    return found


def _function(module: Any, name: str) -> Any:
    """Return a function of a board; None where it has none of that name."""
    try:
        return module.get_function(name)
    except AttributeError:
        return None
