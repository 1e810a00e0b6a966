"""What the set-ups of parts for the tests share, beside what the package has for its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from mobilenet_tvm.compile.tuning.emulated.set_up import (
    Say,
    SetUpError,
    complaint,
    execute,
    make_once,
    only_one,
    program,
    unpacked_packages,
)

__all__ = [
    "Say",
    "SetUpError",
    "cache_folder",
    "complaint",
    "execute",
    "make_once",
    "only_one",
    "opencl_platform",
    "program",
    "set_up_or_say_why",
    "unpacked_packages",
]


def cache_folder() -> Path:
    """Return mobilenet-tvm's folder in the user's cache folder."""
    # The XDG Base Directory Specification says to ignore a relative path.
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "mobilenet-tvm"


def opencl_platform(environment: Mapping[str, str], mend: str) -> str:
    """Return the name of the first OpenCL driver that a program with an environment finds.

    Parameters
    ----------
    environment
        Variables beside this process's.
    mend
        What to do where there is none.
    """
    code = (
        "import ctypes; cl = ctypes.CDLL('libOpenCL.so.1'); count = ctypes.c_uint(); "
        "cl.clGetPlatformIDs(0, None, ctypes.byref(count)); "
        "platforms = (ctypes.c_void_p * count.value)(); "
        "cl.clGetPlatformIDs(count, platforms, None); "
        "name = ctypes.create_string_buffer(200); "
        "cl.clGetPlatformInfo(ctypes.c_void_p(platforms[0]), 0x0901, 200, name, None); "
        "print(name.value.decode())"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        raise SetUpError(f"its driver does not work ({complaint(finished)}): {mend}")
    return finished.stdout.strip()


def set_up_or_say_why(command: str, set_up: Callable[[Say], None]) -> int:
    """Set a part up for a command, which prints what is done; return its exit status."""
    try:
        set_up(_print_line)
    except (SetUpError, OSError) as error:
        sys.stderr.write(f"{command}: {error}\n")
        return 1
    return 0


def _print_line(line: str) -> None:
    """Print a line at once, though the output may be a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
