"""The user's folders for this project, by the XDG Base Directory Specification."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import stat
import tempfile
from pathlib import Path

from mobilenet_tvm.targets.errors import UserError

_LOGGER = logging.getLogger(__name__)

_NAME = "mobilenet-tvm"

#: Default limit of a folder that `prune` keeps small, in bytes.
_MAX_BYTES = 256 << 20


def cache_folder() -> Path:
    """Return the folder for what can be fetched or made again; it may not exist yet.

    A user without a home folder that can be written, as in a container, has one among the temporary
    files, which a line of the log says.

    Raises
    ------
    UserError
        If there is no place for it.
    """
    with contextlib.suppress(UserError):
        folder = _folder("XDG_CACHE_HOME", ".cache")
        if _can_be_made(folder):
            return folder
    return _temporary_cache()


def data_folder() -> Path:
    """Return the folder for what the user's work has produced; it may not exist yet.

    Raises
    ------
    UserError
        If the user has no home folder that can be written, and ``XDG_DATA_HOME`` is not set.
    """
    return _folder("XDG_DATA_HOME", ".local/share")


def prune(folder: Path, max_bytes: int = _MAX_BYTES) -> None:
    """Remove the least recently used files, and large ones first, until others fit into a limit.

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
                size = status.st_size
                files.append((size <= max_bytes // 2, status.st_mtime, size, path))
    total = 0
    # One large file must not push out all others, so it comes after them.
    for _, _, size, path in sorted(files, reverse=True):
        if total + size > max_bytes:
            path.unlink(missing_ok=True)
        else:
            total += size


def _can_be_made(folder: Path) -> bool:
    """Return whether this user may write a folder, or make it."""
    existing = next((each for each in (folder, *folder.parents) if each.exists()), None)
    return existing is not None and existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


@functools.cache
def _temporary_cache() -> Path:
    """Make a folder for this user alone, since code in it is run."""
    folder = Path(tempfile.gettempdir()) / f"{_NAME}-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be made ({error.strerror}); set XDG_CACHE_HOME to a folder that can "
            "be written"
        ) from None
    private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    if not private or status.st_uid != os.getuid():
        raise UserError(
            f"{folder}: open to other users; set XDG_CACHE_HOME to a folder that can be written"
        )
    _LOGGER.warning(
        "warning: no home folder that can be written; files are cached in %s; set XDG_CACHE_HOME "
        "to keep them elsewhere",
        folder,
    )
    return folder


def _folder(variable: str, default: str) -> Path:
    # The specification says to ignore a relative path.
    given = Path(os.environ.get(variable, ""))
    if given.is_absolute():
        return given / _NAME
    with contextlib.suppress(RuntimeError):
        home = Path.home()
        if home.is_absolute() and _can_be_made(home):
            return home / default / _NAME
    raise UserError(
        f"no home folder that can be written; set {variable} to a folder's absolute path"
    )
