"""Starts real trackers and boards for tests, and makes code that misbehaves on them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import tvm
from tvm import te

from mobilenet_tvm.compile.codegen.linker import link_shared
from mobilenet_tvm.compile.codegen.tvm_target import llvm_target
from mobilenet_tvm.targets.presets import get_target

CLI = [sys.executable, "-m", "mobilenet_tvm.compile.cli.main"]
SERVE = [sys.executable, "-m", "mobilenet_tvm.runtime.remote.serve"]


@dataclass(frozen=True)
class Server:
    """A tracker or a board that runs."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int

    @property
    def address(self) -> str:
        """Where it listens, as ``HOST:PORT``."""
        return f"127.0.0.1:{self.port}"

    def said(self) -> list[str]:
        """Return the lines that it has written."""
        return self.log.read_text().splitlines()

    def wait_for(self, text: str, seconds: float = 30.0) -> None:
        """Wait until it has written a text."""
        end = time.monotonic() + seconds
        while text not in self.log.read_text():
            assert time.monotonic() < end, f"no '{text}' in {self.said()}"
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(20)


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until something is so; fail if it never is."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@contextmanager
def running(
    command: Sequence[str | Path],
    log: Path,
    env: Mapping[str, str] | None = None,
    ready: str = r"listens on 127.0.0.1:(\d+)",
) -> Iterator[Server]:
    """Run a server as long as the context lasts; it is there from the start."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ if env is None else env,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 120
        while (found := re.search(ready, log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, f"{command} does not start: {log.read_text()}"
            time.sleep(0.02)
        yield Server(process, log, int(found[1]))
    finally:
        # With what it has started, as TVM's own server does.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def tracker(folder: Path, port: int = 0) -> contextmanager[Server]:  # type: ignore[type-arg]
    """Run the command `tracker`."""
    return running([*CLI, "tracker", "--port", str(port)], folder / f"tracker-{time.time()}.log")


def board(folder: Path, name: str, *options: str) -> contextmanager[Server]:  # type: ignore[type-arg]
    """Run a board on any free port."""
    command = [*SERVE, "--port", "0", "--name", name, *options]
    return running(command, folder / f"board-{name}-{time.time()}.log")


def write_call(path: Path, function: str, argument: int, target: str | None = None) -> Path:
    """Write a library whose `main` calls a function of libc, for its one argument, a float32[1]."""
    machine = get_target(target or "native")
    call = te.compute(
        (1,),
        lambda _: tvm.tirx.call_extern("int32", function, argument).astype("float32"),
        name="call",
    )
    tvm.compile(te.create_prim_func([call]), target=llvm_target(machine)).export_library(
        str(path), fcompile=lambda output, objects, **_: link_shared(output, objects)
    )
    return path
