"""Gathers what the page shows: times of each layer by default and tuned, trials, calls."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import fmean

from mobilenet_tvm.compile.analysis.peak import Peak
from mobilenet_tvm.compile.logs.log import Record
from mobilenet_tvm.compile.report.json_files import PeerRow, Profile, ProfiledCall
from mobilenet_tvm.schedules.workloads import Workload, parse
from mobilenet_tvm.targets.errors import UserError

#: The operator of functions without a schedule of their own.
OTHER = "other"


@dataclass(frozen=True)
class Setting:
    """How records were measured; only times of the same setting are comparable.

    Parameters
    ----------
    target : str
        The preset; empty if there are only profiles.
    device : str
        The machine; empty if there are only profiles.
    threads : int
        Threads that share a layer.
    source : str
        `measured` or `static`.
    """

    target: str
    device: str
    threads: int
    source: str


@dataclass(frozen=True)
class Timing:
    """How long a layer takes with one decision.

    Parameters
    ----------
    microseconds : float
        Time of one call.
    decision : str
        As `name=value` words.
    spread : float, optional
        How much longer the median run took, as a share; profiles do not have it.
    """

    microseconds: float
    decision: str
    spread: float | None = None


@dataclass(frozen=True)
class LayerTimes:
    """A layer: its workload, its times, and its trials.

    Parameters
    ----------
    workload : str
        The workload's text.
    operator : str
        The workload's operator, or `OTHER`.
    flops, bytes : int
        Operations of one call, and the bytes that it has to move.
    calls : int
        How often the networks call it; 1 if no network is given.
    default, tuned : Timing, optional
        With the default decision, and with the best one, which may be the same.
    trials : tuple of float
        Microseconds of each decision when it was first measured, the default first.
    profiled : float, optional
        Microseconds in the network: the mean of its calls, or of the tuned ones if there are any.
    """

    workload: str
    operator: str
    flops: int
    bytes: int
    calls: int = 1
    default: Timing | None = None
    tuned: Timing | None = None
    trials: tuple[float, ...] = ()
    profiled: float | None = None

    @property
    def best_so_far(self) -> tuple[float, ...]:
        """The shortest time after each trial, in microseconds."""
        return tuple(accumulate(self.trials, min))

    @property
    def gain(self) -> float | None:
        """The share of the default's time that tuning saves."""
        if self.default is None or self.tuned is None:
            return None
        return 1 - self.tuned.microseconds / self.default.microseconds

    def gflops(self, timing: Timing) -> float:
        """Return the speed in 1e9 floating-point operations per second."""
        return 1e-3 * self.flops / timing.microseconds


@dataclass(frozen=True)
class Report:
    """Everything that the page shows.

    Parameters
    ----------
    setting : Setting, optional
        How layers were measured; None if there are only peers.
    layers : tuple of LayerTimes
        Ordered by time, the longest first.
    weighted : bool
        Whether `calls` come from networks.
    peak : Peak, optional
        What the machine can do.
    dates : tuple of str
        Dates of the first and the last record.
    versions : tuple of str
        Versions of the packages that made the records.
    names : tuple of str
        Names of the networks.
    peers : tuple of PeerRow
        Latencies of other runtimes.
    elsewhere : int
        How many records of other settings are not shown.
    """

    setting: Setting | None
    layers: tuple[LayerTimes, ...]
    weighted: bool = False
    peak: Peak | None = None
    dates: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    peers: tuple[PeerRow, ...] = ()
    elsewhere: int = 0

    @property
    def timed(self) -> bool:
        """Whether any layer's time is known."""
        return any(layer.default or layer.tuned for layer in self.layers)

    @property
    def compared(self) -> tuple[LayerTimes, ...]:
        """The layers with times by default and tuned; sums are over these."""
        return tuple(layer for layer in self.layers if layer.gain is not None)

    @property
    def default_total(self) -> float:
        """Microseconds of all calls by default."""
        timings = [(layer.calls, layer.default) for layer in self.compared]
        return sum(calls * timing.microseconds for calls, timing in timings if timing)

    @property
    def tuned_total(self) -> float:
        """Microseconds of all calls, tuned."""
        timings = [(layer.calls, layer.tuned) for layer in self.compared]
        return sum(calls * timing.microseconds for calls, timing in timings if timing)

    @property
    def gain(self) -> float:
        """The share of the default's time that tuning saves; 0 where nothing compares."""
        return 1 - self.tuned_total / self.default_total if self.compared else 0.0

    @property
    def trials(self) -> int:
        """How many decisions were measured, without repetitions."""
        return sum(len(layer.trials) for layer in self.layers)


def choose_setting(
    records: Sequence[Record], profiles: Sequence[Profile], threads: int | None
) -> Setting | None:
    """Choose which records to show.

    Parameters
    ----------
    records : sequence of Record
        Records of the log and its trials.
    profiles : sequence of Profile
        Their number of threads is used, if `threads` is not given.
    threads : int, optional
        Only records with so many threads.

    Returns
    -------
    Setting or None
        That of the latest measured record, or of the latest static one. Without records that of
        the profiles; None if there are neither.

    Raises
    ------
    UserError
        If no record has that number of threads, or profiles have different numbers.
    """
    for profile in profiles:
        threads = profile.threads if threads is None else threads
        if profile.threads != threads:
            raise UserError(
                f"the profile of {profile.file} has {profile.threads} threads, not {threads}; "
                f"make one with 'profile --threads {threads}'"
            )
    fitting = [record for record in records if threads in (None, record.threads)]
    if records and not fitting:
        known = ", ".join(map(str, sorted({record.threads for record in records})))
        raise UserError(
            f"no record with {threads} threads, only with {known}; "
            "give such profiles, or another --threads"
        )
    if fitting:
        latest = max(fitting, key=lambda record: (record.source == "measured", record.date))
        return _setting(latest)
    return Setting("", "", profiles[0].threads, "measured") if profiles else None


def gather(
    setting: Setting | None,
    records: Sequence[Record],
    trials: Sequence[Record],
    *,
    networks: Mapping[Workload, int] | None = None,
    profiles: Sequence[Profile] = (),
    peers: Sequence[PeerRow] = (),
    names: Sequence[str] = (),
    peak: Peak | None = None,
) -> Report:
    """Put records, profiles and latencies of runtimes together.

    Parameters
    ----------
    setting : Setting, optional
        From `choose_setting`.
    records, trials : sequence of Record
        Records of a tuning log, and its trials in the order of measuring.
    networks : mapping of Workload to int, optional
        The layers to show, and how often each is called. Default: those of the profiles, else
        all that have a record, each called once.
    profiles : sequence of Profile
        Profiles of these networks. Layers without a record have their times from them.
    peers : sequence of PeerRow
        Latencies of other runtimes.
    names : sequence of str
        Names of the networks.
    peak : Peak, optional
        What the machine can do.

    Returns
    -------
    Report
        Possibly without any times.
    """
    shown = [record for record in records if _setting(record) == setting]
    tried = [record for record in trials if _setting(record) == setting]
    measured = _profiled(profiles)
    if networks is not None:
        layers = [_known(str(workload), count) for workload, count in networks.items()]
    elif profiles:
        counts = _count_calls(profiles)
        layers = [_called(calls, counts[workload]) for workload, calls in measured.items()]
    else:
        texts = dict.fromkeys(record.workload for record in (*tried, *shown))
        layers = [_known(text, 1) for text in texts]
    by_workload, tried_by_workload = _by_workload(shown), _by_workload(tried)
    layers = [
        _timed(
            layer,
            by_workload[layer.workload],
            tried_by_workload[layer.workload],
            measured.get(layer.workload, []),
        )
        for layer in layers
    ]
    versions = {
        f"{name} {version}" for r in (*shown, *tried) for name, version in r.versions.items()
    }
    dates = sorted(record.date for record in (*shown, *tried))
    return Report(
        setting=setting,
        layers=tuple(sorted(layers, key=_weight, reverse=True)),
        weighted=networks is not None or bool(profiles),
        peak=peak,
        dates=tuple(dates[:1] + dates[-1:]),
        versions=tuple(sorted(versions)),
        names=tuple(names),
        peers=tuple(peers),
        elsewhere=len(records) - len(shown),
    )


def _setting(record: Record) -> Setting:
    return Setting(record.target, record.device, record.threads, record.source)


def _by_workload(records: Iterable[Record]) -> defaultdict[str, list[Record]]:
    found: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        found[record.workload].append(record)
    return found


def _profiled(profiles: Iterable[Profile]) -> dict[str, list[ProfiledCall]]:
    """Return the calls of all profiles by workload."""
    found: defaultdict[str, list[ProfiledCall]] = defaultdict(list)
    for profile in profiles:
        for call in profile.calls:
            found[call.workload].append(call)
    return dict(found)


def _count_calls(profiles: Iterable[Profile]) -> Counter[str]:
    """Count the calls of each workload; a network that was profiled twice counts once."""
    networks = {tuple(call.workload for call in profile.calls) for profile in profiles}
    return Counter(workload for network in networks for workload in network)


def _known(text: str, calls: int) -> LayerTimes:
    """Make a layer from the text of a workload."""
    workload = parse(text)
    return LayerTimes(text, workload.operator, workload.flops, workload.bytes, calls)


def _called(calls: Sequence[ProfiledCall], count: int) -> LayerTimes:
    """Make a layer from its calls; a function that TVM scheduled has no workload."""
    call = calls[0]
    try:
        return _known(call.workload, count)
    except ValueError:
        return LayerTimes(call.workload, OTHER, call.flops, call.bytes, count)


def _timed(
    layer: LayerTimes,
    records: Sequence[Record],
    trials: Sequence[Record],
    calls: Sequence[ProfiledCall],
) -> LayerTimes:
    """Add a layer's times: those of the log and the trials, or else those of profiles."""
    last = {_decision(record): record for record in trials}
    first = {_decision(record): record.microseconds for record in reversed(trials)}
    # The time that counts is measured again at the end of a run; the log has that of the best.
    best = min(records or last.values(), key=lambda record: record.microseconds, default=None)
    default = last[_decision(trials[0])] if trials else None
    if best and default and _decision(best) == _decision(default):
        default = best
    layer = replace(
        layer,
        default=_timing(default),
        tuned=_timing(best),
        trials=tuple(first[decision] for decision in last),
    )
    # A call without a decision takes as long tuned as untuned.
    untuned = _mean([call for call in calls if call.source in ("default", "")])
    tuned = _mean([call for call in calls if call.source != "default"]) or untuned
    if tuned is None:
        return layer
    if not (records or trials):
        layer = replace(layer, default=untuned, tuned=tuned)
    return replace(layer, profiled=tuned.microseconds)


def _mean(calls: Sequence[ProfiledCall]) -> Timing | None:
    if not calls:
        return None
    return Timing(fmean(call.microseconds for call in calls), calls[-1].decision)


def _timing(record: Record | None) -> Timing | None:
    if record is None:
        return None
    return Timing(record.microseconds, _decision(record), record.spread)


def _decision(record: Record) -> str:
    return " ".join(f"{name}={value}" for name, value in record.decision.items())


def _weight(layer: LayerTimes) -> tuple[float, int]:
    timing = layer.default or layer.tuned
    return (layer.calls * timing.microseconds if timing else 0.0, layer.flops)
