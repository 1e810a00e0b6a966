"""Object files in memory, since LLVM ends the process where it cannot write one to a full disk."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

#: What TVM calls the object files that it writes when it exports a library: code and data.
EXPORTED = ("lib0.o", "devc.o")


#: Where Linux shows this process's open files.
_OPEN_FILES = Path("/proc/self/fd")


class ObjectFiles:
    """Files that are in memory as long as the context lasts, by links in a folder.

    Parameters
    ----------
    folder : Path
        Where the links are; the caller removes it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._descriptors = ExitStack()

    def __enter__(self) -> ObjectFiles:
        """Return the object itself, with the files that TVM writes when it exports a library."""
        for name in EXPORTED:
            self.make(name)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Release the memory."""
        self._descriptors.close()

    def make(self, name: str) -> Path:
        """Return the path of a new file, which child processes can read too.

        Where ``/proc`` is not mounted, it is an ordinary one in the folder.
        """
        path = self.folder / name
        if not _OPEN_FILES.is_dir():
            return path
        descriptor = os.memfd_create(name)
        self._descriptors.callback(os.close, descriptor)
        path.symlink_to(f"/proc/{os.getpid()}/fd/{descriptor}")
        return path
