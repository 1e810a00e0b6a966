"""Runs TVM's tracker: it knows which boards there are, and gives free ones to those who wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mobilenet_tvm.runtime.address import join_host_port
from mobilenet_tvm.runtime.remote.listen import LOOPBACK, listen
from mobilenet_tvm.targets.errors import UserError

_LOGGER = logging.getLogger(__name__)

#: Where trackers listen by default; TVM's own default too.
PORT = 9190


def run_tracker(
    host: str = LOOPBACK, port: int = PORT, on_ready: Callable[[str, int], None] | None = None
) -> None:
    """Run a tracker until `KeyboardInterrupt`.

    Parameters
    ----------
    host : str
        The address to listen at. Whoever reaches it can take boards, and so run code on them.
    port : int
        0 for any free one.
    on_ready : callable, optional
        Gets host and port as soon as boards and clients can come.

    Raises
    ------
    UserError
        If the address cannot be listened at, or TVM or tornado is not installed.
    """
    try:
        from tvm.rpc.tracker import TrackerServerHandler
    except ImportError as error:
        raise UserError(
            f"the tracker needs TVM and tornado ({error}); run: pip install mobilenet-tvm"
        ) from None
    # After its own line on a connection that is no client's, an exception is logged once more.
    logging.getLogger("asyncio").addFilter(lambda record: record.exc_info is None)
    asyncio.set_event_loop(asyncio.new_event_loop())
    with listen(host, [port]) as listener:
        where = listener.getsockname()[1]
        # Nobody can stop it by its protocol: the key for that is never told.
        tracker = TrackerServerHandler(listener, object())
        _LOGGER.info("tracker listens at %s", join_host_port(host, where))
        if on_ready is not None:
            on_ready(host, where)
        try:
            tracker.run()
        except KeyboardInterrupt:
            _LOGGER.info("tracker ended")
