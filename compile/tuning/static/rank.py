"""Ranks decisions of layers by estimates: `tune --static`, for targets that cannot be measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from tvm.support.popen_pool import PopenPoolExecutor

from mobilenet_tvm.compile.analysis.llvm_mca import find_llvm_mca
from mobilenet_tvm.compile.logs.log import Record, TuningLog
from mobilenet_tvm.compile.tuning.local.builder import ignore_interrupts, one_line
from mobilenet_tvm.compile.tuning.measure import Failure, Measurement
from mobilenet_tvm.compile.tuning.space import Space
from mobilenet_tvm.compile.tuning.static.candidates import candidates
from mobilenet_tvm.compile.tuning.static.estimate import estimate
from mobilenet_tvm.compile.tuning.task import Task
from mobilenet_tvm.compile.tuning.tune import Tuned
from mobilenet_tvm.schedules.workloads import Depthwise, GlobalPool, Workload
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.host import core_count
from mobilenet_tvm.targets.presets import PRESETS
from mobilenet_tvm.targets.target import Target

#: A candidate replaces the default if its estimate is shorter by this share. Of four pointwise
#: layers and two blocks measured on a Zen 4 server by benchmarks/static_ranking.py, three were
#: estimated to gain more, about 8 % each, and gained 6.5, 4.2 and 3.9 %; one was estimated to gain
#: 3 % and lost 0.3 %.
MIN_GAIN = 0.05

#: Layers whose estimates do not predict which decision is better: those of depthwise layers
#: correlated with measured times by -0.03 and -0.11; those of pooling were not evaluated.
SKIPPED = (Depthwise, GlobalPool)

#: Time limit for compiling and estimating a candidate, in seconds.
_TIMEOUT = 60.0


def require_model(target: Target) -> None:
    """Check that cycles can be estimated for a target.

    Raises
    ------
    UserError
        If llvm-mca is missing or has no model of the core.
    """
    if not target.core:
        known = ", ".join(preset.name for preset in PRESETS.values() if preset.core)
        raise UserError(f"no core model represents '{target.name}'; static tuning supports {known}")
    find_llvm_mca()


def rank(
    layers: Mapping[Workload, int],
    target: Target,
    *,
    trials: int = 500,
    on_estimate: Callable[[Task, int, int], None] | None = None,
) -> Tuned:
    """Find a good decision for each layer without running it.

    Parameters
    ----------
    layers : mapping of Workload to int
        The layers and how often each is called.
    target : Target
        The machine; llvm-mca models its `core`.
    trials : int
        Number of candidates to estimate, shared evenly by the layers; each default is included.
    on_estimate : callable, optional
        Called with a layer that has a new outcome, the number of finished candidates, and the
        number of all candidates.

    Returns
    -------
    Tuned
        Its measurements are estimates. The best decision of a layer is the default unless another
        is faster by `MIN_GAIN`; a layer whose default cannot be estimated has none.

    Raises
    ------
    UserError
        If llvm-mca is missing or has no model of the core.
    """
    require_model(target)
    start = time.perf_counter()
    order = sorted(layers, key=lambda workload: -layers[workload] * workload.flops)
    tasks = [Task(Space(workload, target), layers[workload]) for workload in order]
    # The default of skipped layers is estimated too, so that totals cover whole networks.
    single = sum(isinstance(task.workload, SKIPPED) for task in tasks)
    share = (trials - single) // max(1, len(tasks) - single)
    pool = PopenPoolExecutor(
        max_workers=core_count(), timeout=_TIMEOUT, initializer=ignore_interrupts
    )
    jobs = []
    for task in tasks:
        limit = 1 if isinstance(task.workload, SKIPPED) else max(1, share)
        for decision in candidates(task.workload, target, limit):
            job = pool.submit(estimate, task.workload, decision, target)
            jobs.append((task, task.space.decisions.index(decision), job))
    try:
        for done, (task, number, job) in enumerate(jobs, 1):
            task.outcomes[number] = _outcome(job)
            if on_estimate:
                on_estimate(task, done, len(jobs))
    finally:
        for *_, job in jobs:
            job.cancel()
        pool.shutdown()
    for task in tasks:
        _settle(task)
    return Tuned(tasks, time.perf_counter() - start, 0.0, 0.0)


def records(tuned: Tuned, log: TuningLog, target: Target) -> list[Record]:
    """Return the records for a log: one for each layer whose default is replaced.

    If the log has an earlier estimate for a layer whose default is now kept, the default is
    recorded too, to replace it.
    """
    stated = {record.workload for record in log.records if record.source == "static"}
    return [
        Record.of(
            task.workload,
            task.decision,
            target,
            microseconds=1e6 * task.times[task.best].seconds,
            spread=0.0,
            threads=1,
            device=target.core,
            source="static",
        )
        for task in tuned.tasks
        if task.default and (task.best != 0 or str(task.workload) in stated)
    ]


def _outcome(job: Any) -> Measurement | Failure:
    try:
        seconds = job.result().seconds
    except UserError:
        raise
    except TimeoutError:
        return Failure("hung", "the estimate timed out")
    except Exception as error:
        return Failure("error", one_line(error))
    return Measurement(seconds, seconds, 0.0, 0)


def _settle(task: Task) -> None:
    """Keep the default unless another decision is clearly better."""
    if task.default is None:
        task.ended = "the default decision cannot be estimated"
        return
    best = task.times[task.best].seconds
    if task.best != 0 and best > (1 - MIN_GAIN) * task.default.seconds:
        task.confirmed = {0: task.default}
