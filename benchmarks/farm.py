"""Measures how tuning scales with the number of boards: candidates per minute, and the bottleneck.

python benchmarks/farm.py [--boards 1 --boards 64] [--seconds 0.25]

The tracker, servers, sessions, uploads and the tuner's runner are the real ones, on loopback; only
the measurement is replaced by a fixed wait. So the benchmark shows the cost of managing boards and,
with --building, that of building candidates.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import click
import psutil

from mobilenet_tvm.compile.tuning.boards.farm import Farm
from mobilenet_tvm.compile.tuning.boards.files import compile_with_arguments
from mobilenet_tvm.compile.tuning.boards.runner import BoardRunner
from mobilenet_tvm.compile.tuning.local.builder import Builder, Candidate
from mobilenet_tvm.compile.tuning.measure import Measurement
from mobilenet_tvm.compile.tuning.space import Space
from mobilenet_tvm.compile.tuning.task import Task
from mobilenet_tvm.compile.tuning.tune import tune
from mobilenet_tvm.runtime.address import Address
from mobilenet_tvm.runtime.remote import measuring
from mobilenet_tvm.runtime.remote.serve import ServeOptions, serve
from mobilenet_tvm.runtime.remote.wire import TrackerLink
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.workloads import Pointwise
from mobilenet_tvm.targets.presets import native

KEY = "simulated"
#: As many layers as in a network, with hundreds of decisions each.
LAYERS = [Pointwise(196, 96, 16 * size) for size in range(6, 36)]

#: Called for each measured candidate, or with a message if something went wrong.
Tried = Callable[..., None]


def simulate(tracker: int, boards: int, seconds: float) -> None:
    """Simulate boards, each in a process, until killed."""

    def wait(_: str) -> str:
        time.sleep(seconds)
        # Times differ, so that the search continues.
        taken = random.uniform(1e-4, 1.2e-4)  # noqa: S311
        return json.dumps(asdict(Measurement(taken, taken, 0.0, 20)))

    measuring.answerer = lambda _: wait
    for number in range(boards):
        if os.fork() == 0:
            address = ("127.0.0.1", tracker)
            serve(ServeOptions(port=0, tracker=address, key=KEY, name=f"board-{number}"))
    signal.pause()


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """Start Python in its own process group, with its own cache."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "XDG_CACHE_HOME": str(Path(tempfile.gettempdir(), "simulated-boards"))},
    )


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_boards(port: int, count: int) -> None:
    """Wait until a tracker has `count` free boards."""
    while True:
        try:
            with TrackerLink("127.0.0.1", port) as tracker:
                if tracker.summary()[0].get(KEY, {}).get("free", 0) >= count:
                    return
        except OSError:
            pass
        time.sleep(0.2)


def tree(root: int) -> dict[int, float]:
    """Return the CPU time in seconds of a process and its descendants, by process."""
    found = {}
    for process in [psutil.Process(root), *psutil.Process(root).children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        found[process.pid] = times.user + times.system
    return found


def copies(folder: Path, count: int) -> list[Candidate]:
    """Build one candidate, and return `count` copies with different contents."""
    builder = Builder(registry.build, folder, lambda *_: None, compile_with_arguments)
    try:
        (candidate,) = builder.build(Task(Space(LAYERS[0], native()), 1), [0])
    finally:
        builder.close()
    library = candidate.library.read_bytes()
    made = []
    for number in range(count):
        copy = folder / f"copy-{number}.so"
        copy.write_bytes(library + number.to_bytes(4, "little"))
        made.append(replace(candidate, library=copy))
    return made


@contextmanager
def simulated_farm(boards: int, seconds: float) -> Iterator[tuple[Address, list[int]]]:
    """Run a tracker and boards; yield their address and the processes of both."""
    port = free_port()
    ports = [f"--port={port}", f"--port-end={port + 1}"]
    tracker = start("-m", "tvm.exec.rpc_tracker", "--host=127.0.0.1", "--silent", *ports)
    farm = start(__file__, f"--simulate={port}", f"--boards={boards}", f"--seconds={seconds}")
    try:
        wait_for_boards(port, boards)
        yield Address("tracker", "127.0.0.1", port, KEY), [tracker.pid, farm.pid]
    finally:
        for group in (farm, tracker):
            os.killpg(group.pid, signal.SIGKILL)
            group.wait()


def measure_only(farm: Farm, count: int, tried: Tried) -> None:
    """Measure candidates that were built before."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = copies(folder, count)
        runner = BoardRunner(
            farm, native(), 1, folder, lambda *_: tried(), lambda line: tried(line)
        )
        runner.submit(made)
        while runner.unfinished():
            runner.wait()
        runner.close()


def build_and_measure(farm: Farm, count: int, tried: Tried) -> None:
    """Tune: search, build and measure."""
    tune(
        dict.fromkeys(LAYERS, 1),
        native(),
        trials=count,
        farm=farm,
        on_event=lambda _: tried(),
        say=lambda line: tried(line),
    )


def load(boards: int, seconds: float, count: int, building: bool) -> str:
    """Measure `count` candidates on some boards; return a row of the table."""
    moments: list[float] = []
    errors: list[str] = []

    def tried(error: str = "") -> None:
        if error:
            errors.append(error)
            print(error, file=sys.stderr)
        else:
            moments.append(time.monotonic())

    with simulated_farm(boards, seconds) as (address, processes):
        roots = [os.getpid(), *processes]
        work = build_and_measure if building else measure_only
        worker = threading.Thread(target=work, args=(Farm(address), count, tried), daemon=True)
        worker.start()
        # Excludes the start, when sessions open, and the end, when boards run out of work.
        used = []
        for share in (0.2, 0.8):
            while len(moments) < share * count and worker.is_alive():
                time.sleep(0.02)
            used.append((len(moments), time.monotonic(), [tree(root) for root in roots]))
        worker.join()
    if len(moments) < 0.8 * count:
        sys.exit(f"the run ended after {len(moments)} candidates of {count}")
    (first, began, before), (last, ended, after) = used
    steady = (last - first) / (ended - began)
    spent = [
        1e3 * sum(cpu - then.get(process, 0.0) for process, cpu in now.items()) / (last - first)
        for then, now in zip(before, after, strict=True)
    ]
    ideal = boards / seconds
    times = " ".join(f"{milliseconds:>8.1f}" for milliseconds in spent)
    return (
        f"{boards:>6} {60 * steady:>10.0f} {60 * ideal:>8.0f} {steady / ideal:>6.0%} {times} "
        f"{len(errors):>8}"
    )


@click.command()
@click.option("--boards", type=int, multiple=True, default=(1, 2, 4, 8, 16, 32, 64))
@click.option("--seconds", type=float, default=0.25, help="Time that a board takes per candidate.")
@click.option("--per-board", type=int, default=40, help="Candidates per board.")
@click.option("--building", is_flag=True, help="Also search and build, as tuning does.")
@click.option("--simulate", "port", type=int, hidden=True)
def main(
    boards: tuple[int, ...], seconds: float, per_board: int, building: bool, port: int | None
) -> None:
    """Print a row for each number of boards."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    if port is not None:
        simulate(port, boards[0], seconds)
    print(f"{seconds} s per candidate on a board; CPU time of this machine in ms per candidate")
    print(
        f"{'boards':>6} {'per minute':>10} {'ideal':>8} {'':>6} {'tuner':>8} {'tracker':>8} "
        f"{'boards':>8} {'errors':>8}"
    )
    for count in boards:
        print(load(count, seconds, count * per_board, building), flush=True)


if __name__ == "__main__":
    main()
