"""Files that tests compile and keep for the next run, named by a hash of what they come from."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from set_up import cache_folder

#: Files in the folder, of about 50 KB each; those not used for the longest time go first.
MAX_FILES = 4000


def kept(sources: Iterable[str], suffix: str, make: Callable[[Path], None]) -> Path:
    """Return a file, which is made unless one of the same sources is there.

    Parameters
    ----------
    sources
        Texts on which its content depends.
    suffix
        Its name's end, ``.so``.
    make
        Writes it to the path that it is given.
    """
    name = hashlib.sha256("\0".join(sources).encode()).hexdigest() + suffix
    path = _folder() / name
    if path.exists():
        # What was used last stays longest.
        with suppress(OSError):
            path.touch()
        return path
    # Another process may make it too, or clear up: a file comes and goes as a whole.
    with TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch) / name
        make(made)
        made.replace(path)
    _clear_up(path.parent)
    return path


def _folder() -> Path:
    folder = cache_folder() / "tests"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK) else Path(_scratch().name)


@functools.cache
def _scratch() -> TemporaryDirectory[str]:
    """Return a folder for this process alone, for where the cache cannot be written."""
    return TemporaryDirectory(prefix="mobilenet-tvm-tests-")


def _clear_up(folder: Path) -> None:
    files = [path for path in folder.iterdir() if path.is_file()]
    if len(files) > MAX_FILES:
        with suppress(OSError):
            files.sort(key=lambda path: path.stat().st_mtime)
            for path in files[: MAX_FILES // 10]:
                path.unlink(missing_ok=True)
