"""Measures the latency of an artifact, here or on a board."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mobilenet_tvm.compile.analysis.open_artifact import open_artifact
from mobilenet_tvm.runtime.bench import Latency, measure_latency
from mobilenet_tvm.runtime.metadata import Metadata
from mobilenet_tvm.runtime.remote.info import BoardInfo
from mobilenet_tvm.runtime.remote.model import RemoteModel

#: Calls across the network are slow and vary little; more of them are not needed.
_MAX_REMOTE_CALLS = 20


@dataclass(frozen=True)
class BenchResult:
    """The latency of an artifact.

    Parameters
    ----------
    metadata : Metadata
        The artifact's.
    threads : int
        How many threads worked on a call.
    latency : Latency
        Of calls on the device itself, with warm caches.
    board : BoardInfo, optional
        Where it ran; None for this machine.
    remote_latency : Latency, optional
        Of calls from here to the board, with inputs and outputs sent over the network.
    """

    metadata: Metadata
    threads: int
    latency: Latency
    board: BoardInfo | None = None
    remote_latency: Latency | None = None


def bench_artifact(
    path: str | Path, *, device: str = "local", threads: int | None = None, rounds: int = 100
) -> BenchResult:
    """Measure the latency of an artifact on random inputs.

    Parameters
    ----------
    path : str or Path
        The ``.so`` that `compile_model` wrote.
    device : str
        See `open_artifact`.
    threads : int, optional
        See `open_artifact`.
    rounds : int
        How many calls are timed.

    Returns
    -------
    BenchResult
        The time of each call.

    Raises
    ------
    UserError
        If the file is no artifact, the device cannot run it, or there is no such device.
    """
    with open_artifact(path, device, threads) as model:
        if not isinstance(model, RemoteModel):
            return BenchResult(model.metadata, model.threads, measure_latency(model, rounds=rounds))
        return BenchResult(
            model.metadata,
            model.threads,
            model.measure_latency(rounds),
            model.session.board,
            model.measure_round_trip(min(rounds, _MAX_REMOTE_CALLS)),
        )


def sweep_threads(
    path: str | Path, counts: Sequence[int], *, device: str = "local", rounds: int = 100
) -> list[BenchResult]:
    """Measure the latency of an artifact with several numbers of threads.

    Parameters
    ----------
    path, device, rounds
        As of `bench_artifact`.
    counts : sequence of int
        Numbers of threads.

    Returns
    -------
    list of BenchResult
        One per number that the device has: the threads are never more than its CPUs.

    Raises
    ------
    UserError
        As `bench_artifact`.
    """
    found: dict[int, BenchResult] = {}
    for count in counts:
        # TVM's pool of workers cannot grow, and lives as long as the thread that uses it.
        with ThreadPoolExecutor(1) as fresh:
            run = partial(bench_artifact, path, device=device, threads=count, rounds=rounds)
            result = fresh.submit(run).result()
        found.setdefault(result.threads, result)
    return list(found.values())
