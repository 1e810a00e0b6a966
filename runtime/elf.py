"""Reads the headers of 64-bit ELF shared libraries, and detects damaged ones."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mobilenet_tvm.runtime.files import require_ordinary
from mobilenet_tvm.targets.errors import UserError

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")

_ET_DYN = 3
_SHT_NOBITS = 8
_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}


@dataclass(frozen=True)
class SharedLibrary:
    """An ELF shared library, as `read_elf` describes it.

    Parameters
    ----------
    path : Path
        The file.
    architecture : str
        The architecture of its code, as `targets.host.architecture` names it.
    sections : dict of str to (int, int)
        Offset and size in bytes of each section that has contents, by name.
    """

    path: Path
    architecture: str
    sections: dict[str, tuple[int, int]]

    def section(self, name: str) -> bytes | None:
        """Return a section's contents, or None if there is no such section."""
        if name not in self.sections:
            return None
        offset, size = self.sections[name]
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)


def read_elf(path: Path) -> SharedLibrary:
    """Read an ELF shared library's headers, and check that the file holds all that they describe.

    Parameters
    ----------
    path : Path
        The file; only its headers are read.

    Returns
    -------
    SharedLibrary
        Its architecture and sections.

    Raises
    ------
    UserError
        If the file cannot be read, is not a 64-bit little-endian ELF shared library, or is
        truncated or damaged.

    References
    ----------
    System V Application Binary Interface, chapters 4 and 5 (the gABI), edition 4.1.
    """
    try:
        require_ordinary(path)
        with path.open("rb") as file:
            return _read(path, file, path.stat().st_size)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the .so that 'compile' wrote") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _read(path: Path, file: BinaryIO, file_size: int) -> SharedLibrary:
    header = file.read(_HEADER.size)
    if header[:4] != b"\x7fELF":
        raise UserError(f"{path}: not an ELF file; give the .so that 'compile' wrote")
    if len(header) < _HEADER.size:
        raise _truncated(path)
    (identity, kind, machine, _, _, segments_at, sections_at, _, _, *counts) = _HEADER.unpack(
        header
    )
    segment_size, segment_count, section_size, section_count, names_index = counts
    if (identity[4], identity[5]) != (2, 1):
        raise UserError(f"{path}: not a 64-bit little-endian library; compile it with this project")
    if kind != _ET_DYN:
        raise UserError(
            f"{path}: an ELF file, but not a shared library; give the .so that 'compile' wrote"
        )
    if segment_count and segment_size != _SEGMENT.size:
        raise _damaged(path)
    if section_count and section_size != _SECTION.size:
        raise _damaged(path)

    def table(offset: int, count: int, layout: struct.Struct) -> list[tuple[int, ...]]:
        if offset + count * layout.size > file_size:
            raise _truncated(path)
        file.seek(offset)
        return list(layout.iter_unpack(file.read(count * layout.size)))

    segments = table(segments_at, segment_count, _SEGMENT)
    sections = table(sections_at, section_count, _SECTION)
    extents = [(offset, size) for _, _, offset, _, _, size, _, _ in segments]
    extents += [(entry[4], entry[5]) for entry in sections if entry[1] != _SHT_NOBITS]
    if any(offset + size > file_size for offset, size in extents):
        raise _truncated(path)

    found = {}
    if sections:
        if names_index >= section_count:
            raise _damaged(path)
        file.seek(sections[names_index][4])
        names = file.read(sections[names_index][5])
        for name_at, section_kind, _, _, offset, size, *_ in sections:
            name = names[name_at:].partition(b"\0")[0].decode("ascii", "replace")
            if section_kind != _SHT_NOBITS:
                found[name] = (offset, size)
    return SharedLibrary(path, _MACHINES.get(machine, f"ELF machine {machine}"), found)


def _truncated(path: Path) -> UserError:
    return UserError(f"{path}: truncated; copy the file or compile the model again")


def _damaged(path: Path) -> UserError:
    return UserError(f"{path}: damaged; copy the file or compile the model again")
