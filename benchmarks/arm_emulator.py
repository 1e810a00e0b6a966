"""Counts what a network executes on an emulated ARM core; nothing is measured.

``python benchmarks/arm_emulator.py`` sets up what that takes for this project, without root, in
``mobilenet-tvm`` in the user's cache folder: the emulated board of the tests, a qemu that loads
plug-ins, and the plug-in `arm_counter.c`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "tests" / "helpers"))

from board import Board, pip  # noqa: E402
from set_up import (  # noqa: E402
    Say,
    SetUpError,
    cache_folder,
    complaint,
    execute,
    make_once,
    program,
    set_up_or_say_why,
    unpacked_packages,
)

from mobilenet_tvm.targets.presets import get_target  # noqa: E402

COMMAND = "python benchmarks/arm_emulator.py"

SOURCES = ("arm_counter.c", "arm_caches.c", "arm_caches.h")
#: LiteRT needs the packages after it, ONNX Runtime some of them.
PEERS = (
    "onnxruntime>=1.20,<2",
    "ai-edge-litert>=2,<3",
    "backports.strenum",
    "flatbuffers",
    "ml_dtypes",
    "packaging",
    "protobuf",
    "tqdm",
    "typing_extensions",
)


@dataclass(frozen=True)
class Machine:
    """What programs find out about an emulated core.

    Parameters
    ----------
    qemu : str
        A core that qemu 7 emulates, with the same instructions.
    part, variant, revision : int
        Fields of the main ID register.
    features : str
        As in /proc/cpuinfo.
    """

    qemu: str
    part: int
    variant: int
    revision: int
    features: str

    def files(self) -> dict[str, str]:
        """Return the contents of files that Linux has on a machine with one such core."""
        cpuinfo = (
            f"processor\t: 0\nBogoMIPS\t: 48.00\nFeatures\t: {self.features}\n"
            "CPU implementer\t: 0x41\nCPU architecture: 8\n"
            f"CPU variant\t: {self.variant:#x}\nCPU part\t: {self.part:#x}\n"
            f"CPU revision\t: {self.revision}\n\n"
        )
        midr = 0x410F0000 | self.variant << 20 | self.part << 4 | self.revision
        system = "sys/devices/system/cpu"
        return {
            "proc/cpuinfo": cpuinfo,
            **{f"{system}/{name}": "0\n" for name in ("possible", "present", "online")},
            f"{system}/kernel_max": "0\n",
            **{
                f"{system}/cpu0/topology/{name}": "0\n"
                for name in ("core_id", "physical_package_id", "core_siblings_list")
            },
            f"{system}/cpu0/cpufreq/cpuinfo_max_freq": "1500000\n",
            f"{system}/cpu0/cpufreq/cpuinfo_min_freq": "600000\n",
            f"{system}/cpu0/regs/identification/midr_el1": f"{midr:#018x}\n",
        }


_V8 = "fp asimd evtstrm crc32"
_V8_2 = f"{_V8} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"

#: As in the Raspberry Pi 3, 4 and 5, and for the A55 in the RK3588. qemu 7 has no A55, but the A76
#: has the same instructions.
MACHINES = {
    "cortex-a53": Machine("cortex-a53", 0xD03, 0, 4, _V8),
    "cortex-a55": Machine("cortex-a76", 0xD05, 2, 0, _V8_2),
    "cortex-a72": Machine("cortex-a72", 0xD08, 0, 3, _V8),
    "cortex-a76": Machine("cortex-a76", 0xD0B, 4, 1, _V8_2),
}


class EmulatorError(Exception):
    """A program failed on the emulated machine; the message is one line with the cause."""


@dataclass(frozen=True)
class Emulator:
    """The emulated board of the tests, with a plug-in that counts.

    Parameters
    ----------
    cache : Path
        The folder under which it is kept; mobilenet-tvm's own by default.
    """

    cache: Path = field(default_factory=cache_folder)

    @property
    def board(self) -> Board:
        """The board: its Python, NumPy and TVM's runtime."""
        return Board(self.cache)

    @property
    def qemu(self) -> Path:
        """Root folder of qemu and its libraries."""
        return self.cache / "arm-counts" / "qemu" / "root"

    @property
    def plugin(self) -> Path:
        """The compiled plug-in."""
        digest = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in SOURCES))
        return self.cache / "arm-counts" / "plugin" / f"{digest.hexdigest()[:16]}.so"

    @property
    def peers(self) -> Path:
        """Packages of the peers for the board's Python."""
        return self.cache / "arm-counts" / "peers" / self.board.python.name

    def reason(self, peers: bool = False) -> str | None:
        """Say what is missing, and the mend; None when programs can be counted.

        Parameters
        ----------
        peers : bool
            Whether the peers' packages are needed.
        """
        if missing := self.board.reason():
            return missing
        for part in (self.qemu, self.plugin, *([self.peers] if peers else [])):
            if not part.exists():
                return f"the emulator that counts is not complete: run `{COMMAND}`"
        return None

    def set_up(self, say: Say, peers: bool = False) -> None:
        """Fetch and compile what is missing.

        Parameters
        ----------
        say : callable
            Called with one line for each thing done.
        peers : bool
            Whether to fetch the peers' packages.

        Raises
        ------
        SetUpError
            If a part cannot be had.
        """
        self.board.set_up(say)
        make_once(self.qemu, "qemu with plug-ins", "apt, 21 MB", _make_qemu, say)
        make_once(self.plugin, "the plug-in that counts", "compiled by zig", _make_plugin, say)
        if peers:
            make_once(self.peers, "LiteRT and ONNX Runtime", "pip, 45 MB", self._make_peers, say)

    def _make_peers(self, scratch: Path) -> Path:
        version = self.board.python.name.removeprefix("python")
        pip(["install", "--no-compile", "--target", str(scratch / "peers")], PEERS, version)
        return scratch / "peers"

    def count(
        self, core: str, arguments: Sequence[str | Path], folder: Path, peers: bool = False
    ) -> str:
        """Run the board's Python and return what the plug-in wrote.

        Parameters
        ----------
        core : str
            One of `MACHINES`.
        arguments : sequence of str or Path
            Arguments of Python.
        folder : Path
            An empty folder for files that are needed meanwhile.
        peers : bool
            Whether the program imports peers.

        Raises
        ------
        EmulatorError
            If the program fails.
        """
        machine, target = MACHINES[core], get_target(core)
        for name, text in machine.files().items():
            path = folder / "machine" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for path in self.board.sysroot.iterdir():
            (folder / "machine" / path.name).symlink_to(path)
        options = {
            "out": folder / "counts",
            "l1_bytes": target.l1d_bytes,
            "l1_ways": target.l1d_ways,
            "l2_bytes": target.l2_bytes,
            "l2_ways": target.l2_ways,
        }
        plugin = ",".join([str(self.plugin), *(f"{key}={value}" for key, value in options.items())])
        environment = {"PATH": os.defpath, "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
        if peers:
            environment["PYTHONPATH"] = str(self.peers)
        # By the name of its program, Python finds its packages.
        name = self.board.python_wrapper(machine.qemu)
        finished = subprocess.run(
            [
                *(*_qemu(self.qemu), "-plugin", plugin, "-cpu", machine.qemu),
                *("-L", folder / "machine", "-0", name, self.board.python, *arguments),
            ],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode:
            reason = complaint(finished) or f"exit status {finished.returncode}"
            raise EmulatorError(f"emulated {core}: {reason}")
        return (folder / "counts").read_text()


def _qemu(root: Path) -> list[Path | str]:
    """Return the command of a qemu that was unpacked, with the libraries next to it."""
    loader = next(root.rglob("ld-linux-*.so.?"))
    folders = [*root.glob("lib/*-linux-gnu"), *root.glob("usr/lib/*-linux-gnu")]
    libraries = ":".join(map(str, folders))
    return [loader, "--library-path", libraries, root / "usr/bin/qemu-aarch64"]


def _make_qemu(scratch: Path) -> Path:
    architecture = execute([program("dpkg"), "--print-architecture"]).strip()
    root = unpacked_packages(["qemu-user"], architecture, scratch)
    if "-plugin" not in execute([str(word) for word in (*_qemu(root), "--help")]):
        raise SetUpError("this system's qemu-user loads no plug-ins: Debian 12's does")
    return root


def _make_plugin(scratch: Path) -> Path:
    library = scratch / "plugin.so"
    compile_c([HERE / name for name in SOURCES if name.endswith(".c")], library)
    return library


def compile_c(sources: Sequence[Path], library: Path) -> None:
    """Compile C files to a shared library for this machine, with the package ziglang.

    Raises
    ------
    SetUpError
        If they cannot be compiled.
    """
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    files = ["-o", str(library), *map(str, sources)]
    execute([sys.executable, "-m", "ziglang", "cc", *flags, *files])


if __name__ == "__main__":
    sys.exit(set_up_or_say_why(COMMAND, Emulator().set_up))
