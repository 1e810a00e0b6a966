"""TVM's tracker, made to bear strangers: boards that describe themselves wrongly, idle connections.

The module needs TVM and tornado.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tvm.rpc.tracker import TCPEventHandler, TrackerServerHandler

from mobilenet_tvm.runtime.remote.lobby import GREETING_TIMEOUT
from mobilenet_tvm.runtime.remote.wire import is_description, is_offer

_LOGGER = logging.getLogger(__name__)

#: Maximum number of connections: fewer than the files that a process may usually open.
MAX_CONNECTIONS = 900


class BoundedTracker(TrackerServerHandler):  # type: ignore[misc]
    """TVM's tracker; a connection that breaks the protocol is closed and disturbs no other."""

    def _on_event(self, _: Any) -> None:
        while True:
            try:
                connection, address = self._sock.accept()
            except OSError:
                # Nobody waits any more; whatever else it was, the next event tries again.
                return
            handler = TCPEventHandler(self, connection, address)
            self._ioloop.call_later(GREETING_TIMEOUT, self._expect_greeting, handler)
            if len(self._connections) > MAX_CONNECTIONS:
                _LOGGER.warning("rejected a connection (too many)")
                self._silent(handler).close()

    def put(self, key: Any, value: tuple[Any, ...]) -> None:
        """Take a board's offer of a session."""
        _, *offer = value
        if not is_offer(key, *offer):
            raise ValueError(f"an offer that is not one: {key!r}, {offer!r}")
        super().put(key, value)

    def request(self, key: Any, user: Any, priority: Any, callback: Callable[..., bool]) -> None:
        """Take a client's request for a board."""
        if not (isinstance(key, str) and isinstance(priority, int)):
            raise TypeError(f"a request that is not one: {key!r}, {priority!r}")
        super().request(key, user, priority, callback)

    def close(self, conn: Any) -> None:
        """Forget a connection and its offers."""
        self._connections.discard(conn)
        for scheduler in self._scheduler_map.values():
            for value in conn.put_values:
                scheduler.remove(value)

    def summary(self) -> dict[str, Any]:
        """Return the queues, and the descriptions of those boards that describe themselves."""
        described = [conn.summary() for conn in self._connections]
        return {
            "queue_info": {key: each.summary() for key, each in self._scheduler_map.items()},
            "server_info": list(filter(is_description, described)),
        }

    def _silent(self, newest: Any) -> Any:
        """Return a connection that has not said anything yet, or else the newest one."""
        others = (conn for conn in self._connections if conn._init_req_nbytes)
        return next(others, newest)

    @staticmethod
    def _expect_greeting(handler: Any) -> None:
        if handler._init_req_nbytes:
            with suppress(OSError):
                handler.close()
