"""Compiles the plug-in with this machine's C++ compiler and the headers in TVM's wheels."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mobilenet_tvm.runtime.atomic import replacing
from mobilenet_tvm.runtime.folders import cache_folder
from mobilenet_tvm.runtime.library import find_runtime_library
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.host import architecture

#: TVM's headers that the plug-in includes; the others are tvm-ffi's.
HEADERS = ("tvm/runtime/base.h", "tvm/runtime/device_api.h")

_FOLDER = Path(__file__).parent
_COMPILE = ("-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-w", "-c")
_LINK = ("-shared", "-s", "-pthread", "-ldl")
_COMPILERS = ("c++", "g++", "clang++")


def plugin_path() -> Path:
    """Return the path at which `build` stores the plug-in for this version of TVM.

    Returns
    -------
    Path
        In the user's cache folder. The name depends on TVM, tvm-ffi, the plug-in's sources and the
        architecture. It does not depend on the compiler, since they all produce the same interface:
        a plug-in still works after the compiler was removed.

    Raises
    ------
    UserError
        If TVM or its headers are missing.
    """
    import tvm_ffi

    digest = hashlib.sha256(f"{tvm_ffi.__version__} {_COMPILE} {_LINK}".encode())
    folder = tvm_headers()
    for file in (*_sources(), *sorted(_FOLDER.glob("*.h")), *(folder / name for name in HEADERS)):
        digest.update(file.read_bytes())
    name = f"plug-in-tvm-{tvm_version()}-{architecture()}-{digest.hexdigest()[:16]}.so"
    return cache_folder() / "opencl" / name


def tvm_version() -> str:
    """Return the version of TVM's headers, such as ``0.27.0``."""
    text = (tvm_headers() / HEADERS[0]).read_text(encoding="utf-8")
    found = re.search(r'#define TVM_VERSION "(.+)"', text)
    if found is None:
        raise UserError(
            f"{tvm_headers() / HEADERS[0]}: names no version; run: "
            "pip install --force-reinstall apache-tvm==0.27.0.post1"
        )
    return found[1]


def build(compiler: Sequence[str] | None = None, output: Path | None = None) -> Path:
    """Compile the plug-in, even if it exists.

    Parameters
    ----------
    compiler : sequence of str, optional
        A C++ compiler's command. Default: `find_compiler`.
    output : Path, optional
        The file to write. Default: `plugin_path`.

    Returns
    -------
    Path
        The shared library. It appears in one step, so several processes may build at once.

    Raises
    ------
    UserError
        If there is no compiler, if it fails, or if headers are missing.
    """
    command = list(compiler or find_compiler())
    output = output or plugin_path()
    includes = [f"-I{folder}" for folder in (tvm_headers(), _ffi_headers())]
    try:
        with replacing(output) as library:
            objects = [library.with_name(f"{source.stem}.o") for source in _sources()]
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                commands = [
                    [*command, *_COMPILE, *includes, str(source), "-o", str(made)]
                    for source, made in zip(_sources(), objects, strict=True)
                ]
                list(pool.map(_run, commands))
            _run([*command, *map(str, objects), *_LINK, "-o", str(library)])
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror})") from None
    return output


def find_compiler() -> list[str]:
    """Return the C++ compiler's command: the variable ``CXX``, or one that is installed.

    Raises
    ------
    UserError
        If there is none.
    """
    given = shlex.split(os.environ.get("CXX", ""))
    if given:
        if shutil.which(given[0]) is None:
            raise UserError(f"no C++ compiler '{given[0]}', which CXX names; correct CXX")
        return given
    for name in _COMPILERS:
        if shutil.which(name):
            return [name]
    raise UserError(
        f"no C++ compiler ({', '.join(_COMPILERS)}) to build the OpenCL plug-in; install one "
        "(Debian: apt install g++) or name one in CXX"
    )


def _sources() -> list[Path]:
    return sorted(_FOLDER.glob("*.cc"))


def tvm_headers() -> Path:
    """Return the folder with TVM's headers.

    Raises
    ------
    UserError
        If there is none.
    """
    # They must be those of the library in use: beside it in a wheel, beside this file in a bundle.
    for folder in (_FOLDER / "include", find_runtime_library().parent.parent / "include"):
        if all((folder / name).is_file() for name in HEADERS):
            return folder
    raise UserError(
        "TVM's headers, with which the OpenCL plug-in is built, are missing; run: "
        "pip install apache-tvm==0.27.0.post1"
    )


def _ffi_headers() -> Path:
    import tvm_ffi

    folder = Path(tvm_ffi.__file__).parent / "include"
    if not (folder / "tvm/ffi/object.h").is_file():
        raise UserError(
            f"tvm-ffi's headers are missing from {folder}; run: "
            "pip install --force-reinstall apache-tvm-ffi"
        )
    return folder


def _run(command: Sequence[str]) -> None:
    try:
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(
            f"{command[0]}: cannot be started ({error.strerror}); correct CXX"
        ) from None
    if finished.returncode:
        lines = finished.stderr.strip().splitlines()
        reason = next((line for line in lines if "error" in line), lines[-1] if lines else "")
        raise UserError(
            f"{command[0]} cannot build the OpenCL plug-in ({reason.strip()}); "
            "set CXX to another C++ compiler"
        )
