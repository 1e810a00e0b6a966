"""Ends a command that does not react to a signal, since Python's handlers wait for native code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def end_in_time(seconds: float) -> Iterator[None]:
    """End this process some time after SIGINT or SIGTERM, if it is still in this context.

    Native code, such as a pass of TVM over a large network, may take long to return to Python,
    which only then calls the handlers. Scratch folders are removed.

    Parameters
    ----------
    seconds : float
        How long the process has to clean up.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # Python writes the signal's number there at once, whatever the main thread does.
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    left = threading.Event()

    def watch() -> None:
        number = b"\0"
        while number and number[0] not in (signal.SIGINT, signal.SIGTERM):
            number = os.read(reader, 1)
        if not number or left.wait(seconds):
            os.close(reader)
            return
        # Not imported here, since that would import NumPy, and might wait for the main thread.
        scratch = sys.modules.get("mobilenet_tvm.runtime.scratch")
        if scratch is not None:
            scratch.remove_all()
        os.write(2, b"error: interrupted\n")
        os._exit(1)

    threading.Thread(target=watch, name="signals", daemon=True).start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(before)
        os.close(writer)
