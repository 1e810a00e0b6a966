"""The parts of TVM's RPC in Python: the handshake of a session, and the messages of trackers.

TVM's runtime library speaks the rest of a session's protocol at both ends, and trackers are TVM's
own. Numbers are little-endian int32.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any

# From TVM's python/tvm/rpc/base.py.
SESSION_MAGIC, MISMATCH = 0xFF271, 0xFF271 + 2
_TRACKER_MAGIC = 0x2F271
_SUCCESS, _PUT, _REQUEST, _UPDATE_INFO, _SUMMARY, _PENDING = 0, 3, 4, 5, 6, 7

#: Maximum sizes in bytes of a tracker's messages and of keys: longer ones are of another protocol.
_MAX_MESSAGE, MAX_KEY = 1 << 24, 1 << 12

_INT = struct.Struct("<i")


class WrongPeerError(OSError):
    """The other end speaks another protocol."""


def receive(connection: socket.socket, size: int) -> bytes:
    """Read a number of bytes within the connection's timeout, which holds for all of them together.

    Raises
    ------
    OSError
        If the connection ends before, or times out.
    """
    timeout = connection.gettimeout()
    end = None if timeout is None else time.monotonic() + timeout
    try:
        return b"".join(_parts(connection, size, end))
    finally:
        connection.settimeout(timeout)


def _parts(connection: socket.socket, size: int, end: float | None) -> Iterator[bytes]:
    while size:
        if end is not None:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            connection.settimeout(left)
        part = connection.recv(min(size, 1 << 16))
        if not part:
            raise ConnectionResetError("the connection was closed")
        yield part
        size -= len(part)


def receive_int(connection: socket.socket) -> int:
    """Read a number."""
    return int(_INT.unpack(receive(connection, _INT.size))[0])


def send_int(connection: socket.socket, value: int) -> None:
    """Write a number."""
    connection.sendall(_INT.pack(value))


def receive_text(connection: socket.socket, max_size: int = MAX_KEY) -> str:
    """Read a text, preceded by its length in bytes."""
    size = receive_int(connection)
    if not 0 <= size <= max_size:
        raise WrongPeerError(f"a message of {size} bytes")
    try:
        return receive(connection, size).decode()
    except UnicodeDecodeError:
        raise WrongPeerError("a message that is not text") from None


def send_text(connection: socket.socket, text: str) -> None:
    """Write a text, preceded by its length in bytes."""
    encoded = text.encode()
    connection.sendall(_INT.pack(len(encoded)) + encoded)


def is_description(facts: Any) -> bool:
    """Return whether a tracker's description of a board is one: with a key and an address."""
    if not isinstance(facts, dict):
        return False
    key, address = facts.get("key"), facts.get("addr")
    if not (isinstance(key, str) and key.startswith("server:")):
        return False
    return isinstance(address, list) and len(address) == 2 and _is_place(*address)


def is_offer(key: Any, host: Any, port: Any, match_key: Any) -> bool:
    """Return whether what a board offers to a tracker is an address and a match key for a key."""
    return isinstance(key, str) and isinstance(match_key, str) and _is_place(host, port)


def _is_queue(counts: Any) -> bool:
    return isinstance(counts, dict) and all(type(count) is int for count in counts.values())


def _is_place(host: Any, port: Any) -> bool:
    return isinstance(host, str) and type(port) is int and 0 < port < 1 << 16


class TrackerLink:
    """A connection to a tracker.

    Parameters
    ----------
    host, port : str, int
        Where it listens.
    timeout : float
        Seconds in which it has to answer.

    Raises
    ------
    OSError
        From here and from every method: if the tracker cannot be reached, does not answer in
        time, or is not a tracker (`WrongPeerError`).
    """

    def __init__(self, host: str, port: int, timeout: float = 10.0) -> None:
        try:
            self._socket = socket.create_connection((host, port), timeout)
        except UnicodeError as error:
            raise WrongPeerError(f"not the name of a host: {error}") from None
        self._timeout = timeout
        try:
            send_int(self._socket, _TRACKER_MAGIC)
            if receive_int(self._socket) != _TRACKER_MAGIC:
                raise WrongPeerError("not a tracker")
        except OSError:
            self.close()
            raise

    def __enter__(self) -> TrackerLink:
        """Return the link itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def describe(self, facts: dict[str, Any]) -> None:
        """Describe the board at this end; replaces the earlier description."""
        self._expect_success(self._ask(_UPDATE_INFO, facts))

    def offer(self, key: str, port: int, match_key: str, host: str | None) -> None:
        """Offer the board at this end for one session.

        Parameters
        ----------
        key : str
            The key for its kind of board.
        port : int
            Where it listens.
        match_key : str
            What the session's client has to present.
        host : str, optional
            Its address. Default: the one that the tracker sees.
        """
        self._expect_success(self._ask(_PUT, key, [port, match_key], host))

    def offered(self) -> set[str]:
        """Return the match keys of this end's offers that nobody has taken."""
        answer = self._ask(_PENDING)
        if not isinstance(answer, list):
            raise WrongPeerError(f"unexpected answer {answer!r}")
        return set(map(str, answer))

    def request(self, key: str, priority: int, timeout: float) -> tuple[str, int, str]:
        """Wait for a free board and take it.

        Parameters
        ----------
        key : str
            The key for the kind of board.
        priority : int
            Of several requests, the one with the highest is served first.
        timeout : float
            Seconds to wait.

        Returns
        -------
        (str, int, str)
            Host, port and match key.
        """
        answer = self._ask(_REQUEST, key, "", priority, timeout=timeout)
        try:
            code, (host, port, match_key) = answer
        except (TypeError, ValueError):
            raise WrongPeerError(f"unexpected answer {answer!r}") from None
        self._expect_success(code)
        if not is_offer(key, host, port, match_key):
            raise WrongPeerError(f"unexpected answer {answer!r}")
        return host, port, match_key

    def summary(self) -> tuple[dict[str, dict[str, int]], list[dict[str, Any]]]:
        """Return the numbers of free boards and waiting requests by key, and the descriptions.

        Descriptions without a key or an address are left out.
        """
        answer = self._ask(_SUMMARY)
        try:
            code, facts = answer
            self._expect_success(code)
            queues = facts["queue_info"]
            if not all(map(_is_queue, queues.values())):
                raise WrongPeerError(f"unexpected queues {queues!r}")
            return queues, list(filter(is_description, facts["server_info"]))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise WrongPeerError(f"unexpected answer {answer!r}") from None

    def close(self) -> None:
        """End the connection; the tracker forgets its descriptions and offers."""
        with suppress(OSError):
            self._socket.close()

    def _ask(self, code: int, *arguments: Any, timeout: float | None = None) -> Any:
        self._socket.settimeout(timeout if timeout is not None else self._timeout)
        send_text(self._socket, json.dumps([code, *arguments]))
        try:
            return json.loads(receive_text(self._socket, _MAX_MESSAGE))
        except (ValueError, RecursionError):
            raise WrongPeerError("an answer that is not JSON") from None

    @staticmethod
    def _expect_success(code: Any) -> None:
        if code != _SUCCESS:
            raise WrongPeerError(f"the tracker refused: {code!r}")
