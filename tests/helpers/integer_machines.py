"""Instruction sets that multiply integers, and how layers compiled for them are run."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
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

#: Alignment of a function's parameters, in bytes.
ALIGNMENT = 64
_PAGE = mmap.PAGESIZE
_PROT_NONE, _PROT_READ_WRITE = 0, 3


@dataclass(frozen=True)
class Machine:
    """A CPU whose integer schedules are tested, which is this one or a part of it.

    Another one, such as an emulated CPU, is a subclass with its own `missing` and `run`.

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
            killed if a function does. Arguments begin at multiples of `ALIGNMENT`, so only those
            whose size is a multiple of it end at a page's end.

        Raises
        ------
        AssertionError
            If something was written next to a result, or to an argument.
        """
        functions = {
            f"layer_{index}": registry.build(problem.workload, decision, self.target).with_attr(
                "global_symbol", f"layer_{index}"
            )
            for index, (problem, decision) in enumerate(jobs)
        }
        with tvm.transform.PassContext(opt_level=3, config=PASS_CONFIG):
            built = tvm.compile(tvm.IRModule(functions), target=llvm_target(self.target))
        results = []
        for (name, func), (problem, decision) in zip(functions.items(), jobs, strict=True):
            arrays = [*problem.arguments(decision), np.zeros_like(problem.right[0]).reshape(-1)]
            for array, parameter in zip(arrays, func.params, strict=True):
                (size,) = map(int, parameter.ty.shape)
                assert (array.size, str(array.dtype)) == (size, str(parameter.ty.dtype))
            for at_end in (True, False) if guarded else (True,):
                results.append(_call(built[name], arrays, guarded, at_end))
        return results

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


def _call(function: Any, arrays: Sequence[Array], guarded: bool, at_end: bool) -> Array:
    """Call a function whose last argument is the result, and return that."""
    places = [Place(array, guarded, at_end) for array in arrays]
    function(*(tvm.runtime.from_dlpack(place.array) for place in places))
    for place, array in zip(places, arrays, strict=True):
        assert place.is_intact, "written next to an argument"
        if array is not arrays[-1]:
            np.testing.assert_array_equal(place.array, array)
    return places[-1].array.copy()


class Place:
    """A place in memory for an argument, of its own pages.

    Parameters
    ----------
    array : ndarray
        What is copied there.
    guarded : bool
        Whether its neighbours cannot be read or written.
    at_end : bool
        Whether it ends where its last page does, as far as its alignment allows; else it begins
        where its first page does.
    """

    def __init__(self, array: Array, guarded: bool, at_end: bool) -> None:
        whole = -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        pages = -(-whole // _PAGE) * _PAGE
        # Not memory of NumPy's: what is protected is never handed to others.
        self._memory = mmap.mmap(-1, pages + 2 * _PAGE)
        everything = np.frombuffer(self._memory, np.uint8)
        everything[:] = 0xA5
        self._start = _PAGE + (pages - whole if at_end else 0)
        self._inside = everything[_PAGE : _PAGE + pages]
        self._around = (everything[:_PAGE], everything[_PAGE + pages :])
        self._guarded, self._size = guarded, array.nbytes
        self.array = everything[self._start : self._start + array.nbytes].view(array.dtype)
        self.array[:] = array
        if guarded:
            for start in (0, _PAGE + pages):
                address = ctypes.c_void_p(everything.ctypes.data + start)
                libc = ctypes.CDLL(None, use_errno=True)
                failed = libc.mprotect(address, ctypes.c_size_t(_PAGE), _PROT_NONE)
                assert not failed, "mprotect"

    @property
    def is_intact(self) -> bool:
        """Whether what is around the array is as it was."""
        first = self._start - _PAGE
        parts = [self._inside[:first], self._inside[first + self._size :]]
        parts += [] if self._guarded else self._around
        return all((part == 0xA5).all() for part in parts)
