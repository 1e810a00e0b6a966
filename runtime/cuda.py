"""Loads TVM's CUDA runtime, part of the package `tvm`, and finds CUDA devices."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import threading
from collections.abc import Callable
from pathlib import Path

from mobilenet_tvm.runtime.cuda_code import decode_on_load
from mobilenet_tvm.runtime.library import CUDA_LIBRARY, find_runtime_library, load_runtime
from mobilenet_tvm.targets.errors import UserError

# DLPack's kDLCUDA, and TVM's kExist and kDeviceName.
_CUDA, _EXISTS, _NAME = 2, 0, 5

_lock = threading.Lock()


def load_cuda() -> None:
    """Add CUDA to TVM's runtime in this process, once.

    Raises
    ------
    UserError
        If the library, CUDA's own runtime library or NVIDIA's driver is missing.
    """
    load_runtime()
    import tvm_ffi

    with _lock:
        if tvm_ffi.get_global_func("device_api.cuda", allow_missing=True) is not None:
            return
        library = find_runtime_library().with_name(CUDA_LIBRARY)
        if not library.is_file():
            raise UserError(
                f"TVM's CUDA runtime ({CUDA_LIBRARY}) is missing; run: "
                "pip install apache-tvm==0.27.0.post1"
            )
        _load_cuda_runtime()
        try:
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
        except OSError as error:
            missing = str(error).split(":")[0]
            if missing.startswith("libcudart"):
                fix = "run: pip install nvidia-cuda-runtime"
            else:
                fix = "install NVIDIA's driver"
            raise UserError(f"this machine has no {missing}, which CUDA needs; {fix}") from None
        decode_on_load()


def find_device(wanted: int | str | None = None) -> tuple[int, str]:
    """Return the number and the name of a CUDA device.

    Parameters
    ----------
    wanted : int or str, optional
        Its number, or part of its name. Default: the first device.

    Raises
    ------
    UserError
        If there is no such device.
    """
    load_cuda()
    import tvm_ffi

    attribute = tvm_ffi.get_global_func("runtime.GetDeviceAttr")
    names: list[str] = []
    while attribute(_CUDA, len(names), _EXISTS):
        names.append(str(attribute(_CUDA, len(names), _NAME)))
    for number, name in enumerate(names):
        if (
            wanted is None
            or str(wanted) == str(number)
            or (isinstance(wanted, str) and not wanted.isdigit() and wanted.lower() in name.lower())
        ):
            return number, name
    if not names:
        raise UserError("CUDA finds no GPU; check that nvidia-smi lists one")
    listed = ", ".join(f"{number} {name}" for number, name in enumerate(names))
    raise UserError(f"no CUDA device matches '{wanted}'; choose one of: {listed}")


def start_timer(number: int) -> Callable[[], float]:
    """Start timing a device's work.

    Parameters
    ----------
    number : int
        Its number; `load_cuda` must have been called.

    Returns
    -------
    callable
        Stops timing, and returns the seconds that the device's work since took.
    """
    runtime = ctypes.CDLL(None)
    events = (ctypes.c_void_p(), ctypes.c_void_p())

    def check(code: int) -> None:
        if code:
            raise UserError(f"CUDA cannot time device {number} (error {code})")

    def record(event: ctypes.c_void_p) -> None:
        # On the default stream, on which TVM launches kernels.
        check(runtime.cudaEventRecord(event, None))

    check(runtime.cudaSetDevice(number))
    for event in events:
        check(runtime.cudaEventCreate(ctypes.byref(event)))
    record(events[0])

    def stop() -> float:
        milliseconds = ctypes.c_float()
        record(events[1])
        check(runtime.cudaEventSynchronize(events[1]))
        check(runtime.cudaEventElapsedTime(ctypes.byref(milliseconds), *events))
        for event in events:
            check(runtime.cudaEventDestroy(event))
        return 1e-3 * milliseconds.value

    return stop


def _load_cuda_runtime() -> None:
    """Load CUDA's runtime library from NVIDIA's package, if that is installed."""
    package = importlib.util.find_spec("nvidia")
    for folder in (package.submodule_search_locations if package else None) or ():
        for library in Path(folder).glob("*/lib/libcudart.so.*"):
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
