"""Builds C programs that run compiled models, with the system's compiler or zig's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
from set_up import cache_folder

FOLDER = Path(__file__).with_name("c")

WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic"]


def model_macros(prefix: str) -> list[str]:
    """Return the options by which a program takes a model's header and names."""
    return [
        f'-DMODEL_HEADER="{prefix}.h"',
        f"-DMODEL(name)={prefix}_##name",
        f"-DCONSTANT(name)={prefix.upper()}_##name",
    ]


def parts_of_program(name: str, model: Path) -> list[str | Path]:
    """Return what a compiler takes for one of the programs with the static model in a folder."""
    sources = [FOLDER / f"{name}.c", f"-I{model}", model / "libmodel.a"]
    wrapped = "-Wl,--wrap=pthread_create,--wrap=posix_memalign"
    options = ["-std=gnu11", *WARNINGS, *model_macros("model")]
    options += [wrapped] if name == "hostile_system" else []
    return [*options, *sources, "-pthread", "-lm"]


def execute(command: Sequence[str | Path], timeout: float = 900) -> str:
    """Return what a command prints; it has to succeed within a time in seconds."""
    # Zig compiles the C library once for each target.
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(cache_folder() / "zig")}
    result = subprocess.run(
        list(map(str, command)),
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert result.returncode == 0, (result.returncode, result.stderr)
    return result.stdout


def build(command: Sequence[str | Path], output: Path) -> Path:
    """Run a compiler without its warnings or errors, and return the program that it makes."""
    execute([*command, "-o", output])
    return output


def run_model(
    program: Path, threads: int, array: npt.NDArray[Any], folder: Path, *emulator: str | Path
) -> bytes:
    """Return the output of a program that was built from run_model.c.

    Parameters
    ----------
    program
        It runs the model on several contexts, and compares what they compute.
    threads
        How many threads each context has.
    array
        The input.
    folder
        For the program's files.
    emulator
        The words of the command before the program.
    """
    given, found = folder / "input.bin", folder / "output.bin"
    array.tofile(given)
    execute([*emulator, program, str(threads), given, found])
    return found.read_bytes()
