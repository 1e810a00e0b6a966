"""The emulated arm64 board of the tests: an arm64 Python under qemu-user.

``python tests/board.py`` sets it up, without root and without touching the
system: everything lies in ``mobilenet-tvm`` in the user's cache folder.
"""

from __future__ import annotations

import fcntl
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
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

COMMAND = "python tests/board.py"

# numpy and libtvm_runtime need libstdc++; apt finds what else these need.
PYTHON_PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6")

# What pip takes for a glibc of 2.28 or later, which every supported Debian and Ubuntu has.
WHEEL_PLATFORMS = (
    *(f"manylinux_2_{minor}_aarch64" for minor in range(28, 16, -1)),
    "manylinux2014_aarch64",
)

Say = Callable[[str], None]


class BoardError(Exception):
    """The board cannot be set up; the message is one line with the cause and the mend."""


def _default_cache() -> Path:
    # The XDG Base Directory Specification says to ignore a relative path.
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "mobilenet-tvm"


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

    cache: Path = field(default_factory=_default_cache)

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
        return self.folder / f"app-{self._python.name}-ffi{ffi}"

    @property
    def runtime_library(self) -> Path:
        """libtvm_runtime.so for aarch64, where ``mobilenet-tvm bundle`` keeps it too."""
        version = _installed_version("apache-tvm")
        return self.cache / "runtime" / version / "aarch64" / "libtvm_runtime.so"

    @property
    def _python(self) -> Path:
        # python3 is a link to the version that the distribution has: python3.11, ...
        return (self.sysroot / "usr/bin/python3").resolve()

    def reason(self) -> str | None:
        """Say why the board cannot be used, and the mend; None when it can."""
        try:
            for name, _, path, _ in self._parts():
                if not path.exists():
                    return f"the arm64 board has no {name}: run `{COMMAND}`"
        except BoardError as error:
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
        command = (self.qemu, "-cpu", cpu, "-L", self.sysroot, "-0", wrapper, self._python)
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
        BoardError
            When a part cannot be had.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock(say):
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
        architecture = _execute([_program("dpkg"), "--print-architecture"]).strip()
        root = _unpacked_packages(["qemu-user-static"], architecture, scratch)
        # Where it is the old name of the package qemu-user, this is a link into that.
        return (root / "usr/bin/qemu-aarch64-static").resolve()

    def _make_sysroot(self, scratch: Path) -> Path:
        root = _unpacked_packages(PYTHON_PACKAGES, "arm64", scratch)
        if not (root / "lib").exists():
            # Where every library lies in /usr/lib, /lib is made by a package not needed here.
            (root / "lib").symlink_to("usr/lib")
        return root

    def _make_app(self, scratch: Path) -> Path:
        python = self._python
        app = scratch / "app"
        packages = app / "lib" / python.name / "site-packages"
        packages.mkdir(parents=True)
        # With this file above it, Python takes the folder for a virtual environment.
        (app / "pyvenv.cfg").write_text(f"home = {python.parent}\n")
        _pip(
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
        _pip(
            ["download", "--no-cache-dir", "--dest", str(scratch)],
            [f"apache-tvm=={_installed_version('apache-tvm')}"],
            self._python.name.removeprefix("python"),
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
            raise BoardError(
                f"the board does not work ({_complaint(finished)}): "
                f"remove {self.folder} and run `{COMMAND}`"
            )
        return finished.stdout.strip()

    @contextmanager
    def _lock(self, say: Say) -> Iterator[None]:
        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("waiting for another set-up to end")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _installed_version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise BoardError(
            f"{sys.executable} has no {distribution}: install mobilenet-tvm for it first"
        ) from None


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise BoardError(f"{name} is missing: the board needs Linux with apt and dpkg")
    return path


def _complaint(finished: subprocess.CompletedProcess[str]) -> str:
    """Return the line in which a program says what went wrong; empty if it says nothing."""
    lines = finished.stderr.strip().splitlines()
    marked = (line for line in lines if line.startswith(("E: ", "ERROR: ", "W: Failed to fetch")))
    return next(marked, lines[-1] if lines else "")


def _attempt(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=os.environ | {"LC_ALL": "C"}, capture_output=True, text=True, check=False
    )


def _execute(command: Sequence[str]) -> str:
    finished = _attempt(command)
    if finished.returncode:
        complaint = _complaint(finished) or f"exit status {finished.returncode}"
        raise BoardError(f"{shlex.join(command[:4])} ... failed: {complaint}")
    return finished.stdout


def _pip(command: Sequence[str], requirements: Sequence[str], python_version: str) -> None:
    """Run a pip command on aarch64 wheels for a version of CPython."""
    platforms = [word for platform in WHEEL_PLATFORMS for word in ("--platform", platform)]
    only_wheels = ["--only-binary=:all:", "--no-deps", "--implementation", "cp"]
    _execute(
        [
            *(sys.executable, "-m", "pip", "--quiet", *command, *only_wheels, *platforms),
            *("--python-version", python_version, *requirements),
        ]
    )


def _unpacked_packages(packages: Sequence[str], architecture: str, scratch: Path) -> Path:
    """Return a folder with Debian packages, and all that they need, unpacked.

    apt reads the system's sources and keys but has its own state in `scratch`,
    where no package is installed: so it resolves every dependency and needs no root.
    """
    state, archives, root = scratch / "state", scratch / "archives", scratch / "root"
    for folder in (state / "lists/partial", archives / "partial", root):
        folder.mkdir(parents=True)
    (state / "status").touch()
    configuration = scratch / "apt.conf"
    configuration.write_text(f"""\
APT::Architecture "{architecture}";
#clear APT::Architectures;
APT::Architectures {{ "{architecture}"; }};
#clear APT::Update;
APT::Sandbox::User "root";
Acquire::Languages "none";
Dir::State "{state}";
Dir::State::lists "{state}/lists";
Dir::State::status "{state}/status";
Dir::Cache "{scratch}";
Dir::Cache::archives "{archives}";
""")
    apt = [_program("apt-get"), "-c", str(configuration)]
    # Its status is no matter: another source may be out of order, or lack arm64.
    update = _attempt([*apt, "update"])
    install = _attempt(
        [*apt, "install", "--yes", "--download-only", "--no-install-recommends", *packages]
    )
    if install.returncode:
        complaints = filter(None, (_complaint(install), _complaint(update)))
        raise BoardError(
            f"apt finds no {architecture} {' '.join(packages)} ({'; '.join(complaints)}): check "
            f"the network, or give apt a source of {architecture} packages "
            "(Ubuntu's for arm64 is http://ports.ubuntu.com/ubuntu-ports)"
        )
    for archive in sorted(archives.glob("*.deb")):
        _execute([_program("dpkg"), "--extract", str(archive), str(root)])
    return root


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Set the board up; return the exit status."""
    try:
        Board().set_up(_say)
    except (BoardError, OSError) as error:
        sys.stderr.write(f"{COMMAND}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
