"""Builds C programs that run compiled models, with the system's compiler or zig's."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from set_up import cache_folder

from mobilenet_tvm.compile.codegen.linker import zig

FOLDER = Path(__file__).with_name("c")

WARNINGS = ["-Wall", "-Wextra", "-Werror", "-pedantic"]


def reason() -> str | None:
    """Return why the system's compiler cannot build programs; None if it can."""
    return None if shutil.which("gcc") and shutil.which("g++") else "no gcc and g++ here"


def model_macros(prefix: str) -> list[str]:
    """Return the options by which a program takes a model's header and names."""
    return [
        f'-DMODEL_HEADER="{prefix}.h"',
        f"-DMODEL(name)={prefix}_##name",
        f"-DCONSTANT(name)={prefix.upper()}_##name",
    ]


def zig_cc(triple: str) -> list[str]:
    """Return the command of a cross compiler, which links statically."""
    return [str(zig()), "cc", "-target", triple, "-static"]


def build(command: Sequence[str | Path], output: Path) -> Path:
    """Run a compiler, of which neither warnings nor errors are expected.

    Parameters
    ----------
    command
        The compiler, its options, sources and libraries.
    output
        The program.
    """
    # Zig compiles the C library once for each target.
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(cache_folder() / "zig")}
    words = [*map(str, command), "-o", str(output)]
    result = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return output
