"""The folder for what can be fetched or made again."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

#: What a folder may hold, in bytes, when nothing else is said.
_MOST = 256 << 20


def cache_folder() -> Path:
    """Return this project's folder in the user's cache folder; it may not exist yet."""
    # The XDG Base Directory Specification says to ignore a relative path.
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "mobilenet-tvm"


def prune(folder: Path, most: int = _MOST) -> None:
    """Remove the files that were not used for longest, until the others are small enough.

    Parameters
    ----------
    folder : Path
        Its files' times are those of their last use; another process may remove some meanwhile.
    most : int
        Bytes of all files together.
    """
    files = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            files.append((status.st_mtime, status.st_size, path))
    total = 0
    for _, size, path in sorted(files, reverse=True):
        total += size
        if total > most:
            path.unlink(missing_ok=True)
