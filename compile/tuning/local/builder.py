"""Builds candidates into shared libraries, on all cores, in processes of their own."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import tirx
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule
from tvm.support.popen_pool import PopenPoolExecutor

from mobilenet_tvm.compile.codegen.build import write_library
from mobilenet_tvm.compile.tuning.measure import Failure, Parameters, parameters_of
from mobilenet_tvm.compile.tuning.space import key_of, number_in
from mobilenet_tvm.compile.tuning.task import Task
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.host import core_count
from mobilenet_tvm.targets.target import Target

#: Makes the scheduled function of a decision.
Build = Callable[[Workload, Any, Target], tirx.PrimFunc]

#: Compiles a candidate into a file.
Compile = Callable[[Build, Workload, Any, Target, str], "Compiled"]

#: A candidate that takes longer to compile is given up, in seconds.
_TIMEOUT = 60.0
#: After so many candidates a process is replaced: TVM's lose memory.
_USES = 1000


@dataclass(frozen=True)
class Compiled:
    """What is needed to call a candidate.

    Parameters
    ----------
    parameters : sequence of (str, tuple of int, str)
        Names, shapes and types of the function's.
    arguments : sequence of Path
        Files of all arguments but the output, where they are kept.
    weights : sequence of int
        Which of those stay the same from one inference to the next.
    """

    parameters: Parameters
    arguments: Sequence[Path] = ()
    weights: Sequence[int] = ()


@dataclass(frozen=True)
class Artifact:
    """A candidate that is ready to run.

    Parameters
    ----------
    task : Task
        The layer.
    number : int
        The decision's.
    compiled : Compiled
        How to call it.
    """

    task: Task
    number: int
    compiled: Compiled


def compile_candidate(
    build: Build, workload: Workload, decision: Any, target: Target, path: str
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
    """Leave Ctrl-C, which reaches a terminal's whole process group, to the process that tunes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# TVM's LocalBuilder starts its processes anew for each batch: two seconds of imports for eight
# candidates that build in half a second.
@derived_object
class Builder(meta_schedule.builder.PyBuilder):  # type: ignore[misc]
    """Builds batches of candidates in processes that stay.

    Parameters
    ----------
    tasks : sequence of Task
        The layers.
    build : callable
        Makes a decision's function.
    folder : Path
        For the libraries.
    on_failure : callable
        Gets the task, the decision's number and the failure of what cannot be built.
    compile_ : callable
        Compiles a candidate, in one of the processes.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        build: Build,
        folder: Path,
        on_failure: Callable[[Task, int, Failure], None],
        compile_: Compile = compile_candidate,
    ) -> None:
        super().__init__()
        self._tasks = {task.space.key: task for task in tasks}
        self._build = build
        self._folder = folder
        self._on_failure = on_failure
        self._compile = compile_
        self._names = itertools.count()
        self._pool = PopenPoolExecutor(
            max_workers=core_count(),
            timeout=_TIMEOUT,
            initializer=ignore_interrupts,
            maximum_process_uses=_USES,
        )
        #: By the library's path.
        self.artifacts: dict[str, Artifact] = {}
        #: How long building took.
        self.seconds = 0.0

    def build(
        self, build_inputs: Sequence[meta_schedule.builder.BuilderInput]
    ) -> list[meta_schedule.builder.BuilderResult]:
        """Build a batch on all cores."""
        start = time.perf_counter()
        jobs = []
        for given in build_inputs:
            task, number = self._tasks[key_of(given.mod)], number_in(given.mod)
            path = str(self._folder / f"{next(self._names)}.so")
            decision, target = task.space.decisions[number], task.space.target
            job = self._pool.submit(
                self._compile, self._build, task.workload, decision, target, path
            )
            jobs.append((task, number, path, job))
        results = []
        try:
            for task, number, path, job in jobs:
                try:
                    self.artifacts[path] = Artifact(task, number, job.result())
                    results.append(meta_schedule.builder.BuilderResult(path, None))
                except Exception as error:
                    failure = Failure("build", one_line(error))
                    self._on_failure(task, number, failure)
                    results.append(meta_schedule.builder.BuilderResult(None, failure.reason))
        finally:
            for *_, job in jobs:
                job.cancel()
            self.seconds += time.perf_counter() - start
        return results

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown()
