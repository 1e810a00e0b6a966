"""The user's folders for this project, by the XDG Base Directory Specification."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from mobilenet_tvm.targets.errors import UserError

_NAME = "mobilenet-tvm"

#: Default limit of a folder that `prune` keeps small, in bytes.
_MAX_BYTES = 256 << 20


def cache_folder() -> Path:
    """Return the folder for what can be fetched or made again; it may not exist yet.

    Raises
    ------
    UserError
        If the user has no home folder, and ``XDG_CACHE_HOME`` is not set.
    """
    return _folder("XDG_CACHE_HOME", ".cache")


def data_folder() -> Path:
    """Return the folder for what the user's work has produced; it may not exist yet.

    Raises
    ------
    UserError
        If the user has no home folder, and ``XDG_DATA_HOME`` is not set.
    """
    return _folder("XDG_DATA_HOME", ".local/share")


def prune(folder: Path, max_bytes: int = _MAX_BYTES) -> None:
    """Remove the least recently used files until the others fit into a limit.

    Parameters
    ----------
    folder : Path
        Its files' modification times are those of their last use. Other processes may remove some
        meanwhile.
    max_bytes : int
        Limit of all files together.
    """
    files = []
    # Also those that a process left in a scratch folder when it was killed.
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                files.append((status.st_mtime, status.st_size, path))
    total = 0
    for _, size, path in sorted(files, reverse=True):
        total += size
        if total > max_bytes:
            path.unlink(missing_ok=True)


def _folder(variable: str, default: str) -> Path:
    # The specification says to ignore a relative path.
    given = Path(os.environ.get(variable, ""))
    try:
        return (given if given.is_absolute() else Path.home() / default) / _NAME
    except RuntimeError:
        raise UserError(f"no home folder; set {variable} to a folder's absolute path") from None
