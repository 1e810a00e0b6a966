"""Listens for connections, and warns if other machines can make them."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from collections.abc import Iterable

from mobilenet_tvm.runtime.address import join_host_port
from mobilenet_tvm.targets.errors import UserError

_LOGGER = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"


def listen(host: str, ports: Iterable[int]) -> socket.socket:
    """Listen for connections, and warn if other machines can make them.

    Parameters
    ----------
    host : str
        The address to listen on.
    ports : iterable of int
        Ports to try in turn; 0 is any free one.

    Returns
    -------
    socket
        Listening on the first free port.

    Raises
    ------
    UserError
        If the address cannot be used, or no port is free.
    """
    ports = list(ports)
    for port in ports:
        try:
            listener = _listen(host, port)
        except (OSError, OverflowError, UnicodeError) as error:
            if getattr(error, "errno", None) == errno.EADDRINUSE and port != ports[-1]:
                continue
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"cannot listen on {join_host_port(host, port)} ({reason}); "
                "give another --host or --port"
            ) from None
        where = join_host_port(host, listener.getsockname()[1])
        if not ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
            _LOGGER.warning(
                "warning: TVM's RPC has no authentication: anyone who can reach %s can run code as "
                "this user; an SSH tunnel to loopback is safe (see the README)",
                where,
            )
        return listener
    raise ValueError("no ports")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener
