"""Tunes models: from their names to the fastest decisions in a tuning log."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

from mobilenet_tvm.compile.analysis.peak import Peak, measure_peak
from mobilenet_tvm.compile.artifact import check_dtype
from mobilenet_tvm.compile.logs.log import TuningLog, user_log
from mobilenet_tvm.compile.models.source import ModelOptions
from mobilenet_tvm.compile.tuning.boards.farm import Farm, require_fitting, survey
from mobilenet_tvm.compile.tuning.emulated.emulator import Emulator
from mobilenet_tvm.compile.tuning.emulated.results import device_name, replaced, settle
from mobilenet_tvm.compile.tuning.layers import find_layers, select
from mobilenet_tvm.compile.tuning.local.runner import require_native
from mobilenet_tvm.compile.tuning.measure import Measurement
from mobilenet_tvm.compile.tuning.progress import line_printer
from mobilenet_tvm.compile.tuning.records import Records
from mobilenet_tvm.compile.tuning.task import Task
from mobilenet_tvm.compile.tuning.tune import Plan, Tuned, plan, seconds_needed, tune
from mobilenet_tvm.runtime.address import Address
from mobilenet_tvm.runtime.remote.session import Session
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.workloads import GlobalPool, Workload
from mobilenet_tvm.targets.errors import UserError, WrongUseError
from mobilenet_tvm.targets.host import machine_name
from mobilenet_tvm.targets.presets import get_target
from mobilenet_tvm.targets.printable import printable
from mobilenet_tvm.targets.target import Target

#: Estimates times from what an emulated core of the target executes.
EMULATED = "emulated"


@dataclass(frozen=True)
class TuneOptions:
    """How to tune.

    Parameters
    ----------
    trials : int
        Candidates to measure or to estimate, for all layers together.
    time_limit : float, optional
        Seconds after which no further batch of candidates starts.
    layers : sequence of str
        Only layers with one of these in their name; `*` stands for anything. Default: all.
    threads : int
        Threads that share a layer.
    log : str or Path, optional
        The tuning log to write; its trials go into `<name>.trials.jsonl` beside it. Default: the
        user's own log of the target.
    device : str
        Where to measure: `local`, `rpc://HOST:PORT`, `ssh://[USER@]HOST`, or, on all free boards at
        once, `tracker://HOST:PORT/KEY`. `emulated` estimates times for a target that is one of the
        Cortex cores, without a board.
    boards : int, optional
        The most boards to use at a time. Default: all.
    priority : int
        Of several runs that wait for a board, the one with the highest priority gets it.
    seed : int
        The same seed and times give the same candidates in the same order.
    dtype : str
        Type of the values that layers compute: `float32`, or `float16` on a GPU.
    model_options : ModelOptions
        For each of the models.
    """

    trials: int = 500
    time_limit: float | None = None
    layers: Sequence[str] = ()
    threads: int = 1
    log: str | Path | None = None
    device: str = "local"
    boards: int | None = None
    priority: int = 1
    seed: int = 0
    dtype: str = "float32"
    model_options: ModelOptions = field(default_factory=ModelOptions)


@dataclass(frozen=True)
class TunePlan:
    """What `tune_models` would do.

    Parameters
    ----------
    layers : tuple of Plan
        The layers, those with the most work first.
    seconds : float
        How long it would take at most, roughly.
    """

    layers: tuple[Plan, ...]
    seconds: float

    @property
    def decisions(self) -> int:
        """How many decisions there are for all layers together."""
        return sum(layer.decisions for layer in self.layers)


@dataclass(frozen=True)
class TuneResult:
    """What tuning has found.

    Parameters
    ----------
    target : Target
        What the layers were tuned for.
    threads : int
        Threads that shared a layer.
    log : TuningLog
        The log as it is now.
    tuned : Tuned
        The outcome of each layer; `tuned.over` tells why tuning ended early, if it did.
    peak : Peak, optional
        What these threads, or the GPU, can do, in 1e9 operations per second: None where boards
        were measured or emulated.
    replaced : int, optional
        How many layers the log has new estimates of; None where times were measured.
    """

    target: Target
    threads: int
    log: TuningLog
    tuned: Tuned
    peak: Peak | None = None
    replaced: int | None = None

    @staticmethod
    def status(task: Task) -> Literal["tuned", "failed", "untried"]:
        """Tell whether a layer has times, its default decision failed, or nothing was tried."""
        if task.default is not None:
            return "tuned"
        return "failed" if task.outcomes else "untried"


def plan_tuning(
    models: str | Path | Iterable[str | Path],
    target: str | Target = "native",
    options: TuneOptions | None = None,
) -> TunePlan:
    """Tell which layers `tune_models` would tune, without measuring any; parameters as there."""
    options = options or TuneOptions()
    setup = _prepare(models, target, options)
    plans = plan(setup.layers, setup.target, setup.records.known)
    return TunePlan(tuple(plans), seconds_needed(plans, options.trials, options.time_limit))


def tune_models(
    models: str | Path | Iterable[str | Path],
    target: str | Target = "native",
    options: TuneOptions | None = None,
    progress: TextIO | None = None,
) -> TuneResult:
    """Find the fastest decision of each layer of some models, and write it into a tuning log.

    Every trial is kept beside the log as soon as it is measured, so that an interrupted run loses
    nothing and the next one goes on. The log gets the best decision of each layer, which
    `compile_model` then uses. Of estimates it gets those that are clearly better than the
    default's; measured decisions always take precedence over them.

    Parameters
    ----------
    models : str, Path or iterable of them
        Names or ONNX files.
    target : str or Target
        The machine to tune for. Default: this machine.
    options : TuneOptions, optional
        How to tune.
    progress : file, optional
        Gets a line every few seconds, and one where a candidate or a board fails.

    Returns
    -------
    TuneResult
        The outcome of each layer, and the log.

    Raises
    ------
    UserError
        If a model, the target, an option or the log cannot be used, or the target's code cannot
        run where it is to be measured.
    KeyboardInterrupt
        If interrupted; the log then has the best of what was measured.

    Examples
    --------
    >>> import sys
    >>> result = tune_models("v2", "native", TuneOptions(trials=100), progress=sys.stderr)
    >>> result.tuned.default_total, result.tuned.best_total  # in seconds
    """
    options = options or TuneOptions()
    setup = _prepare(models, target, options)
    setup.records.prepare()
    if options.device == EMULATED:
        return _emulate(setup, options, progress)
    return _measure(setup, options, progress)


@dataclass(frozen=True)
class _Setup:
    """What is tuned, where, and the records of earlier runs."""

    target: Target
    layers: Counter[Workload]
    records: Records
    farm: Farm | None


def _prepare(
    models: str | Path | Iterable[str | Path], target: str | Target, options: TuneOptions
) -> _Setup:
    machine = get_target(target) if isinstance(target, str) else target
    check_dtype(options.dtype, machine)
    emulated = options.device == EMULATED
    address = Address("local") if emulated else Address.parse(options.device)
    if machine.gpu is not None and options.threads > 1:
        raise WrongUseError(f"--threads is for CPUs, and '{machine.name}' is a GPU; leave it out")
    farm, device = None, machine_name()
    if emulated:
        if options.threads > 1:
            raise WrongUseError("one thread is emulated; leave --threads out")
        device = device_name(machine)
    elif address.scheme != "local":
        farm = Farm(address, options.boards, options.priority)
        device = require_fitting(survey(address), machine)
        if machine.gpu is not None:
            with Session.open(address, options.priority) as session:
                device = session.gpu(machine.kind)
    elif machine.gpu is not None:
        device = require_native(machine)
    named = [models] if isinstance(models, str | Path) else models
    found = find_layers(named, machine, options.model_options, options.dtype)
    layers = select(found, options.layers)
    if emulated:
        layers = type(layers)({w: n for w, n in layers.items() if not isinstance(w, GlobalPool)})
        if not layers:
            raise UserError("estimates do not rank pooling layers; measure them on a board")
    log = Path(options.log) if options.log else user_log(machine)
    source = "emulated" if emulated else "measured"
    records = Records(log, machine, options.threads, device, source)
    return _Setup(machine, layers, records, farm)


def _measure(setup: _Setup, options: TuneOptions, progress: TextIO | None) -> TuneResult:
    target, records = setup.target, setup.records
    peak = None
    if setup.farm is None:
        require_native(target)
        peak = measure_peak(target, options.threads, dtype=options.dtype)
    last_word: dict[Workload, tuple[Decision, Measurement]] = {}
    try:
        tuned = _tune(
            setup,
            options,
            threads=options.threads,
            on_result=records.add,
            on_event=line_printer(progress, peak) if progress else None,
            farm=setup.farm,
            say=lambda line: _print(line, progress),
        )
        last_word = {
            task.workload: (task.decision, task.times[task.best])
            for task in tuned.tasks
            if task.times
        }
    finally:
        records.settle(last_word)
    return TuneResult(target, options.threads, records.log, tuned, peak)


def _emulate(setup: _Setup, options: TuneOptions, progress: TextIO | None) -> TuneResult:
    target, records = setup.target, setup.records
    emulator = Emulator()
    if not emulator.complete():
        emulator.set_up(lambda line: _print(line, progress))
    log = records.log
    # Read before the work, so that a damaged log is reported at once.
    log = log.read(log.path, target) if log.path.exists() else log
    estimates: dict[Workload, dict[Decision, Measurement]] = defaultdict(dict)

    def keep(workload: Workload, decision: Decision, estimate: Measurement) -> None:
        records.keep(workload, decision, estimate)
        estimates[workload][decision] = estimate

    try:
        tuned = _tune(
            setup,
            options,
            on_result=keep,
            on_event=line_printer(progress) if progress else None,
            emulated=True,
        )
    finally:
        found = replaced(estimates, log, target)
        records.settle(found)
    for task in tuned.tasks:
        settle(task)
    return TuneResult(target, options.threads, records.log, tuned, replaced=len(found))


def _tune(setup: _Setup, options: TuneOptions, **how: Any) -> Tuned:
    """Search all layers; `how` are the arguments of `tune` that differ between judges."""
    return tune(
        setup.layers,
        setup.target,
        trials=options.trials,
        time_limit=options.time_limit,
        seed=options.seed,
        known=setup.records.known,
        earlier=setup.records.earlier,
        **how,
    )


def _print(line: str, progress: TextIO | None) -> None:
    if progress:
        print(printable(line), file=progress, flush=True)
