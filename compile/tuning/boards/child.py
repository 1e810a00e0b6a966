"""Calls functions in a process of its own, which may hang or die: the call still ends in time.

Each session on a board has one: TVM allows 32 sessions in a process, and what a board answers may
crash it. TVM's own pool of processes is for what runs here: its processes take a second to start,
and one that waits for a board would outlive a killed tuner.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Any

from mobilenet_tvm.targets.errors import UserError

#: How often a child checks that its parent is still there, in seconds.
_POLL_INTERVAL = 0.5


class Child:
    """A process that calls functions of modules, one at a time, and keeps their state."""

    def __init__(self) -> None:
        self._pipe, theirs = Pipe()
        with theirs:
            descriptor = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(descriptor), str(os.getpid())],
                pass_fds=[descriptor],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    @property
    def alive(self) -> bool:
        """Whether it can be called."""
        return self._process.poll() is None

    def call(self, function: Callable[..., Any], *arguments: Any, timeout: float | None) -> Any:
        """Call a function there.

        Parameters
        ----------
        function : callable
            Found by its module and name.
        *arguments
            What pickle takes.
        timeout : float or None
            Seconds after which the process is ended.

        Returns
        -------
        Any
            What it returns; a `UserError` that it raises is raised here.

        Raises
        ------
        TimeoutError
            If it takes longer.
        ChildProcessError
            If the process has died, or the function raised something else.
        """
        try:
            self._pipe.send((function, arguments))
            if not self._pipe.poll(timeout):
                self.kill()
                raise TimeoutError
            error, value = self._pipe.recv()
        except (EOFError, ConnectionError):
            self.kill()
            raise ChildProcessError("the process has died") from None
        if error is not None:
            raise error
        return value

    def kill(self) -> None:
        """End the process, whatever it does; another thread may be in `call`."""
        self._process.kill()
        self._process.wait()


def _die_with(parent: int) -> None:
    """End this process when its parent has, even while it is in a call that does not return."""
    while os.getppid() == parent:
        time.sleep(_POLL_INTERVAL)
    os._exit(1)


def main() -> None:
    """Serve the process that has started this one."""
    descriptor, parent = map(int, sys.argv[1:])
    # Ctrl-C, which a terminal sends to the whole process group, is for the tuner's process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    pipe: Connection = Connection(descriptor)
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        error: Exception | None = None
        value = None
        try:
            value = function(*arguments)
        except UserError as raised:
            error = raised
        except Exception as raised:
            error = ChildProcessError(f"{type(raised).__name__}: {raised}")
        pipe.send((error, value))


if __name__ == "__main__":
    main()
