"""Scratch folders that do not outlive their process, even if it is killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: Seconds before a folder may count as left behind.
_MIN_AGE = 60.0

#: This process's folders.
_open: set[Path] = set()


@contextmanager
def scratch_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Make a folder that is removed at the end of the context.

    Folders of the same prefix that processes left when they were killed are removed at the start:
    a process holds a lock on its folder, which the kernel releases with it.

    Parameters
    ----------
    prefix : str
        How the folder's name begins; nothing else in `parent` may have such a name.
    parent : Path, optional
        Where it is made. Default: the system's folder for temporary files.

    Yields
    ------
    Path
        The folder.

    Raises
    ------
    OSError
        If it cannot be made.
    """
    where = Path(tempfile.gettempdir()) if parent is None else parent
    for left in where.glob(f"{prefix}*"):
        _remove_if_left(left)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=where) as name:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            _open.add(Path(name))
            yield Path(name)
        finally:
            _open.discard(Path(name))
            os.close(descriptor)


def remove_all() -> None:
    """Remove this process's scratch folders, where it is going to end without leaving contexts."""
    for folder in list(_open):
        shutil.rmtree(folder, ignore_errors=True)


def _remove_if_left(folder: Path) -> None:
    """Remove a folder whose process has ended."""
    with suppress(OSError):
        # A younger one may belong to a process that is about to lock it.
        if time.time() - folder.stat().st_mtime < _MIN_AGE:
            return
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(descriptor)
