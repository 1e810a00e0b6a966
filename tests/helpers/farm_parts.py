"""A tracker and boards for tests: the real ones, as processes of this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from board import Board
from remote_boards import wait_until

from mobilenet_tvm.runtime.bundle import board_folder
from mobilenet_tvm.runtime.remote.wire import TrackerLink

HOST = "127.0.0.1"

_TRACKER = """
import sys
from mobilenet_tvm.runtime.remote.tracker import run_tracker
run_tracker(port=int(sys.argv[1]), on_ready=lambda host, port: print(port, flush=True))
"""


class Part:
    """A process with all that it starts."""

    def __init__(self, *command: str, **options: Any) -> None:
        self.process = subprocess.Popen(
            command, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, **options
        )

    def signal(self, number: int) -> None:
        """Send a signal to the process and all below it."""
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            for each in [process, *process.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    each.send_signal(number)

    def end(self) -> None:
        """Kill all of it."""
        self.signal(signal.SIGKILL)
        self.process.wait()


class Tracker(Part):
    """A tracker, which can be started again at its port."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(
            *(sys.executable, "-c", _TRACKER, str(port)), stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def address(self, key: str) -> str:
        """Return the address of the boards of a key."""
        return f"tracker://{HOST}:{self.port}/{key}"

    def state(self, key: str) -> tuple[int, int]:
        """Return how many boards of a key there are, and how many of them are free."""
        with TrackerLink(HOST, self.port) as link:
            queues, boards = link.summary()
        count = sum(board.get("key") == f"server:{key}" for board in boards)
        return count, queues.get(key, {}).get("free", 0)

    def pending(self, key: str) -> int:
        """Return how many requests for a board of a key wait."""
        with TrackerLink(HOST, self.port) as link:
            return link.summary()[0][key]["pending"]

    def wait_for(self, key: str, free: int) -> None:
        """Wait until so many boards of a key are free."""
        wait_until(lambda: self.state(key)[1] >= free)


class ServedBoard(Part):
    """A board that is this machine, or emulated on it.

    Parameters
    ----------
    tracker : Tracker
        Where it registers.
    key, name : str
        As what.
    first : str
        Python that runs before the server.
    core : int
        Which of this machine's processors it is, as far as they go.
    python : str
        The board's.
    server : str
        The module that serves there.
    **options
        Of `subprocess.Popen`.
    """

    def __init__(
        self,
        tracker: Tracker,
        key: str,
        name: str,
        first: str = "",
        core: int = 0,
        python: str = sys.executable,
        server: str = "mobilenet_tvm.runtime.remote.serve",
        **options: Any,
    ) -> None:
        cores = sorted(os.sched_getaffinity(0))
        first += f"\nimport os; os.sched_setaffinity(0, [{cores[core % len(cores)]}])"
        code = f"{first}\nfrom {server} import main\nmain()"
        where = ["--tracker", f"{HOST}:{tracker.port}", "--key", key, "--port", "0"]
        command = [python, "-c", code, *where, "--name", name]
        super().__init__(*command, stdout=subprocess.DEVNULL, **options)


def emulated(board: Board, cpu: str, folder: Path) -> dict[str, Any]:
    """Return what makes a `ServedBoard` an emulated one that has what any board needs.

    Parameters
    ----------
    board : Board
        The emulated machine.
    cpu : str
        Its CPU.
    folder : Path
        For this project's files on it.
    """
    here = folder / "board"
    if not here.exists():
        board_folder("aarch64", here)
    return {
        "python": str(board.python_wrapper(cpu)),
        "server": "serve",
        "env": {"PATH": os.defpath, "PYTHONPATH": str(here), "XDG_CACHE_HOME": str(folder)},
    }


class Relay:
    """Passes a port of its own on to another one, until it is cut."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._pairs: list[socket.socket] = []
        self.port = 0
        self.restore()

    def restore(self) -> None:
        """Listen, at the same port as before."""
        self._listener = socket.create_server((HOST, self.port), reuse_port=False)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Close the port and all that goes through it."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._pairs:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection((HOST, self._to))
                self._pairs += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Tell whether something listens at a port."""
    with suppress(OSError), socket.create_connection((HOST, port)):
        return True
    return False


def processes_below() -> set[int]:
    """Return the processes that this one has started."""
    return {process.pid for process in psutil.Process(os.getpid()).children(recursive=True)}
