"""Signals end commands at once, and what files and boards name themselves does not control them."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mobilenet_tvm.compile.cli.signals import end_in_time

#: Is in native code that does not return for minutes.
BUSY = """
import hashlib, signal, sys
from pathlib import Path
from mobilenet_tvm.compile.cli.signals import end_in_time
from mobilenet_tvm.runtime.scratch import scratch_folder
signal.signal(signal.SIGTERM, lambda *_: None)
with end_in_time(0.3), scratch_folder("of-", Path(sys.argv[1])) as folder:
    (folder / "file").touch()
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1 << 30)
"""


def test_a_signal_ends_a_command_that_is_in_native_code(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BUSY, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        start = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20)[1] == b"error: interrupted\n"
        assert process.returncode == 1
        assert time.monotonic() - start < 5
    assert not list(tmp_path.iterdir())


def test_a_command_that_has_ended_is_not_ended_later() -> None:
    with pytest.raises(KeyboardInterrupt), end_in_time(0.2):
        signal.raise_signal(signal.SIGINT)
    time.sleep(0.5)
    assert all(thread.name != "signals" for thread in threading.enumerate())
