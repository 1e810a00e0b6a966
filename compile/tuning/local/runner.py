"""Measures candidates on this machine, one at a time, in a process of its own on cores of its own.

Nothing is built meanwhile: a build on the other core of a 2-core machine made single measurements
up to 45 % longer, and their spread two to five times as wide.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule
from tvm.support.popen_pool import PopenPoolExecutor

from mobilenet_tvm.compile.tuning.local.builder import Artifact, ignore_interrupts, one_line
from mobilenet_tvm.compile.tuning.measure import Failure, Measurement, Parameters, measure
from mobilenet_tvm.compile.tuning.task import Task
from mobilenet_tvm.runtime.device import open_device
from mobilenet_tvm.runtime.measure import pinned_threads
from mobilenet_tvm.runtime.threads import Threads
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.host import architecture, cpu_features, machine_name
from mobilenet_tvm.targets.target import Target

#: A candidate that runs longer is given up, in seconds.
TIMEOUT = 10.0

_threads: Threads | None = None


def start(threads: int, kind: str) -> None:
    """Prepare a measuring process: its cores, and how many threads share a layer."""
    global _threads
    ignore_interrupts()
    _threads = pinned_threads(threads, kind)


def measure_here(
    path: str,
    workload: Workload,
    decision: Any,
    parameters: Parameters,
    reference: Path,
    target: Target,
) -> Measurement | Failure:
    """Measure a candidate with the number of threads that the process was started with."""
    assert _threads is not None  # noqa: S101
    outcome = _threads.call(measure, path, workload, decision, parameters, reference, target)
    assert isinstance(outcome, Measurement | Failure)  # noqa: S101
    return outcome


def require_native(target: Target) -> str:
    """Make sure that this machine can run a target's code; return what people call what runs it.

    Raises
    ------
    UserError
        If it cannot, or lacks the GPU or its driver.
    """
    missing = set(target.required_features) - cpu_features()
    if target.architecture != architecture() or missing:
        raise UserError(
            f"this machine cannot run code for '{target.name}', so it cannot measure it; "
            "tune on such a machine, on a board by --device, or for --target native"
        )
    return open_device(target.kind).name if target.gpu is not None else machine_name()


@derived_object
class _Done(meta_schedule.runner.PyRunnerFuture):  # type: ignore[misc]
    """A result that is there."""

    def __init__(self, outcome: Measurement | Failure) -> None:
        super().__init__()
        self._outcome = outcome

    def done(self) -> bool:
        """Tell that it is there."""
        return True

    def result(self) -> meta_schedule.runner.RunnerResult:
        """Return it."""
        return runner_result(self._outcome)


def runner_result(outcome: Measurement | Failure) -> meta_schedule.runner.RunnerResult:
    """Return an outcome as MetaSchedule wants it."""
    if isinstance(outcome, Failure):
        return meta_schedule.runner.RunnerResult(None, outcome.reason)
    return meta_schedule.runner.RunnerResult([outcome.seconds], None)


# TVM's LocalRunner gives its functions the shapes of the arguments only: it cannot pack weights
# for a decision, check a result, or hand each one over before the batch has ended.
@derived_object
class Runner(meta_schedule.runner.PyRunner):  # type: ignore[misc]
    """Measures batches of candidates while nothing else of the tuner runs.

    Parameters
    ----------
    artifacts : dict of str to Artifact
        The builder's.
    target : Target
        What the candidates are compiled for.
    threads : int
        How many threads share a layer.
    folder : Path
        For the default decisions' results.
    on_outcome : callable
        Gets the task, the decision's number and the outcome as soon as it is there.
    timeout : float
        Seconds after which a candidate counts as hung.
    """

    def __init__(
        self,
        artifacts: dict[str, Artifact],
        target: Target,
        threads: int,
        folder: Path,
        on_outcome: Callable[[Task, int, Measurement | Failure], None],
        timeout: float = TIMEOUT,
    ) -> None:
        super().__init__()
        self._artifacts = artifacts
        self._folder = folder
        self._on_outcome = on_outcome
        self._target = target
        self._new_pool = partial(
            PopenPoolExecutor,
            max_workers=1,
            timeout=timeout,
            initializer=start,
            initargs=(threads, target.kind),
        )
        self._pool = self._new_pool()
        #: How long measuring took.
        self.seconds = 0.0
        #: Why no more can be measured, for boards: this machine always can.
        self.over = ""
        self.error = None

    def run(
        self, runner_inputs: Sequence[meta_schedule.runner.RunnerInput]
    ) -> list[meta_schedule.runner.RunnerFuture]:
        """Measure a batch, one candidate after the other."""
        futures = []
        for given in runner_inputs:
            path = str(given.artifact_path)
            outcome = self.outcome(path)
            artifact = self._artifacts[path]
            self._on_outcome(artifact.task, artifact.number, outcome)
            futures.append(_Done(outcome))
        return futures

    def outcome(self, path: str) -> Measurement | Failure:
        """Measure one library that the builder made."""
        began = time.perf_counter()
        artifact = self._artifacts[path]
        space = artifact.task.space
        # The default decision comes first in its layer, so it is the reference.
        reference = self._folder / f"{abs(hash(space.key)):x}.npy"
        decision = space.decisions[artifact.number]
        job = self._pool.submit(
            measure_here,
            path,
            space.workload,
            decision,
            artifact.compiled.parameters,
            reference,
            self._target,
        )
        try:
            outcome = job.result()
        except TimeoutError:
            return Failure("hung", "the candidate did not end in time")
        except ChildProcessError:
            return Failure("crashed", "the candidate killed its process")
        except Exception as error:
            if self._target.gpu is not None:
                # After a kernel's fault CUDA refuses all else that a process wants of it.
                self._pool.shutdown()
                self._pool = self._new_pool()
            return Failure("error", one_line(error))
        finally:
            self.seconds += time.perf_counter() - began
        assert isinstance(outcome, Measurement | Failure)  # noqa: S101
        return outcome

    def in_turns(
        self, groups: Iterable[Sequence[str]]
    ) -> Iterator[Sequence[Measurement | Failure]]:
        """Measure libraries again, those of a group in turns; yield each group's outcomes."""
        for paths in groups:
            yield [self.outcome(path) for path in paths]

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()
