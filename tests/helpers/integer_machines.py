"""Instruction sets that multiply integers, and how layers compiled for them are run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
from guarded import call_all
from numpy_integers import Problem

from mobilenet_tvm.compile.codegen.pass_context import PASS_CONFIG
from mobilenet_tvm.compile.codegen.tvm_target import llvm_target
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.targets.host import architecture, cpu_features
from mobilenet_tvm.targets.presets import PRESETS
from mobilenet_tvm.targets.target import Target

Array = np.ndarray[Any, Any]
#: A layer, and how to compute it.
Job = tuple[Problem, Decision]


@dataclass(frozen=True)
class Machine:
    """A CPU whose integer schedules are tested, which is this one or a part of it.

    Another one, such as an emulated CPU, is a subclass with its own `missing` and `call`.

    Parameters
    ----------
    target : Target
        What is compiled for.
    """

    target: Target

    @property
    def name(self) -> str:
        """The instruction set."""
        return self.target.dot

    @property
    def dtype(self) -> str:
        """The type of its networks' bytes."""
        return self.target.bytes_type

    def missing(self) -> str | None:
        """Return why it cannot be used here, if it cannot."""
        if architecture() != self.target.architecture:
            return f"this machine is no {self.target.architecture}"
        missing = sorted({*self.target.required_features} - cpu_features())
        return f"this CPU lacks {', '.join(missing)}" if missing else None

    def run(self, jobs: Sequence[Job], guarded: bool = False) -> list[Array]:
        """Compute layers, and return their results.

        Parameters
        ----------
        jobs : sequence of Job
            The layers.
        guarded : bool
            Whether no page before and behind an argument can be read or written: the process is
            killed if a function does. Arguments begin at multiples of `guarded.ALIGNMENT`, so only
            those whose size is a multiple of it end at a page's end.

        Raises
        ------
        AssertionError
            If something was written next to a result, or to an argument.
        """
        functions, arguments = {}, []
        for index, (problem, decision) in enumerate(jobs):
            func, name = registry.build(problem.workload, decision, self.target), f"layer_{index}"
            arrays = [*problem.arguments(decision), np.zeros_like(problem.right[0]).reshape(-1)]
            for array, parameter in zip(arrays, func.params, strict=True):
                (size,) = map(int, parameter.ty.shape)
                assert (array.size, str(array.dtype)) == (size, str(parameter.ty.dtype))
            functions[name] = func.with_attr("global_symbol", name)
            arguments.append(arrays)
        with tvm.transform.PassContext(opt_level=3, config=PASS_CONFIG):
            built = tvm.compile(tvm.IRModule(functions), target=llvm_target(self.target))
        return self.call(built, arguments, guarded)

    def call(
        self, built: tvm.runtime.Module, arguments: Sequence[Sequence[Array]], guarded: bool
    ) -> list[Array]:
        """Call compiled functions, and return their results; see `guarded.call_all`."""
        functions = [built[f"layer_{index}"] for index in range(len(arguments))]
        return call_all(functions, arguments, guarded)

    def check(self, *jobs: Job, guarded: bool = False) -> None:
        """Compare layers with what is right."""
        results = self.run(jobs, guarded)
        times = len(results) // len(jobs)
        for index, result in enumerate(results):
            jobs[index // times][0].check(result)

    def check_default(self, *problems: Problem, guarded: bool = False) -> None:
        """Compare layers, computed by their default decisions, with what is right."""
        jobs = [(p, registry.default(p.workload, self.target)) for p in problems]
        self.check(*jobs, guarded=guarded)


#: The x86 instruction sets.
MACHINES = [
    Machine(PRESETS["x86-vnni"]),
    Machine(PRESETS["x86-avx512"]),
    Machine(PRESETS["x86-avx-vnni"]),
    Machine(PRESETS["x86"]),
    Machine(PRESETS["x86-sse4"]),
]


def check_guarded(machine: Machine, problems: Sequence[Problem]) -> None:
    """Check layers in guarded memory: to be called in a process that may be killed.

    Depthwise layers are computed both ways: from a copy of their input, and where it is.
    """
    jobs = []
    for problem in problems:
        decision = registry.default(problem.workload, machine.target)
        jobs.append((problem, decision))
        if hasattr(decision, "direct"):
            jobs.append((problem, replace(decision, direct=not decision.direct)))
    machine.check(*jobs, guarded=True)
