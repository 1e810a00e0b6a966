"""Where clients wait for a board: reads their greetings side by side, in bounded time."""

from __future__ import annotations

import logging
import select
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass, field

from mobilenet_tvm.runtime.remote.wire import MAX_KEY, SESSION_MAGIC, WrongPeerError

_LOGGER = logging.getLogger(__name__)

#: Seconds in which a client has to say who it is.
GREETING_TIMEOUT = 3.0
#: Maximum numbers of clients that have not said it yet, and of those that wait for their turn.
MAX_STRANGERS, MAX_WAITING = 256, 128

_HEAD = struct.Struct("<ii")


@dataclass
class Client:
    """A client's connection, and what it has said."""

    connection: socket.socket
    address: str
    deadline: float
    data: bytearray = field(default_factory=bytearray)

    def read(self) -> str | None:
        """Read what has arrived; return the client's key and options once they are complete.

        Raises
        ------
        OSError
            If it is gone, or not a client of a board.
        """
        part = self.connection.recv(_HEAD.size + MAX_KEY)
        if not part:
            raise ConnectionResetError("the connection was closed")
        self.data += part
        begun = bytes(self.data[:4])
        if begun != struct.pack("<i", SESSION_MAGIC)[: len(begun)]:
            raise WrongPeerError("not TVM's RPC")
        if len(self.data) < _HEAD.size:
            return None
        _, size = _HEAD.unpack_from(self.data)
        if not 0 <= size <= MAX_KEY:
            raise WrongPeerError(f"a message of {size} bytes")
        if len(self.data) < _HEAD.size + size:
            return None
        try:
            return self.data[_HEAD.size : _HEAD.size + size].decode()
        except UnicodeDecodeError:
            raise WrongPeerError("a message that is not text") from None


class Lobby:
    """Accepts clients and reads their greetings side by side, without threads.

    A process that forks should have no threads, and one slow client must not keep out the others.

    Parameters
    ----------
    listener : socket
        Where clients connect. It is closed with the lobby.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        listener.setblocking(False)
        self._events = select.epoll()
        self._events.register(listener, select.EPOLLIN)
        #: By file descriptor, the oldest first.
        self._strangers: dict[int, Client] = {}
        self._waiting: dict[int, tuple[Client, str]] = {}

    def fileno(self) -> int:
        """Return the file descriptor that is readable when `attend` has something to do."""
        return self._events.fileno()

    def next(self, seconds: float | None) -> tuple[Client, str] | None:
        """Wait for a client whose turn it is.

        Parameters
        ----------
        seconds : float, optional
            How long. Default: as long as it takes.

        Returns
        -------
        (Client, str), optional
            The client that came first, and its key and options.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while not self._waiting:
            now = time.monotonic()
            if end is not None and now >= end:
                return None
            oldest = self._oldest()
            deadline = None if oldest is None else oldest.deadline
            ends = [each for each in (end, deadline) if each is not None]
            self.attend(max(0.0, min(ends) - now) if ends else None)
        descriptor, (client, said) = next(iter(self._waiting.items()))
        self._events.unregister(descriptor)
        del self._waiting[descriptor]
        client.connection.settimeout(GREETING_TIMEOUT)
        return client, said

    def attend(self, seconds: float | None = 0) -> None:
        """Accept clients, read what has arrived, and send those away whose time is over."""
        for descriptor, _ in self._events.poll(seconds):
            if descriptor == self._listener.fileno():
                self._accept()
            elif descriptor in self._strangers:
                self._read(descriptor)
            elif descriptor in self._waiting:
                self._send_away(descriptor, "it has gone")
        now = time.monotonic()
        while (oldest := self._oldest()) is not None and oldest.deadline <= now:
            self._send_away(oldest.connection.fileno(), "it did not say in time who it is")

    def close(self, forked: bool = False) -> None:
        """Close the listener and all connections; in a forked process only that process's."""
        if not forked:
            for descriptor in (*self._strangers, *self._waiting, self._listener.fileno()):
                self._events.unregister(descriptor)
        self._events.close()
        self._listener.close()
        waiting = [client for client, _ in self._waiting.values()]
        for client in (*self._strangers.values(), *waiting):
            client.connection.close()

    def _oldest(self) -> Client | None:
        """Return the client that came first of those that have yet to say who they are."""
        return next(iter(self._strangers.values()), None)

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self._listener.accept()
            except OSError:
                return
            connection.setblocking(False)
            deadline = time.monotonic() + GREETING_TIMEOUT
            self._strangers[connection.fileno()] = Client(connection, str(address[0]), deadline)
            self._events.register(connection, select.EPOLLIN)
            if len(self._strangers) > MAX_STRANGERS:
                self._send_away(next(iter(self._strangers)), "too many say nothing")

    def _read(self, descriptor: int) -> None:
        client = self._strangers[descriptor]
        try:
            said = client.read()
        except BlockingIOError:
            return
        except OSError as error:
            self._send_away(descriptor, str(error))
            return
        if said is None:
            return
        if len(self._waiting) >= MAX_WAITING:
            self._send_away(descriptor, "too many wait")
            return
        del self._strangers[descriptor]
        self._waiting[descriptor] = client, said
        self._events.modify(descriptor, select.EPOLLRDHUP)

    def _send_away(self, descriptor: int, reason: str) -> None:
        client = self._strangers.pop(descriptor, None) or self._waiting.pop(descriptor)[0]
        # A forked process may still have a copy, which would go on to report events.
        self._events.unregister(descriptor)
        with suppress(OSError):
            client.connection.close()
        _LOGGER.info("rejected a connection (%s)", reason)
