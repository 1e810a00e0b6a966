"""Compiles LLVM's textual IR into object files."""

from __future__ import annotations

import os
from pathlib import Path

import tvm


def write_object(ir: str, path: str | Path) -> None:
    """Write an ELF object file.

    Parameters
    ----------
    ir : str
        A module in LLVM's textual form, with its target triple.
    path : str or Path
        The ``.o`` to write.
    """
    descriptor = os.memfd_create("module.ll")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(ir)
        file.flush()
        load = tvm.get_global_func("ffi.Module.load_from_file.ll")
        load(f"/proc/self/fd/{descriptor}", "ll").write_to_file(str(path), "o")
