"""Loads the OpenCL plug-in into this process."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import threading
from pathlib import Path
from typing import Any

from mobilenet_tvm.runtime.folders import cache_folder, prune
from mobilenet_tvm.runtime.library import load_runtime
from mobilenet_tvm.runtime.opencl.build import build, plugin_path
from mobilenet_tvm.targets.errors import UserError

#: The plug-in in a bundle, built when the bundle was made.
PREBUILT = "plug-in.so"

_LOGGER = logging.getLogger(__name__)
_lock = threading.Lock()


def load_opencl() -> None:
    """Add OpenCL to TVM's runtime in this process, once; builds the plug-in if it is missing.

    A missing driver or device is reported only when one is used.

    Raises
    ------
    UserError
        If the plug-in cannot be built, or does not fit TVM's runtime.
    """
    load_runtime()
    with _lock:
        if not _has_opencl():
            _load()


def autoload() -> None:
    """Load the plug-in when `tvm` is imported, if it has been built: TVM's entry point.

    This never makes the import wait for a compiler, or fail.
    """
    with _lock, contextlib.suppress(UserError, OSError):
        if not _has_opencl() and (path := plugin_path()).is_file():
            _open(path)


def _load() -> None:
    prebuilt = Path(__file__).with_name(PREBUILT)
    if prebuilt.is_file():
        # It may have been built against newer system libraries.
        with contextlib.suppress(OSError):
            _open(prebuilt)
            return
    path = plugin_path()
    if not path.is_file():
        _LOGGER.info("building the OpenCL plug-in (10 s, once)")
        build()
    try:
        _open(path)
    except OSError as error:
        raise UserError(
            f"the OpenCL plug-in cannot be loaded ({error}); run: mobilenet-tvm opencl build"
        ) from None


def function(name: str) -> Any:
    """Return a function that the plug-in registers; None if another OpenCL is loaded."""
    import tvm_ffi

    return tvm_ffi.get_global_func(f"mobilenet_tvm.opencl.{name}", allow_missing=True)


def _has_opencl() -> bool:
    import tvm_ffi

    return tvm_ffi.get_global_func("device_api.opencl", allow_missing=True) is not None


def _open(path: Path) -> None:
    # Global, as TVM's own libraries are: exceptions pass from one to the other.
    ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    keep_programs_in = function("keep_programs_in")
    # Without that folder, kernels are compiled again in every process.
    with contextlib.suppress(OSError, UserError):
        folder = cache_folder() / "opencl" / "programs"
        folder.mkdir(parents=True, exist_ok=True)
        prune(folder)
        keep_programs_in(str(folder))
