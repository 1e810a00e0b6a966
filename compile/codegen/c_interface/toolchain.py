"""Compiles C for any target, with the compiler and C library headers in the package ziglang."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from mobilenet_tvm.compile.codegen.linker import zig
from mobilenet_tvm.targets.errors import UserError

#: Without what would need a library of the compiler's: a stack protector, and functions for atomic
#: operations on ARM.
_FLAGS = ["-std=gnu11", "-O2", "-fPIC", "-g0", "-fno-stack-protector"]
_ARM_FLAGS = ["-mno-outline-atomics"]


def compile_c(source: Path, triple: str, output: Path) -> None:
    """Compile a C or assembly file into an object file.

    Parameters
    ----------
    source : Path
        The file; files that it includes are beside it.
    triple : str
        The target triple, such as ``"aarch64-linux-gnu"``.
    output : Path
        The ``.o`` to write.

    Raises
    ------
    UserError
        If the package is missing, or the compiler fails, with the first error in its output.
    """
    flags = [*_FLAGS, *(_ARM_FLAGS if triple.startswith("aarch64") else [])]
    command = ["cc", "-target", triple, *flags, "-c", source.name, "-o", str(output.absolute())]
    run_zig(command, source.parent)


def run_zig(arguments: Sequence[str], folder: Path) -> None:
    """Run a command of zig's in a folder, which has its cache too.

    Raises
    ------
    UserError
        If it fails, with the first error in its output.
    """
    cache = str((folder / "zig-cache").absolute())
    result = subprocess.run(
        [str(zig()), *arguments],
        cwd=folder,
        env={**os.environ, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        lines = (result.stderr or result.stdout).strip().splitlines() or ["no output"]
        reason = next((line for line in lines if "error" in line), lines[0])
        raise UserError(f"zig {arguments[0]} failed: {reason}")
