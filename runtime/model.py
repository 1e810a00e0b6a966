"""Loads an artifact and runs it: NumPy arrays in, NumPy arrays out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mobilenet_tvm.runtime.elf import read_elf
from mobilenet_tvm.runtime.library import load_artifact, load_runtime
from mobilenet_tvm.runtime.metadata import Metadata, TensorInfo, metadata_of
from mobilenet_tvm.runtime.threads import Threads
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.host import architecture, cpu_features, default_threads

Array = np.ndarray[Any, np.dtype[Any]]

# TVM's kAllocAlignment: generated code takes it for granted of every tensor.
_ALIGNMENT = 64

# DLPack's kDLCPU and TVM's pooled allocator.
_CPU, _POOLED = 1, 2


class BaseModel(ABC):
    """A compiled model, wherever it runs.

    Attributes
    ----------
    metadata : Metadata
        What the artifact says of itself.
    inputs, outputs : tuple of TensorInfo
        Names, shapes and dtypes.
    threads : int
        How many threads work on one call.
    """

    def __init__(self, metadata: Metadata, threads: int) -> None:
        self.metadata = metadata
        self.inputs = metadata.inputs
        self.outputs = metadata.outputs
        self.threads = threads
        self._dtypes = [np.dtype(info.dtype) for info in self.inputs]

    def __call__(self, /, *arrays: ArrayLike, **named: ArrayLike) -> Any:
        """Run the model.

        Parameters
        ----------
        *arrays : array_like
            Inputs in the order of `inputs`, with the shapes and dtypes given there. An array
            that is contiguous, writeable and aligned to 64 bytes is not copied.
        **named : array_like
            Inputs by name, after those given by position.

        Returns
        -------
        ndarray or dict of str to ndarray
            The output; where there are several, a dictionary by name in the order of
            `outputs`. Each array has memory of its own; NumPy before 2.2 gives it read-only.

        Raises
        ------
        UserError
            If an input is missing, unknown, or of another shape or dtype.
        """
        given: Sequence[ArrayLike] = arrays
        if named or len(arrays) != len(self.inputs):
            given = self._order(arrays, named)
        results = self._compute(
            [
                _prepare(array, info, dtype)
                for array, info, dtype in zip(given, self.inputs, self._dtypes, strict=True)
            ]
        )
        if len(self.outputs) == 1:
            return results[0]
        return {info.name: array for info, array in zip(self.outputs, results, strict=True)}

    @abstractmethod
    def _compute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """Return the outputs for inputs as generated code needs them."""

    def _order(self, arrays: tuple[ArrayLike, ...], named: dict[str, ArrayLike]) -> list[ArrayLike]:
        """Put inputs given by position and by name into the model's order."""
        names = [info.name for info in self.inputs]
        if len(arrays) > len(names):
            raise UserError(f"{len(arrays)} inputs given, and the model takes {_list(self.inputs)}")
        given = dict(zip(names, arrays, strict=False))
        for name in named:
            if name not in names:
                raise UserError(f"no input named '{name}'; the model takes {_list(self.inputs)}")
            if name in given:
                raise UserError(f"input '{name}' given both by position and by name; give it once")
        given |= named
        missing = [info for info in self.inputs if info.name not in given]
        if missing:
            raise UserError(f"missing input: {_list(missing)}")
        return [given[name] for name in names]


