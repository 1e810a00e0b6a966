"""Loads artifacts and TVM's runtime library, without the `tvm` package's Python and compiler."""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import os
import re
import shutil
import threading
from pathlib import Path
from typing import Any

from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.host import permit_tiles

#: Files in TVM's wheel: its runtime, and that for NVIDIA GPUs.
RUNTIME_LIBRARY, CUDA_LIBRARY = "libtvm_runtime.so", "libtvm_runtime_cuda.so"

#: The series of tvm-ffi against which TVM 0.27's libraries are built, and its pip requirement.
_FFI_SERIES = (0, 1, 14)
FFI_REQUIREMENT = "apache-tvm-ffi>=0.1.14.post0,<0.1.15"

#: The series of TVM whose artifacts the runtime loads.
_TVM_SERIES = (0, 27)

# By default TVM pins threads, including the calling one, to the first cores, regardless of other
# processes and of the process's affinity: two processes with one thread each would share core 0.
# Its idle workers spin for 100 ms, at the expense of the app's other threads; 1 ms is enough to
# bridge the gap between two layers.
_ENVIRONMENT = {"TVM_BIND_THREADS": "0", "TVM_THREAD_POOL_SPIN_COUNT": "2000"}

_lock = threading.Lock()
_loads = itertools.count()


def load_runtime() -> None:
    """Load TVM's runtime into this process, once.

    It comes from the folder of this file, where a bundle has it, or else from the installed package
    `tvm`. A process that has imported `tvm` already has it.

    Raises
    ------
    UserError
        If tvm-ffi is missing or of another series, or there is no runtime library.
    """
    with _lock:
        try:
            import tvm_ffi
        except ImportError:
            raise UserError(
                f"tvm-ffi is not installed; run: pip install '{FFI_REQUIREMENT}'"
            ) from None
        if _series(tvm_ffi.__version__) != _FFI_SERIES:
            raise UserError(
                f"tvm-ffi {tvm_ffi.__version__} does not fit TVM's runtime; "
                f"run: pip install '{FFI_REQUIREMENT}'"
            )
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        # An artifact may use AMX; the permission is the process's.
        permit_tiles()
        if tvm_ffi.get_global_func("runtime.NumThreads", allow_missing=True) is None:
            ctypes.CDLL(str(find_runtime_library()), ctypes.RTLD_GLOBAL)


def check_version(version: str) -> None:
    """Make sure that the runtime loads what a version of TVM has compiled.

    Raises
    ------
    UserError
        If it does not.
    """
    if _series(version)[:2] != _TVM_SERIES:
        series = ".".join(map(str, _TVM_SERIES))
        raise UserError(
            f"compiled with TVM {version or 'of no version'}, and this mobilenet-tvm loads what "
            f"TVM {series} compiles; compile the model again with this version"
        )


def find_runtime_library() -> Path:
    """Return the path of TVM's runtime library for this machine.

    Returns
    -------
    Path
        Beside this file, or else in the installed package `tvm`, which is not imported.

    Raises
    ------
    UserError
        If it is in neither place.
    """
    spec = importlib.util.find_spec("tvm")
    installed = spec.submodule_search_locations if spec else None
    folders = [Path(__file__).parent, *(Path(root) / "lib" for root in installed or ())]
    for folder in folders:
        library = folder / RUNTIME_LIBRARY
        if library.is_file():
            return library.resolve()
    raise UserError(
        f"TVM's runtime library ({RUNTIME_LIBRARY}) is missing; run: pip install "
        "apache-tvm==0.27.0.post1, or use the folder that 'mobilenet-tvm bundle' makes"
    )


def load_artifact(path: Path, own_copy: bool = False) -> Any:
    """Load an artifact's code into this process, which must have loaded TVM's runtime.

    Parameters
    ----------
    path : Path
        The ``.so``, which must fit this machine.
    own_copy : bool
        Whether to share no data in memory with other loads of the file. Code for GPUs keeps the
        addresses of its kernels there, and would still call those of the first load after that
        is gone.

    Returns
    -------
    tvm_ffi.Module
        Unloaded when nothing refers to it any more.
    """
    import tvm_ffi

    path = path.resolve()
    descriptor = _copied(path) if own_copy else None
    if descriptor is not None:
        path = Path(f"/proc/self/fd/{descriptor}")
    # Called directly, because tvm_ffi.load_module goes by the file's suffix and never unloads it.
    load = tvm_ffi.get_global_func("ffi.Module.load_from_file.so")
    try:
        module = load(new_spelling(path), "so")
    finally:
        if descriptor is not None:
            os.close(descriptor)
    # Loading copied the weights twice; without this the heap keeps that memory, in fragments.
    ctypes.CDLL(None).malloc_trim(0)
    return module


def new_spelling(path: Path) -> str:
    """Return a path in a spelling that no call has returned.

    For a known path, dlopen returns the library that it loaded from there, even if the file has
    been replaced since. A different spelling for every load makes it open the file.
    """
    spelling = f"{next(_loads):b}".replace("0", "/").replace("1", "/.")
    path = path.absolute()
    return f"{path.parent}{spelling}/{path.name}"


def _copied(path: Path) -> int:
    """Return the descriptor of an in-memory file with the same contents."""
    descriptor = os.memfd_create(path.name)
    with path.open("rb") as source, open(descriptor, "wb", closefd=False) as destination:
        shutil.copyfileobj(source, destination, 1 << 20)
    return descriptor


def _series(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))
