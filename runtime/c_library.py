"""Runs a library that was compiled for C: it needs no TVM."""

from __future__ import annotations

import _ctypes
import ctypes
import os
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

from mobilenet_tvm.runtime.base_model import Array, BaseModel, empty_aligned
from mobilenet_tvm.runtime.device import Device
from mobilenet_tvm.runtime.library import new_spelling
from mobilenet_tvm.runtime.metadata import Metadata
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.host import core_count

#: The key of an artifact's metadata with what its functions' names begin with, if it is for C.
PREFIX = "c_prefix"

#: The largest number of threads of a context, which the library's header has too.
MAX_THREADS = 64


class CModel(BaseModel):
    """A model compiled for C, in this process.

    Any Python thread may call it, also several at once. A forked process lacks its parent's
    threads, so it has to load a model of its own.

    Parameters
    ----------
    path : Path
        The library, which must fit this machine.
    metadata : Metadata
        The library's.
    threads : int
        How many threads work on one call, at most the CPUs that this process may use.

    Attributes
    ----------
    device : Device
        The CPU.
    """

    def __init__(self, path: Path, metadata: Metadata, threads: int) -> None:
        super().__init__(metadata, min(threads, core_count(), MAX_THREADS))
        self.device = Device()
        self._process = os.getpid()
        self._library = _Library(path, metadata)
        # A context computes one call at a time; there are as many as there were concurrent calls.
        self._idle = [self._library.create(self.threads)]
        finalizer = weakref.finalize(self, _close, self._library, self._idle, self._process)
        # When the process ends, daemon threads may still be in a call.
        finalizer.atexit = False

    def _compute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        if os.getpid() != self._process:
            raise UserError(
                "the model was loaded before this process was forked; load it in the forked process"
            )
        outputs = [empty_aligned(info) for info in self.outputs]
        try:
            context = self._idle.pop()
        except IndexError:
            context = self._library.create(self.threads)
        try:
            self._library.run(context, [*inputs, *outputs])
        finally:
            self._idle.append(context)
        return outputs

    def _place(self) -> str:
        return f"threads: {self.threads}"


class _Library:
    """The functions of a library."""

    def __init__(self, path: Path, metadata: Metadata) -> None:
        try:
            library = ctypes.CDLL(new_spelling(path))
        except OSError as error:
            raise UserError(f"{path}: cannot be loaded ({error})") from None
        self._handle = library._handle
        tensors = len(metadata.inputs) + len(metadata.outputs)

        def function(name: str, result: type, *arguments: type) -> Callable[..., int]:
            symbol = f"{metadata.extra[PREFIX]}_{name}"
            try:
                found = library[symbol]
            except AttributeError:
                raise UserError(
                    f"{path}: has no function {symbol}; copy the file or compile the model again"
                ) from None
            found.restype, found.argtypes = result, arguments
            return found

        place, size = ctypes.c_void_p, ctypes.c_size_t
        self._create = function("create", ctypes.c_int, ctypes.c_int, place, size, place)
        self._run = function("run", ctypes.c_int, place, *[place] * tensors)
        self._destroy = function("destroy", ctypes.c_int, place)
        self._text = function("status_text", ctypes.c_char_p, ctypes.c_int)

    def create(self, threads: int) -> int:
        """Return a new context."""
        context = ctypes.c_void_p()
        self._check(self._create(threads, None, 0, ctypes.byref(context)))
        assert context.value is not None  # noqa: S101
        return context.value

    def run(self, context: int, arrays: Sequence[Array]) -> None:
        """Run a context on inputs and outputs."""
        self._check(self._run(context, *[a.__array_interface__["data"][0] for a in arrays]))

    def close(self, contexts: Sequence[int]) -> None:
        """Destroy the contexts and unload the library."""
        for context in contexts:
            self._destroy(context)
        _ctypes.dlclose(self._handle)

    def _check(self, status: int) -> None:
        if status != 0:
            text = self._text(status)
            raise UserError(f"the model cannot run: {bytes(text).decode()}")


def _close(library: _Library, contexts: Sequence[int], process: int) -> None:
    if os.getpid() == process:
        library.close(contexts)
