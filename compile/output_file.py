"""Checks that a file can be written, before the work on it starts."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

from mobilenet_tvm.targets.errors import UserError, WrongUseError


def prepare_output(path: Path, *inputs: object) -> None:
    """Check that a file can be made or replaced, and make its folder where it is missing.

    Parameters
    ----------
    path : Path
        The file.
    *inputs
        What the work reads, of which paths of files must not be the output's.

    Raises
    ------
    UserError
        If the folder cannot be made or written to, or the path is a folder, a link, a device or a
        pipe, which must not be replaced by a file.
    WrongUseError
        If it is one of the inputs.
    """
    try:
        _write_into(path.parent)
        kind = _kind(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be written ({_reason(error)}); choose another with --output"
        ) from None
    if kind:
        example = f", such as {path / ('v2' + (path.suffix or '.so'))}" if path.is_dir() else ""
        raise UserError(
            f"{path}: cannot be written; it is {kind}; give the name of a file{example}"
        )
    for given in inputs:
        if isinstance(given, str | Path) and _is_same(path, Path(given)):
            raise WrongUseError(f"{path}: is read too; choose another with --output")


def prepare_folder(folder: Path, *names: str) -> None:
    """Check that files can be made or replaced in a folder, which is made where it is missing.

    Parameters
    ----------
    folder : Path
        The folder.
    *names : str
        The files' names.

    Raises
    ------
    UserError
        If it cannot be made or written to, or has a folder, a link, a device or a pipe of such a
        name.
    """
    try:
        _write_into(folder)
        kinds = {name: _kind(folder / name) for name in names}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: cannot be used as a folder ({_reason(error)}); choose another with --output"
        ) from None
    for name, kind in kinds.items():
        if kind:
            raise UserError(
                f"{folder / name}: cannot be written; it is {kind}; choose another folder with "
                "--output"
            )


def _write_into(folder: Path) -> None:
    """Make a folder where it is missing, and a file in it for a moment."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _kind(path: Path) -> str:
    """Return what a path is, in words: nothing if it can be made, or replaced as a file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return ""
    kinds = {stat.S_IFREG: "", stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link"}
    return kinds.get(stat.S_IFMT(mode), "a device or a pipe")


def _reason(error: OSError | ValueError) -> str:
    return str(error.strerror if isinstance(error, OSError) else error)


def _is_same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False
