"""Where a model runs: on this machine's CPU, or on one of its GPUs."""

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

#: What a target's code may be; an artifact without a word about it is for CPUs.
CPU, OPENCL, CUDA = "llvm", "opencl", "cuda"

# The processes that have opened a kind of GPU, to tell a forked one.
_openers: dict[str, int] = {}

# While a thread records a CUDA graph, no other one may allocate, wait or launch, or both fail: TVM
# records in the mode cudaStreamCaptureModeGlobal.
_cuda_turn = threading.Lock()

# DLPack's numbers, and TVM's pooled allocator.
_NUMBERS = {CPU: 1, CUDA: 2, OPENCL: 4}
_POOLED = 2


@dataclass(frozen=True)
class Device:
    """A processor that TVM's runtime can use.

    Parameters
    ----------
    kind : str
        TVM's name of what its code is: ``llvm``, ``opencl`` or ``cuda``.
    number : int
        Which of that kind.
    name : str
        What it calls itself.
    """

    kind: str = CPU
    number: int = 0
    name: str = "CPU"

    @property
    def is_cpu(self) -> bool:
        """Whether it works on this machine's own memory."""
        return self.kind == CPU

    @property
    def places(self) -> tuple[int, ...]:
        """Where a virtual machine keeps values: type, number and allocator of each device.

        The last is the CPU's, for shapes.
        """
        cpu = (_NUMBERS[CPU], 0, _POOLED)
        return cpu if self.is_cpu else (_NUMBERS[self.kind], self.number, _POOLED, *cpu)

    def turn(self) -> AbstractContextManager[Any]:
        """Return what a model's callers hold, one after the other, while they use the device."""
        if self.kind == CUDA:
            return _cuda_turn
        return nullcontext() if self.is_cpu else threading.Lock()

    def empty(self, shape: Sequence[int], dtype: str) -> Any:
        """Return a tensor in the device's memory."""
        import tvm_ffi

        allocate = tvm_ffi.get_global_func("runtime.TVMTensorAllocWithScope")
        return allocate(
            tvm_ffi.Shape(shape),
            tvm_ffi.dtype(dtype),
            tvm_ffi.device(self.kind, self.number),
            None,
        )

    def prepare(self, module: Any) -> None:
        """Compile an artifact's kernels for the device, where that is done by its driver."""
        if self.kind != OPENCL:
            return
        if module.kind == OPENCL:
            module["opencl.build"](self.number)
        for imported in module.imports:
            self.prepare(imported)

    def start_timer(self) -> Callable[[], float]:
        """Return a function that ends the time which starts now, and returns it in seconds.

        On a GPU it is the time that its kernels took, where the driver tells; else what has passed
        on this machine until the device was done.
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
        """Return when all that it was given is done."""
        import tvm_ffi

        if not self.is_cpu:
            wait = tvm_ffi.get_global_func("runtime.Device_StreamSync")
            wait(tvm_ffi.device(self.kind, self.number), 0)


def open_device(kind: str, wanted: int | str | None = None) -> Device:
    """Make a device ready.

    Parameters
    ----------
    kind : str
        What an artifact's metadata call its target's kind.
    wanted : int or str, optional
        Which one, where there are several: its number or a part of its name.

    Returns
    -------
    Device
        TVM's runtime is loaded and has what that kind needs.

    Raises
    ------
    UserError
        If the kind is unknown, or this machine has no such device or lacks what drives it.
    """
    if kind == CPU:
        load_runtime()
        return Device()
    if kind not in _NUMBERS:
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
    """Refuse a GPU that this process has from the one that forked it: its driver would hang.

    Raises
    ------
    UserError
        If that is so.
    """
    if _openers.get(kind, os.getpid()) != os.getpid():
        raise UserError(
            f"this process was forked from one that uses {kind}, whose driver does not survive "
            "that; start it anew (multiprocessing: the method 'spawn')"
        )


def copy(source: Any, destination: Any) -> None:
    """Copy one tensor into another; what is on the device is there when its turn comes."""
    import tvm_ffi

    tvm_ffi.get_global_func("runtime.TVMTensorCopyFromTo")(source, destination)
