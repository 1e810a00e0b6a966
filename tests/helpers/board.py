"""The emulated arm64 board of the tests: an arm64 Python under qemu-user.

``python tests/helpers/board.py`` sets it up, without root and without touching the
system: everything lies in ``mobilenet-tvm`` in the user's cache folder.
``python tests/helpers/board.py SCRIPT ARGUMENT...`` runs a Python script on it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from set_up import (
    Say,
    SetUpError,
    cache_folder,
    complaint,
    execute,
    only_one,
    program,
    set_up_or_say_why,
    unpacked_packages,
)

COMMAND = "python tests/helpers/board.py"

# numpy and libtvm_runtime need libstdc++; apt finds what else these need.
PYTHON_PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6")

# What pip takes for a glibc of 2.28 or later, which every supported Debian and Ubuntu has.
WHEEL_PLATFORMS = (
    *(f"manylinux_2_{minor}_aarch64" for minor in range(28, 16, -1)),
    "manylinux2014_aarch64",
)


@dataclass(frozen=True)
class Board:
    """An arm64 Linux machine with Python, numpy and tvm-ffi: what a bundle may assume.

    It shares files, processors and network with this machine; only user-space
    code is emulated. ``getauxval`` describes the emulated processor;
    /proc/cpuinfo does with qemu 10.0 but shows this machine's with 7.2.
    Durations measured on it say nothing about a real board.

    Parameters
    ----------
    cache
        Folder under which the board is kept; mobilenet-tvm's own by default.
    """

    cache: Path = field(default_factory=cache_folder)

    @property
    def folder(self) -> Path:
        """Folder that holds the board alone."""
        return self.cache / "board"

    @property
    def qemu(self) -> Path:
        """The emulator: the system's, else the board's own."""
        found = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
        return Path(found) if found else self.folder / "qemu-aarch64"

    @property
    def sysroot(self) -> Path:
        """Root file system with the arm64 libraries and Python."""
        return self.folder / "sysroot"

    @property
    def app(self) -> Path:
        """Virtual environment of an app: numpy and tvm-ffi on the arm64 Python."""
        ffi = _installed_version("apache-tvm-ffi")
        return self.folder / f"app-{self.python.name}-ffi{ffi}"

    @property
    def runtime_library(self) -> Path:
        """libtvm_runtime.so for aarch64, where ``mobilenet-tvm bundle`` keeps it too."""
        version = _installed_version("apache-tvm")
        return self.cache / "runtime" / version / "aarch64" / "libtvm_runtime.so"

    @property
    def python(self) -> Path:
        """The arm64 Python."""
        # python3 is a link to the version that the distribution has: python3.11, ...
        return (self.sysroot / "usr/bin/python3").resolve()

    def reason(self) -> str | None:
        """Say why the board cannot be used, and the mend; None when it can."""
        try:
            for name, _, path, _ in self._parts():
                if not path.exists():
                    return f"the arm64 board has no {name}: run `{COMMAND}`"
        except SetUpError as error:
            return str(error)
        return None

    def available(self) -> bool:
        """Whether the board can be used."""
        return self.reason() is None

    def python_wrapper(self, cpu: str = "cortex-a72") -> Path:
        """Return a program that is the board's Python, and its own ``sys.executable`` there.

        Parameters
        ----------
        cpu
            A CPU that this qemu knows (``qemu-aarch64 -cpu help``). Version 7.2
            has cortex-a35, -a53, -a57, -a72, -a76, neoverse-n1, a64fx and max;
            cortex-a55 came with 8.0.
        """
        wrapper = self.app / "bin" / f"python-{cpu}"
        command = (self.qemu, "-cpu", cpu, "-L", self.sysroot, "-0", wrapper, self.python)
        text = f'#!/bin/sh\nexec {shlex.join(map(str, command))} "$@"\n'
        if not wrapper.exists() or wrapper.read_text() != text:
            wrapper.parent.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=wrapper.parent, delete=False) as file:
                file.write(text)
            Path(file.name).chmod(0o700)
            Path(file.name).replace(wrapper)
        return wrapper

    def run(
        self,
        args: Sequence[str],
        *,
        cpu: str = "cortex-a72",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """Run the board's Python and capture its output.

        Parameters
        ----------
        args
            Arguments of Python.
        cpu
            See `python_wrapper`.
        env
            Environment variables of the program; it sees none of this process's.
        cwd
            Folder to run in.
        timeout
            Seconds after which the program is killed.

        Raises
        ------
        subprocess.TimeoutExpired
            When it took longer.
        """
        # qemu hands its own environment on; its option -E would split values at commas.
        return subprocess.run(
            [str(self.python_wrapper(cpu)), *args],
            env={"PATH": os.defpath, **(env or {})},
            cwd=cwd,
            timeout=timeout,
            capture_output=True,
            text=True,
        )

    def set_up(self, say: Say) -> None:
        """Fetch whatever part of the board is missing.

        Parameters
        ----------
        say
            Called with one line for each thing done.

        Raises
        ------
        SetUpError
            When a part cannot be had.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with only_one(self.folder, say):
            for leftover in self.folder.glob("unfinished-*"):
                say(f"removing what an interrupted set-up left: {leftover}")
                shutil.rmtree(leftover)
            made = [self._make(*part, say) for part in self._parts()]
        if any(made):
            say(f"the board answers: {self._greeting()}")
        else:
            say("the board is complete, nothing to do")

    def _parts(self) -> Iterator[tuple[str, str, Path, Callable[[Path], Path]]]:
        """Yield name, source, place and maker of each part; some need the ones before them.

        A maker works in the scratch folder that it is given and returns the finished
        part in it.
        """
        yield "qemu-user", "apt, 72 MB", self.qemu, self._make_qemu
        yield "arm64 Python", "apt, 25 MB", self.sysroot, self._make_sysroot
        yield "arm64 numpy and tvm-ffi", "pip, 20 MB", self.app, self._make_app
        yield (
            "arm64 libtvm_runtime",
            "pip, 95 MB",
            self.runtime_library,
            self._make_runtime_library,
        )

    def _make(
        self, name: str, source: str, path: Path, make: Callable[[Path], Path], say: Say
    ) -> bool:
        if path.exists():
            say(f"{name}: there, {path}")
            return False
        say(f"{name}: fetching it ({source})")
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=self.folder) as scratch:
            part = make(Path(scratch))
            path.parent.mkdir(parents=True, exist_ok=True)
            part.replace(path)
        say(f"{name}: done in {time.monotonic() - start:.1f} s, {path}")
        return True

    def _make_qemu(self, scratch: Path) -> Path:
        architecture = execute([program("dpkg"), "--print-architecture"]).strip()
        root = unpacked_packages(["qemu-user-static"], architecture, scratch)
        # Where it is the old name of the package qemu-user, this is a link into that.
        return (root / "usr/bin/qemu-aarch64-static").resolve()

    def _make_sysroot(self, scratch: Path) -> Path:
        root = unpacked_packages(PYTHON_PACKAGES, "arm64", scratch)
        if not (root / "lib").exists():
            # Where every library lies in /usr/lib, /lib is made by a package not needed here.
            (root / "lib").symlink_to("usr/lib")
        return root

    def _make_app(self, scratch: Path) -> Path:
        python = self.python
        app = scratch / "app"
        packages = app / "lib" / python.name / "site-packages"
        packages.mkdir(parents=True)
        # With this file above it, Python takes the folder for a virtual environment.
        (app / "pyvenv.cfg").write_text(f"home = {python.parent}\n")
        pip(
            ["install", "--no-compile", "--target", str(packages)],
            [
                "numpy>=1.26,<3",
                f"apache-tvm-ffi=={_installed_version('apache-tvm-ffi')}",
                "typing_extensions",
            ],
            python.name.removeprefix("python"),
        )
        return app

    def _make_runtime_library(self, scratch: Path) -> Path:
        # 95 MB for a library of 3 MB, so pip is told not to keep the wheel.
        pip(
            ["download", "--no-cache-dir", "--dest", str(scratch)],
            [f"apache-tvm=={_installed_version('apache-tvm')}"],
            self.python.name.removeprefix("python"),
        )
        (wheel,) = scratch.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract("tvm/lib/libtvm_runtime.so", scratch))

    def _greeting(self) -> str:
        code = (
            "import platform, numpy, tvm_ffi; "
            "print(platform.machine(), 'Python', platform.python_version(), "
            "'numpy', numpy.__version__, 'tvm-ffi', tvm_ffi.__version__)"
        )
        finished = self.run(["-c", code])
        if finished.returncode:
            raise SetUpError(
                f"the board does not work ({complaint(finished)}): "
                f"remove {self.folder} and run `{COMMAND}`"
            )
        return finished.stdout.strip()