class Model(BaseModel):
    """A compiled model in this process.

    Any Python thread may call it, several at once too. A forked process has none of its
    parent's threads, so it has to load a model of its own.
    """

    def __init__(self, executable: Any, metadata: Metadata, threads: int) -> None:
        self._threads = Threads(threads)
        super().__init__(metadata, self._threads.count)
        self._executable = executable
        # A virtual machine runs one call at a time. They share the weights, so there are as
        # many as calls ever ran at once.
        self._idle = [self._new_machine()]

    def _compute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        import tvm_ffi

        result = self._threads.call(self._run, [tvm_ffi.from_dlpack(array) for array in inputs])
        results = [result] if isinstance(result, tvm_ffi.Tensor) else result
        return [np.from_dlpack(tensor) for tensor in results]

    def _run(self, tensors: Sequence[Any]) -> Any:
        try:
            main = self._idle.pop()
        except IndexError:
            main = self._new_machine()
        try:
            return main(*tensors)
        finally:
            self._idle.append(main)

    @contextmanager
    def instrumented(self, callback: Callable[..., Any]) -> Iterator[None]:
        """Report each step of the calls that are made inside the context.

        Parameters
        ----------
        callback : callable
            Gets the function, its name, and whether it is about to run; returns 0. It runs
            inside the call, so what it does costs time there.
        """
        import tvm_ffi

        idle, self._idle = self._idle, [self._new_machine(tvm_ffi.convert(callback))]
        try:
            yield
        finally:
            self._idle = idle

    def _new_machine(self, instrument: Any = None) -> Any:
        machine = self._executable["vm_load_executable"]()
        machine["vm_initialization"](_CPU, 0, _POOLED)
        if instrument is not None:
            machine["set_instrument"](instrument)
        return machine["main"]


def load(path: str | Path, threads: int | None = None) -> Model:
    """Load an artifact.

    Parameters
    ----------
    path : str or Path
        The ``.so`` that ``compile`` wrote.
    threads : int, optional
        How many threads work on one call, at most the CPUs that this process may use. By
        default the fast physical cores, at most 8.

    Returns
    -------
    Model
        Call it with NumPy arrays.

    Raises
    ------
    UserError
        If the file is no artifact, or damaged, or compiled for another architecture or a CPU
        with features that this one lacks. Nothing of the file has run then.
    """
    if threads is not None and threads < 1:
        raise UserError(f"threads={threads}; give 1 or more")
    path = Path(path)
    library = read_elf(path)
    if library.architecture != architecture():
        raise UserError(
            f"{path}: compiled for {library.architecture}, this machine is {architecture()}; "
            f"compile it with a target for {architecture()}"
        )
    metadata = metadata_of(library)
    features = cpu_features()
    missing = sorted(set(metadata.required_features) - features)
    if missing:
        x86 = "x86" if features >= {"avx2", "fma"} else "x86-sse4"
        raise UserError(
            f"{path}: needs {', '.join(missing)}, which this CPU lacks; "
            f"compile with --target {x86 if architecture() == 'x86_64' else 'arm64'}"
        )
    load_runtime()
    try:
        return Model(load_artifact(path), metadata, threads or default_threads())
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise UserError(
            f"{path}: cannot be loaded ({reason}); it was compiled with "
            f"TVM {metadata.versions.get('apache-tvm')}, compile it again with this version"
        ) from error


def _prepare(value: ArrayLike, info: TensorInfo, dtype: np.dtype[Any]) -> Array:
    """Return an input as generated code needs it, the same array where that is possible."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise UserError(f"the model takes {info}, given no array ({error})") from None
    # The other byte order is the same type; copying repairs it.
    if array.shape != info.shape or array.dtype.newbyteorder("=") != dtype:
        given = f"{array.dtype}[{','.join(map(str, array.shape))}]"
        raise UserError(f"the model takes {info}, given {given}; convert the array")
    if (
        array.dtype.isnative
        and array.flags.c_contiguous
        and array.flags.writeable
        and array.__array_interface__["data"][0] % _ALIGNMENT == 0
    ):
        return array
    aligned = empty_aligned(info)
    np.copyto(aligned, array)
    return aligned


def empty_aligned(info: TensorInfo) -> Array:
    """Return an array for an input, aligned so that a model takes it without a copy."""
    dtype = np.dtype(info.dtype)
    size = math.prod(info.shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.__array_interface__["data"][0] % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(info.shape)


def _list(tensors: Sequence[TensorInfo]) -> str:
    return ", ".join(map(str, tensors)) or "no input"
