"""Devices of this machine that run models: its CPU and its GPUs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from mobilenet_tvm.runtime.library import load_runtime
from mobilenet_tvm.targets.errors import UserError

#: TVM's names for the kinds of code; an artifact that names none is for CPUs.
CPU, OPENCL, CUDA = "llvm", "opencl", "cuda"

# The process that opened each kind of GPU, to recognize a forked one.
_openers: dict[str, int] = {}

# While a thread records a CUDA graph, no other one may allocate, wait or launch, or both fail: TVM
# records in the mode cudaStreamCaptureModeGlobal.
_cuda_lock = threading.Lock()

# DLPack's device types, and TVM's pooled allocator.
_TYPES = {CPU: 1, CUDA: 2, OPENCL: 4}
_POOLED = 2


@dataclass(frozen=True)
class Device:
    """A processor that TVM's runtime can use.

    Parameters
    ----------
    kind : str
        TVM's name for its kind of code: ``llvm``, ``opencl`` or ``cuda``.
    number : int
        Its number among the devices of that kind.
    name : str
        Its name, as its driver reports it.
    """

    kind: str = CPU
    number: int = 0
    name: str = "CPU"

    @property
    def is_cpu(self) -> bool:
        """Whether it works on this machine's main memory."""
        return self.kind == CPU

    @property
    def places(self) -> tuple[int, ...]:
        """The devices of a virtual machine's values: type, number and allocator of each.

        The last is the CPU, for shapes.
        """
        cpu = (_TYPES[CPU], 0, _POOLED)
        return cpu if self.is_cpu else (_TYPES[self.kind], self.number, _POOLED, *cpu)

    def lock(self) -> AbstractContextManager[Any]:
        """Return the lock that a model's callers hold while they use the device.

        On a CPU they need none. All models on CUDA devices share one.
        """
        if self.kind == CUDA:
            return _cuda_lock
        return nullcontext() if self.is_cpu else threading.Lock()

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        """Return an uninitialised tensor in the device's memory."""
        import tvm_ffi

        allocate = tvm_ffi.get_global_func("runtime.TVMTensorAllocWithScope")
        return allocate(
            tvm_ffi.Shape(shape),
            tvm_ffi.dtype(dtype),
            tvm_ffi.device(self.kind, self.number),
            None,
        )

    def prepare(self, module: Any) -> None:
        """Have the device's driver compile an artifact's kernels, where it is the one to do so."""
        if self.kind != OPENCL:
            return
        if module.kind == OPENCL:
            module["opencl.build"](self.number)
        for imported in module.imports:
            self.prepare(imported)

    def start_timer(self) -> Callable[[], float]:
        """Start timing the device's work.

        Returns
        -------
        callable
            Stops timing, and returns seconds: on a GPU, the time of its kernels where the driver
            reports it, else the time that passed on this machine until the device was done.
        """
        if self.kind == CUDA:
            from mobilenet_tvm.runtime import cuda

            return cuda.start_timer(self.number)
        self.synchronize()
        if self.kind == OPENCL:
            from mobilenet_tvm.runtime import opencl

            kernels = opencl.start_timer(self.number)
        start = time.perf_counter()

        def stop() -> float:
            self.synchronize()
            passed = time.perf_counter() - start
            return kernels() or passed if self.kind == OPENCL else passed

        return stop

    def synchronize(self) -> None:
        """Wait until the device has done all its work."""
        import tvm_ffi

        if not self.is_cpu:
            wait = tvm_ffi.get_global_func("runtime.Device_StreamSync")
            wait(tvm_ffi.device(self.kind, self.number), 0)


def open_device(kind: str, wanted: int | str | None = None) -> Device:
    """Make a device ready, with TVM's runtime and what the device needs of it.

    Parameters
    ----------
    kind : str
        The kind of its code: `CPU`, `OPENCL` or `CUDA`.
    wanted : int or str, optional
        Its number or part of its name, where there are several. Default: the first one.

    Raises
    ------
    UserError
        If the kind is unknown, or this machine has no such device or no driver for it.
    """
    if kind == CPU:
        load_runtime()
        return Device()
    if kind not in _TYPES:
        raise UserError(f"compiled for '{kind}', which this mobilenet-tvm cannot run; upgrade it")
    check_process(kind)
    if kind == OPENCL:
        from mobilenet_tvm.runtime import opencl

        found = opencl.find_device(wanted)
        device = Device(OPENCL, found.number, found.name)
    else:
        from mobilenet_tvm.runtime import cuda

        device = Device(CUDA, *cuda.find_device(wanted))
    _openers[kind] = os.getpid()
    return device


def check_process(kind: str) -> None:
    """Refuse a kind of GPU that the parent of this forked process uses: its driver would hang.

    Raises
    ------
    UserError
        If this is a forked process and its parent uses that kind.
    """
    if _openers.get(kind, os.getpid()) != os.getpid():
        raise UserError(
            f"this process was forked from one that uses {kind}, whose driver does not survive a "
            "fork; start a new process instead (multiprocessing: the method 'spawn')"
        )


def copy(source: Any, destination: Any) -> None:
    """Copy one tensor into another, in the order of the device's work."""
    import tvm_ffi

    tvm_ffi.get_global_func("runtime.TVMTensorCopyFromTo")(source, destination)
