"""Opens tunnels to boards through the system's ssh."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mobilenet_tvm.runtime.address import Address
from mobilenet_tvm.runtime.remote.errors import NoBoard

#: The port on the board's loopback where it serves.
PORT = 9090

#: Seconds in which ssh has to set the tunnel up, and between two checks whether it has.
_TIMEOUT, _POLL_INTERVAL = 30.0, 0.05


@contextmanager
def tunnel(place: Address) -> Iterator[int]:
    """Keep a tunnel open to a board's loopback.

    Parameters
    ----------
    place : Address
        The board's SSH server, and the user to log in as.

    Yields
    ------
    int
        The port on this machine's loopback that leads to the board's.

    Raises
    ------
    NoBoard
        If ssh cannot log in without asking, or cannot set the tunnel up.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = ["ssh", "-N", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes"]
    command += ["-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=10"]
    command += ["-L", f"127.0.0.1:{port}:127.0.0.1:{PORT}"]
    login = ["-p", str(place.port)] if place.port else []
    login.append(f"{place.user}@{place.host}" if place.user else place.host)
    with tempfile.TemporaryFile() as complaints:
        try:
            process = subprocess.Popen(
                [*command, *login],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
            )
        except OSError:
            raise NoBoard("ssh is not installed; install OpenSSH's client") from None
        try:
            deadline = time.monotonic() + _TIMEOUT
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    complaints.seek(0)
                    said = complaints.read().decode(errors="replace").strip().splitlines()
                    raise NoBoard(
                        f"ssh does not reach {place} ({said[-1] if said else 'no answer'}); "
                        f"'ssh {' '.join(login)}' has to work without asking anything"
                    )
                time.sleep(_POLL_INTERVAL)
            yield port
        finally:
            process.terminate()
            process.wait()


def _listens(port: int) -> bool:
    """Return whether something listens on a loopback port, without connecting to it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
