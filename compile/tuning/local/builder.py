"""Builds candidates into shared libraries, on all cores, in processes of their own."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tvm
from tvm import tirx

from mobilenet_tvm.compile.codegen.build import write_library
from mobilenet_tvm.compile.tuning.local.pool import WorkerPool
from mobilenet_tvm.compile.tuning.measure import Failure, Parameters, parameters_of
from mobilenet_tvm.compile.tuning.task import OnOutcome, Task
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.host import core_count
from mobilenet_tvm.targets.target import Target

#: Makes the scheduled function of a decision.
Build = Callable[[Workload, Decision, Target], tirx.PrimFunc]

#: Compiles a candidate into a file.
Compile = Callable[[Build, Workload, Decision, Target, str], "Compiled"]

#: A candidate that takes longer to compile has failed, in seconds.
_TIMEOUT = 60.0
#: After so many candidates a process is replaced: TVM's lose memory.
_MAX_USES = 1000


@dataclass(frozen=True)
class Compiled:
    """What is needed to call a candidate.

    Parameters
    ----------
    parameters : sequence of (str, tuple of int, str)
        Names, shapes and types of the function's parameters.
    arguments : sequence of Path
        Files of all arguments but the output, where they are kept.
    weights : sequence of int
        Which of those stay the same from one inference to the next.
    """

    parameters: Parameters
    arguments: Sequence[Path] = ()
    weights: Sequence[int] = ()


@dataclass(frozen=True, eq=False)
class Candidate:
    """A decision that is built and ready to run.

    Parameters
    ----------
    task : Task
        The layer.
    number : int
        The decision's.
    library : Path
        The compiled code.
    compiled : Compiled
        How to call it.
    """

    task: Task
    number: int
    library: Path
    compiled: Compiled


def compile_candidate(
    build: Build, workload: Workload, decision: Decision, target: Target, path: str
) -> Compiled:
    """Compile one candidate, for any target, as the network would be."""
    func = build(workload, decision, target).with_attr("global_symbol", "main")
    write_library(tvm.IRModule({"main": func}), target, Path(path))
    return Compiled(parameters_of(func))


def one_line(error: BaseException) -> str:
    """Return the last line of an error's text, which names its cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def ignore_interrupts() -> None:
    """Leave Ctrl-C, which a terminal sends to the whole process group, to the tuner's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# MetaSchedule's LocalBuilder starts its processes anew for each batch: two seconds of imports for
# eight candidates that build in half a second.
class Builder:
    """Builds batches of candidates in processes that stay.

    Parameters
    ----------
    make : callable
        Makes a decision's function.
    folder : Path
        For the libraries.
    on_failure : callable
        Gets the task, the decision's number and the failure of what cannot be built.
    compile_ : callable
        Compiles a candidate, in one of the processes.

    Attributes
    ----------
    built : dict of (str, int) to Candidate
        All that was built, by the key of its space and the decision's number.
    seconds : float
        How long building took.
    """

    def __init__(
        self,
        make: Build,
        folder: Path,
        on_failure: OnOutcome,
        compile_: Compile = compile_candidate,
    ) -> None:
        self.built: dict[tuple[str, int], Candidate] = {}
        self.seconds = 0.0
        self._make = make
        self._folder = folder
        self._on_failure = on_failure
        self._compile = compile_
        self._names = itertools.count()
        self._pool = WorkerPool(
            max_workers=core_count(),
            timeout=_TIMEOUT,
            initializer=ignore_interrupts,
            maximum_process_uses=_MAX_USES,
        )

    def build(self, task: Task, numbers: Sequence[int]) -> list[Candidate]:
        """Build decisions of a task, by their numbers, on all cores; return those that work."""
        start = time.perf_counter()
        jobs = []
        for number in numbers:
            library = self._folder / f"{next(self._names)}.so"
            decision, target = task.space.decisions[number], task.space.target
            job = self._pool.submit(
                self._compile, self._make, task.workload, decision, target, str(library)
            )
            jobs.append((number, library, job))
        candidates = []
        try:
            for number, library, job in jobs:
                try:
                    candidate = Candidate(task, number, library, job.result())
                except Exception as error:
                    self._on_failure(task, number, Failure("build", one_line(error)))
                else:
                    self.built[task.space.key, number] = candidate
                    candidates.append(candidate)
        finally:
            for *_, job in jobs:
                job.cancel()
            self.seconds += time.perf_counter() - start
        return candidates

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown()
