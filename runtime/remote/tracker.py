"""Runs TVM's tracker, which knows the boards and assigns free ones to waiting clients."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mobilenet_tvm.runtime.address import join_host_port
from mobilenet_tvm.runtime.remote.listen import LOOPBACK, listen
from mobilenet_tvm.targets.errors import UserError

_LOGGER = logging.getLogger(__name__)

#: Where trackers listen by default, as TVM's own do.
PORT = 9190


def run_tracker(
    host: str = LOOPBACK, port: int = PORT, on_ready: Callable[[str, int], None] | None = None
) -> None:
    """Run a tracker until `KeyboardInterrupt`.

    Parameters
    ----------
    host : str
        The address to listen on. Anyone who can reach it can take boards, and run code on them.
    port : int
        The port; 0 for any free one.
    on_ready : callable, optional
        Called with host and port when boards and clients can connect.

    Raises
    ------
    UserError
        If it cannot listen on the address, or TVM or tornado is not installed.
    """
    try:
        from mobilenet_tvm.runtime.remote.bounded_tracker import BoundedTracker
    except ImportError as error:
        raise UserError(
            f"the tracker needs TVM and tornado ({error}); run: pip install mobilenet-tvm"
        ) from None
    # The tracker logs a line about a connection that is not a client's; asyncio would log the
    # exception again.
    logging.getLogger("asyncio").addFilter(lambda record: record.exc_info is None)
    asyncio.set_event_loop(asyncio.new_event_loop())
    with listen(host, [port]) as listener:
        where = listener.getsockname()[1]
        # The protocol's way to stop a tracker needs a key, which nobody is given.
        tracker = BoundedTracker(listener, object())
        _LOGGER.info("tracker listens on %s", join_host_port(host, where))
        if on_ready is not None:
            on_ready(host, where)
        try:
            tracker.run()
        except KeyboardInterrupt:
            _LOGGER.info("tracker ended")
