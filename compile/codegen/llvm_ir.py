"""Compiles LLVM's textual IR into object files."""

from __future__ import annotations

from pathlib import Path

import tvm


def write_object(ir: str, path: str | Path) -> None:
    """Write an ELF object file.

    Parameters
    ----------
    ir : str
        A module in LLVM's textual form, with its target triple.
    path : str or Path
        The ``.o`` to write; the module is written beside it meanwhile.
    """
    source = Path(path).with_suffix(".ll")
    source.write_text(ir, encoding="utf-8")
    tvm.get_global_func("ffi.Module.load_from_file.ll")(str(source), "ll").write_to_file(
        str(path), "o"
    )
    source.unlink()
