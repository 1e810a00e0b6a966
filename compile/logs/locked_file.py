"""Text files that several processes may write at once: locked, by whole lines, or replaced."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mobilenet_tvm.runtime.atomic import replacing
from mobilenet_tvm.runtime.files import require_ordinary


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other writers out of a folder; the kernel releases the lock if the process ends.

    Parameters
    ----------
    folder : Path
        An existing folder. The lock is on the folder itself, so that no lock file stays behind.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def check_writable(path: Path) -> None:
    """Check that lines can be appended to a file, and that it can be replaced.

    Parameters
    ----------
    path : Path
        The file, which need not exist; its folder is created if it is missing.

    Raises
    ------
    OSError
        If they cannot.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass
    if path.exists():
        require_ordinary(path)
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND))


def append_line(path: Path, line: str) -> None:
    """Append a line to a file, completely or not at all.

    Parameters
    ----------
    path : Path
        The file; it and its folder are created if they are missing.
    line : str
        Without a line end.

    Raises
    ------
    OSError
        If it cannot be written; the file is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent):
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            # A writer that was killed may have left half a line.
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            rest = ("\n" * torn + line + "\n").encode()
            try:
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)


def replace_text(path: Path, text: str) -> None:
    """Replace the content of a file in one step; call it with the folder locked.

    Parameters
    ----------
    path : Path
        The file to create or to replace; its permissions stay.
    text : str
        The whole content.

    Raises
    ------
    OSError
        If it cannot be written; the file is then as it was.
    """
    with replacing(path) as new:
        with new.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, new)
