"""Reads files that users name, which may be devices, pipes or no paths at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def require_ordinary(path: Path) -> None:
    """Refuse what might never end or never begin when it is read, such as a pipe or a device.

    Parameters
    ----------
    path : Path
        What is to be opened; links are followed.

    Raises
    ------
    OSError
        If there is no such file, or it is no ordinary one.
    """
    try:
        mode = path.stat().st_mode
    except ValueError as error:
        raise OSError(errno.EINVAL, f"not a path: {error}") from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "a device or a pipe, not an ordinary file")


def read_ordinary(path: Path) -> bytes:
    """Return an ordinary file's contents; see `require_ordinary`."""
    require_ordinary(path)
    return path.read_bytes()
