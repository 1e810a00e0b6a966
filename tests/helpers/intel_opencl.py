"""Intel's OpenCL driver for x86-64 CPUs, on which the tests run kernels of float16.

PoCL takes none. ``python tests/helpers/intel_opencl.py`` sets it up, without root and
without touching the system: everything lies in ``mobilenet-tvm`` in the user's
cache folder. It is under Intel's End User License Agreement for Developer Tools.
"""

from __future__ import annotations

import fnmatch
import platform
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from set_up import (
    Say,
    cache_folder,
    execute,
    make_once,
    opencl_platform,
    set_up_or_say_why,
)

COMMAND = "python tests/helpers/intel_opencl.py"

VERSION = "2026.2.0"
#: What the driver needs of each wheel, which hold everything up to three times: 0.4 of 0.8 GB.
WHEELS = {
    f"intel-opencl-rt=={VERSION}": (
        "cl.cfg",
        "clbltfn*.rtl",
        "cllibrary*",
        "libOpenCL.so.1",
        "libcommon_clang.so.*",
        "libintelocl.so",
        "libocl_svml_*.so",
    ),
    f"intel-cmplr-lib-rt=={VERSION}": ("libimf.so", "libintlc.so.5", "libirng.so", "libsvml.so"),
    "tbb==2023.2.0": ("libtbb.so.12", "libtbbmalloc.so.2"),
}


@dataclass(frozen=True)
class IntelOpenCL:
    """The driver, and the loader that finds it, in a folder of their own.

    Parameters
    ----------
    cache
        Folder under which it is kept; mobilenet-tvm's own by default.
    """

    cache: Path = field(default_factory=cache_folder)

    @property
    def folder(self) -> Path:
        """Folder with the libraries."""
        return self.cache / "intel-opencl" / VERSION

    def reason(self) -> str | None:
        """Say why the driver cannot be used, and the mend; None when it can."""
        if platform.machine() != "x86_64":
            return f"Intel's OpenCL driver is for x86-64, and this machine is {platform.machine()}"
        if not self.folder.exists():
            return f"no OpenCL driver that takes float16 is there: run `{COMMAND}`"
        return None

    def environment(self) -> dict[str, str]:
        """Return the variables by which a program that starts finds this driver and no other."""
        return {"LD_LIBRARY_PATH": str(self.folder), "OCL_ICD_VENDORS": str(self.folder)}

    def set_up(self, say: Say) -> None:
        """Fetch the driver if it is missing.

        Parameters
        ----------
        say
            Called with one line for each thing done.

        Raises
        ------
        SetUpError
            When it cannot be had.
        """
        make_once(self.folder, "Intel's OpenCL driver", "pip, 270 MB", self._make, say)
        mend = f"remove {self.folder} and run `{COMMAND}`"
        say(f"it answers: {opencl_platform(self.environment(), mend)}")
        found_by = " ".join(f"{name}={value}" for name, value in self.environment().items())
        say(f"programs find it by {found_by}")

    def _make(self, scratch: Path) -> Path:
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        # 270 MB of which pip need not keep a copy.
        options = ["--no-cache-dir", "--no-deps", "--only-binary=:all:", "--dest", str(scratch)]
        execute([*pip, "download", *options, *WHEELS])
        made = scratch / "libraries"
        made.mkdir()
        for requirement, patterns in WHEELS.items():
            name = requirement.partition("==")[0].replace("-", "_")
            (wheel,) = scratch.glob(f"{name}-*.whl")
            with zipfile.ZipFile(wheel) as archive:
                for member in archive.namelist():
                    place = PurePosixPath(member)
                    if any(fnmatch.fnmatch(place.name, pattern) for pattern in patterns):
                        (made / place.name).write_bytes(archive.read(member))
        (made / "intel.icd").write_text(f"{self.folder / 'libintelocl.so'}\n")
        return made


if __name__ == "__main__":
    sys.exit(set_up_or_say_why(COMMAND, IntelOpenCL().set_up))
