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
        mode = _mode(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{path}: cannot be written ({reason}); choose another with --output"
        ) from None
    if stat.S_ISDIR(mode):
        raise UserError(
            f"{path}: cannot be written; it is a folder; give the name of a file, such as "
            f"{path / ('v2' + (path.suffix or '.so'))}"
        )
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "a device or a pipe"
        raise UserError(f"{path}: cannot be written; it is {kind}; give the name of a file")
    for given in inputs:
        if isinstance(given, str | Path) and _is_same(path, Path(given)):
            raise WrongUseError(f"{path}: is read too; choose another with --output")


def prepare_folder(folder: Path) -> None:
    """Check that files can be written into a folder, which is made where it is missing.

    Raises
    ------
    UserError
        If it cannot be made or written to.
    """
    try:
        _write_into(folder)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be used as a folder ({error.strerror}); choose another with --output"
        ) from None


def _write_into(folder: Path) -> None:
    """Make a folder where it is missing, and a file in it for a moment."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _mode(path: Path) -> int:
    """Return a path's mode, without following links: an ordinary file's if it does not exist."""
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return stat.S_IFREG


def _is_same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False
