"""Writes files whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mobilenet_tvm.runtime.scratch import scratch_folder


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Make or replace a file in one step, at the end of the context.

    Parameters
    ----------
    path : Path
        The file. Its folder is made where it is missing.

    Yields
    ------
    Path
        Where to write the new file: of the same name, in a scratch folder beside `path`, so that
        the last step is a rename within one file system. The scratch folder may hold other files
        too. It is removed in the end; after an exception `path` is as it was.

    Raises
    ------
    OSError
        If the folder cannot be made or written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(".mobilenet-tvm-new-", path.parent) as folder:
        scratch = folder / path.name
        yield scratch
        scratch.replace(path)
