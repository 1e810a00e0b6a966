"""Measures candidates on this machine, one at a time, in a process of its own on cores of its own.

Nothing is built meanwhile: a build on the other core of a 2-core machine made single measurements
up to 45 % longer, and their spread two to five times as wide.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from mobilenet_tvm.compile.tuning.local.builder import Candidate, ignore_interrupts, one_line
from mobilenet_tvm.compile.tuning.local.pool import WorkerPool
from mobilenet_tvm.compile.tuning.measure import Failure, Measurement, Parameters, measure
from mobilenet_tvm.compile.tuning.task import OnOutcome, Outcome
from mobilenet_tvm.runtime.device import open_device
from mobilenet_tvm.runtime.measure import pinned_threads
from mobilenet_tvm.runtime.threads import Threads
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.host import architecture, cpu_features, machine_name
from mobilenet_tvm.targets.target import Target

#: A candidate that runs longer has failed, in seconds.
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
    decision: Decision,
    parameters: Parameters,
    reference: Path,
    target: Target,
) -> Outcome:
    """Measure a candidate with the number of threads that the process was started with."""
    assert _threads is not None  # noqa: S101
    outcome = _threads.call(measure, path, workload, decision, parameters, reference, target)
    assert isinstance(outcome, Measurement | Failure)  # noqa: S101
    return outcome


def require_native(target: Target) -> str:
    """Make sure that this machine can run a target's code; return the name of what runs it.

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


# MetaSchedule's LocalRunner gives its functions the shapes of the arguments only: it cannot pack
# weights for a decision, check a result, or hand each one over before the batch has ended.
class LocalRunner:
    """Measures each candidate as it is submitted, while nothing else of the tuner runs.

    Parameters
    ----------
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

    concurrency = 1
    wants_work = True
    over = ""

    def __init__(
        self,
        target: Target,
        threads: int,
        folder: Path,
        on_outcome: OnOutcome,
        timeout: float = TIMEOUT,
    ) -> None:
        self._folder = folder
        self._on_outcome = on_outcome
        self._target = target
        self._new_pool = partial(
            WorkerPool,
            max_workers=1,
            timeout=timeout,
            initializer=start,
            initargs=(threads, target.kind),
        )
        self._pool = self._new_pool()
        #: How long measuring took.
        self.seconds = 0.0

    def submit(self, candidates: Sequence[Candidate]) -> None:
        """Measure candidates, one after the other."""
        for candidate in candidates:
            self._on_outcome(candidate.task, candidate.number, self._measure(candidate))

    def unfinished(self) -> frozenset[Candidate]:
        """Return nothing: what was submitted is measured."""
        return frozenset()

    def wait(self) -> None:
        """Return at once, as there is nothing to wait for."""

    def in_turns(self, groups: Iterable[Sequence[Candidate]]) -> Iterator[Sequence[Outcome]]:
        """Measure candidates again, those of a group in turns; yield each group's outcomes."""
        for candidates in groups:
            yield [self._measure(candidate) for candidate in candidates]

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()

    def _measure(self, candidate: Candidate) -> Outcome:
        began = time.perf_counter()
        space = candidate.task.space
        # The default decision comes first in its layer, so it is the reference.
        reference = self._folder / f"{abs(hash(space.key)):x}.npy"
        job = self._pool.submit(
            measure_here,
            str(candidate.library),
            space.workload,
            space.decisions[candidate.number],
            candidate.compiled.parameters,
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
                # After a kernel's fault CUDA refuses everything else that the process asks for.
                self._pool.shutdown()
                self._pool = self._new_pool()
            return Failure("error", one_line(error))
        finally:
            self.seconds += time.perf_counter() - began
        assert isinstance(outcome, Measurement | Failure)  # noqa: S101
        return outcome