def _installed_version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise SetUpError(
            f"{sys.executable} has no {distribution}: install mobilenet-tvm for it first"
        ) from None


def pip(command: Sequence[str], requirements: Sequence[str], python_version: str) -> None:
    """Run a pip command on aarch64 wheels for a version of CPython."""
    platforms = [word for platform in WHEEL_PLATFORMS for word in ("--platform", platform)]
    only_wheels = ["--only-binary=:all:", "--no-deps", "--implementation", "cp"]
    execute(
        [
            *(sys.executable, "-m", "pip", "--quiet", *command, *only_wheels, *platforms),
            *("--python-version", python_version, *requirements),
        ]
    )


def main() -> int:
    """Set the board up and run a script on it, if one is given; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpu", default="cortex-a72", help="a CPU that this qemu knows")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="a Python script for the board")
    given = parser.parse_args()
    board = Board()
    if status := set_up_or_say_why(COMMAND, board.set_up):
        return status
    if given.command:
        python = board.python_wrapper(given.cpu)
        # What is said of this machine's Python does not hold for the board's.
        environment = {"PATH": os.defpath, "HOME": str(Path.home())}
        os.execve(python, [str(python), *given.command], environment)  # noqa: S606
    return 0


if __name__ == "__main__":
    sys.exit(main())
