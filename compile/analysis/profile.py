"""Measures each layer of an artifact, and puts its time beside what the machine could do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobilenet_tvm.compile.analysis.open_artifact import open_artifact
from mobilenet_tvm.compile.analysis.peak import Peak, measure_peak, target_of
from mobilenet_tvm.runtime.metadata import Metadata
from mobilenet_tvm.runtime.profile import CallTime, profile
from mobilenet_tvm.runtime.remote.info import BoardInfo
from mobilenet_tvm.runtime.remote.model import RemoteModel
from mobilenet_tvm.schedules.workloads import parse
from mobilenet_tvm.targets.target import Target


@dataclass(frozen=True)
class CallProfile:
    """One call of a network.

    Parameters
    ----------
    function : str
        The compiled function's name.
    microseconds : float
        Median time.
    node : str
        The ONNX node that the first of its operators comes from; empty where that is not known.
    flops, bytes : int
        What it computes and moves.
    gflops, gbytes : float
        The same per second, in 1e9.
    peak : float
        `gflops` as a share of the machine's peak.
    workload : str
        The layer; the function's name where it has no schedule of its own.
    decision : str
        The schedule's, as `name=value` words.
    tuned : bool
        Whether the decision came from a tuning log.
    source : str
        Of the decision: a tuning log's record, `default`, or empty where there is no decision.
    """

    function: str
    node: str
    microseconds: float
    flops: int
    bytes: int
    gflops: float
    gbytes: float
    peak: float
    workload: str
    decision: str
    tuned: bool
    source: str


@dataclass(frozen=True)
class ProfileResult:
    """The time of each call of a network, and the peak of the machine that ran it.

    Parameters
    ----------
    target : Target
        What the artifact was compiled for, as far as `peak` depends on it.
    threads : int
        How many threads worked on a call.
    peak : Peak
        What these threads, or the GPU, can do.
    calls : tuple of CallProfile
        In the network's order.
    board : BoardInfo, optional
        Where it ran; None for this machine.
    """

    target: Target
    threads: int
    peak: Peak
    calls: tuple[CallProfile, ...]
    board: BoardInfo | None = None

    @property
    def microseconds(self) -> float:
        """Time of all calls together."""
        return sum(call.microseconds for call in self.calls)


def profile_artifact(
    path: str | Path, *, device: str = "local", threads: int | None = None, rounds: int = 30
) -> ProfileResult:
    """Measure each layer of an artifact, and the peak of the machine.

    Parameters
    ----------
    path : str or Path
        The ``.so`` that `compile_model` wrote.
    device : str
        See `open_artifact`.
    threads : int, optional
        See `open_artifact`.
    rounds : int
        How many runs of the network are timed.

    Returns
    -------
    ProfileResult
        One row for each call.

    Raises
    ------
    UserError
        If the file is no artifact, the device cannot run it, or there is no such device.
    """
    with open_artifact(path, device, threads) as model:
        target = target_of(model.metadata.target)
        dtype = model.metadata.extra.get("dtype", "float32")
        session = model.session if isinstance(model, RemoteModel) else None
        times = model.profile(rounds) if isinstance(model, RemoteModel) else profile(model, rounds)
        peak = measure_peak(target, model.threads, session, dtype)
    calls = call_profiles(times, model.metadata, peak)
    return ProfileResult(target, model.threads, peak, calls, session.board if session else None)


def _peak_of(about: Mapping[str, Any], peak: Peak) -> float:
    """Return the peak of what a call multiplies, in 1e9 operations per second."""
    try:
        return peak.of(parse(about["workload"])) if about.get("decision") else peak.gflops
    except ValueError:
        # The layer is of another version of this project.
        return peak.gflops


def call_profiles(
    times: Sequence[CallTime], metadata: Metadata, peak: Peak
) -> tuple[CallProfile, ...]:
    """Put measured times beside what the artifact says of each layer.

    Parameters
    ----------
    times : sequence of CallTime
        What `runtime.profile` measured.
    metadata : Metadata
        The artifact's, whose `calls` say what each layer computes.
    peak : Peak
        What the machine can do.

    Returns
    -------
    tuple of CallProfile
        One for each time, in the same order.
    """
    # What the memory plan made a change of shape is not called, and so not timed.
    expected = iter(metadata.extra.get("calls", []))
    rows = []
    for call in times:
        about: dict[str, Any] = next(
            (about for about in expected if about["function"] == call.function), {}
        )
        flops, moved = about.get("flops", 0), about.get("bytes", 0)
        decision = about.get("decision", {})
        rows.append(
            CallProfile(
                function=call.function,
                node=about.get("node", ""),
                microseconds=1e6 * call.median,
                flops=flops,
                bytes=moved,
                gflops=1e-9 * flops / call.median,
                gbytes=1e-9 * moved / call.median,
                peak=1e-9 * flops / call.median / _peak_of(about, peak),
                workload=about.get("workload", call.function),
                decision=" ".join(f"{name}={value}" for name, value in decision.items()),
                tuned=about.get("tuned", False),
                source=about.get("source", ""),
            )
        )
    return tuple(rows)
