"""Runs programs in qemu's user-mode emulation, with the plug-in that counts what they execute."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mobilenet_tvm.compile.tuning.emulated.counts import Block, parse
from mobilenet_tvm.compile.tuning.emulated.set_up import (
    Say,
    SetUpError,
    complaint,
    execute,
    make_once,
    program,
    unpacked_packages,
)
from mobilenet_tvm.runtime.folders import cache_folder
from mobilenet_tvm.targets.target import Target

_SOURCES = Path(__file__).parent
_PLUGIN = ("counter.c", "caches.c")
_FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror")

#: What qemu 7 emulates with the same instructions: it has no A55.
CPUS = {"cortex-a55": "cortex-a76"}


class EmulatorError(Exception):
    """A program failed in the emulator; the message is one line with the cause."""


@dataclass(frozen=True)
class Emulator:
    """A qemu that loads plug-ins, and the plug-in that counts.

    Parameters
    ----------
    cache : Path
        The folder under which they are kept; this project's own in the user's cache by default.
    """

    cache: Path = field(default_factory=cache_folder)

    @property
    def folder(self) -> Path:
        """Where all parts are."""
        return self.cache / "arm-counts"

    @property
    def qemu(self) -> Path:
        """Root folder of qemu and its libraries."""
        return self.folder / "qemu" / "root"

    @property
    def plugin(self) -> Path:
        """The compiled plug-in."""
        return self.folder / "plugin" / f"{_digest(*_PLUGIN, 'caches.h')}.so"

    def guest(self, architecture: str) -> Path:
        """Return the object of the program that calls a candidate."""
        return self.folder / "guest" / f"{_digest('guest.c')}-{architecture}.o"

    def complete(self, architecture: str = "aarch64") -> bool:
        """Return whether nothing is missing to run programs of an architecture."""
        return all(path.exists() for path in (self.qemu, self.plugin, self.guest(architecture)))

    def set_up(self, say: Say, architecture: str = "aarch64") -> None:
        """Fetch and compile what is missing.

        Parameters
        ----------
        say : callable
            Called with one line for each thing done.
        architecture : str
            Of the programs, as targets name it.

        Raises
        ------
        SetUpError
            If a part cannot be had.
        """
        make_once(self.qemu, "qemu with plug-ins", "apt, 21 MB", _make_qemu, say)
        make_once(self.plugin, "the plug-in that counts", "compiled by zig", _make_plugin, say)
        make_once(
            self.guest(architecture),
            "the program that calls candidates",
            "compiled by zig",
            lambda scratch: _make_guest(scratch, architecture),
            say,
        )

    def run(
        self,
        command: Sequence[str | Path],
        target: Target,
        folder: Path,
        options: Sequence[str | Path] = (),
        environment: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> dict[int, list[Block]]:
        """Run a program and return what the plug-in counted, by section.

        Parameters
        ----------
        command : sequence of str or Path
            The program and its arguments.
        target : Target
            Its architecture, core and caches are emulated.
        folder : Path
            An existing folder for the plug-in's output.
        options : sequence of str or Path
            Options of qemu.
        environment : mapping, optional
            All environment variables of the program.
        timeout : float, optional
            Seconds after which the program is ended.

        Raises
        ------
        EmulatorError
            If the program fails, or does not end in time.
        """
        counts = folder / "counts"
        settings = {
            "out": counts,
            "l1_bytes": target.l1d_bytes,
            "l1_ways": target.l1d_ways,
            "l2_bytes": target.l2_bytes,
            "l2_ways": target.l2_ways,
        }
        plugin = ",".join(
            [str(self.plugin), *(f"{key}={value}" for key, value in settings.items())]
        )
        cpu = CPUS.get(target.preset, target.preset) if target.architecture == "aarch64" else "max"
        command = [
            *_qemu(self.qemu, target.architecture),
            *("-plugin", plugin, "-cpu", cpu, *options, *command),
        ]
        try:
            finished = subprocess.run(
                command,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise EmulatorError(f"emulated {target.preset}: not done in {timeout:g} s") from None
        if finished.returncode:
            reason = complaint(finished) or f"exit status {finished.returncode}"
            raise EmulatorError(f"emulated {target.preset}: {reason}")
        return parse(counts.read_text())


def compile_c(arguments: Sequence[str | Path]) -> None:
    """Compile C with the package ziglang.

    Raises
    ------
    SetUpError
        If it cannot be compiled.
    """
    execute([sys.executable, "-m", "ziglang", "cc", *_FLAGS, *map(str, arguments)])


def _digest(*sources: str) -> str:
    contents = b"".join((_SOURCES / name).read_bytes() for name in sources)
    return hashlib.sha256(contents).hexdigest()[:16]


def _qemu(root: Path, architecture: str) -> list[str | Path]:
    """Return the command of a qemu that was unpacked, with the libraries next to it."""
    loader = next(root.rglob("ld-linux-*.so.?"))
    folders = [*root.glob("lib/*-linux-gnu"), *root.glob("usr/lib/*-linux-gnu")]
    libraries = ":".join(map(str, folders))
    return [loader, "--library-path", libraries, root / "usr/bin" / f"qemu-{architecture}"]


def _make_qemu(scratch: Path) -> Path:
    architecture = execute([program("dpkg"), "--print-architecture"]).strip()
    root = unpacked_packages(["qemu-user"], architecture, scratch)
    if "-plugin" not in execute([str(word) for word in (*_qemu(root, "aarch64"), "--help")]):
        raise SetUpError("this system's qemu-user loads no plug-ins: Debian 12's does")
    return root


def _make_plugin(scratch: Path) -> Path:
    library = scratch / "plugin.so"
    compile_c(["-shared", "-fPIC", "-o", library, *(_SOURCES / name for name in _PLUGIN)])
    return library


def _make_guest(scratch: Path, architecture: str) -> Path:
    made = scratch / "guest.o"
    alone = ["-ffreestanding", "-fno-builtin", "-fno-stack-protector"]
    target = ["-target", f"{architecture}-linux-none"]
    compile_c([*target, *alone, "-c", "-o", made, _SOURCES / "guest.c"])
    return made
