"""Writes an artifact's metadata as an object file for the linker."""

from __future__ import annotations

from pathlib import Path

from mobilenet_tvm.compile.codegen.llvm_ir import write_object
from mobilenet_tvm.runtime.metadata import SECTION, Metadata

# `llvm.used` marks the section as retained, so that linkers do not discard it as unused.
_IR = """\
target triple = "{triple}"
@metadata = internal constant [{size} x i8] c"{text}", section "{section}", align 1
@llvm.used = appending global [1 x ptr] [ptr @metadata], section "llvm.metadata"
"""


def write_metadata_object(metadata: Metadata, triple: str, path: str | Path) -> None:
    """Write an ELF object file with the metadata in its section `.mobilenet_tvm`.

    Parameters
    ----------
    metadata : Metadata
        The artifact's metadata.
    triple : str
        The artifact's LLVM target triple, such as ``"aarch64-linux-gnu"``.
    path : str or Path
        The ``.o`` to write; its source, in LLVM's language, is left beside it.
    """
    text = metadata.to_json().encode()
    ir = _IR.format(
        triple=triple,
        size=len(text),
        text="".join(f"\\{byte:02X}" for byte in text),
        section=SECTION,
    )
    write_object(ir, path)
