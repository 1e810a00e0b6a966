"""PoCL, an OpenCL driver for this machine's CPU, on which the tests run kernels.

``python tests/helpers/pocl.py`` sets it up, without root and without touching the
system: everything lies in ``mobilenet-tvm`` in the user's cache folder.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from set_up import (
    Say,
    SetUpError,
    cache_folder,
    execute,
    make_once,
    opencl_platform,
    program,
    set_up_or_say_why,
    unpacked_packages,
)

COMMAND = "python tests/helpers/pocl.py"

# The driver, and the loader that finds drivers; apt finds what else they need.
PACKAGES = ("pocl-opencl-icd", "ocl-icd-libopencl1")


@dataclass(frozen=True)
class Pocl:
    """Debian's PoCL in a folder of its own.

    Parameters
    ----------
    cache
        Folder under which it is kept; mobilenet-tvm's own by default.
    """

    cache: Path = field(default_factory=cache_folder)

    @property
    def folder(self) -> Path:
        """Folder that holds PoCL, the packages that it needs, and its compiled kernels."""
        return self.cache / "pocl"

    @property
    def root(self) -> Path:
        """Root file system with the packages."""
        return self.folder / "root"

    def reason(self) -> str | None:
        """Say why PoCL cannot be used, and the mend; None when it can."""
        if not self.root.exists():
            return f"PoCL, an OpenCL driver, is not there: run `{COMMAND}`"
        if shutil.which("ld") is None:
            return "PoCL links kernels with ld, which is missing: install binutils"
        return None

    def environment(self) -> dict[str, str]:
        """Return the environment variables by which OpenCL finds PoCL and no other driver.

        The system looks where the first says only as it starts a program; in this process `open`
        does that.
        """
        return {
            "LD_LIBRARY_PATH": str(self._libraries),
            "OCL_ICD_VENDORS": str(self.root / "etc/OpenCL/vendors"),
            "POCL_CACHE_DIR": str(self.folder / "kernels"),
        }

    def open(self) -> None:
        """Load PoCL's libraries into this process, so that OpenCL finds them."""
        driver = self._libraries / (self.root / "etc/OpenCL/vendors/pocl.icd").read_text().strip()
        loader = self._libraries / "libOpenCL.so.1"
        waiting = [
            library
            for root in (driver, loader)
            for library in [root, *self._needed(root)]
            if self._libraries in library.parents
        ]
        # A library can be loaded when those that it needs have been.
        while waiting:
            failed = []
            for library in reversed(waiting):
                try:
                    ctypes.CDLL(str(library))
                except OSError as error:
                    failed.insert(0, library)
                    reason = error
            if len(failed) == len(waiting):
                raise SetUpError(f"PoCL cannot be loaded: {reason}")
            waiting = failed

    def _needed(self, library: Path) -> list[Path]:
        """Return the libraries that one needs, near ones first."""
        finished = subprocess.run(
            [program("ldd"), str(library)],
            env=os.environ | self.environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        return [Path(path) for path in re.findall(r"=> (/\S+)", finished.stdout)]

    def set_up(self, say: Say) -> None:
        """Fetch PoCL if it is missing.

        Parameters
        ----------
        say
            Called with one line for each thing done.

        Raises
        ------
        SetUpError
            When it cannot be had.
        """
        make_once(self.root, "PoCL", "apt, 110 MB", self._make, say)
        mend = f"remove {self.folder} and run `{COMMAND}`"
        say(f"PoCL answers: {opencl_platform(self.environment(), mend)}")

    def _make(self, scratch: Path) -> Path:
        architecture = execute([program("dpkg"), "--print-architecture"]).strip()
        root = unpacked_packages(PACKAGES, architecture, scratch)
        self._name_driver(root)
        return root

    @property
    def _libraries(self) -> Path:
        # Not /lib, which has a C library: that must be the one this machine's programs start with.
        return next((self.root / "usr/lib").glob("*-linux-gnu"))

    def _name_driver(self, root: Path) -> None:
        """Let the loader's list of drivers name PoCL by its path."""
        (listed,) = (root / "etc/OpenCL/vendors").glob("*.icd")
        (driver,) = root.glob(f"usr/lib/*-linux-gnu/{listed.read_text().strip()}")
        listed.write_text(f"{self.root / driver.relative_to(root)}\n")


if __name__ == "__main__":
    sys.exit(set_up_or_say_why(COMMAND, Pocl().set_up))
