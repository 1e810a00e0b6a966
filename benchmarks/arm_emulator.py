"""Counts what a network executes on an emulated ARM core; nothing is measured.

``python benchmarks/arm_emulator.py`` sets up what that takes for this project, without root, in
``mobilenet-tvm`` in the user's cache folder: the emulated board of the tests, a qemu that loads
plug-ins, and the plug-in `counter.c`, which `tune --device emulated` needs too.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "tests" / "helpers"))

from board import Board, pip  # noqa: E402
from set_up import Say, SetUpError, cache_folder, make_once, set_up_or_say_why  # noqa: E402

from mobilenet_tvm.compile.tuning.emulated import emulator  # noqa: E402
from mobilenet_tvm.compile.tuning.emulated.counts import Block  # noqa: E402
from mobilenet_tvm.compile.tuning.emulated.emulator import EmulatorError  # noqa: E402
from mobilenet_tvm.targets.presets import get_target  # noqa: E402

__all__ = ["HERE", "MACHINES", "Emulator", "EmulatorError", "Machine", "SetUpError"]

COMMAND = "python benchmarks/arm_emulator.py"

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
    part, variant, revision : int
        Fields of the main ID register.
    features : str
        As in /proc/cpuinfo.
    """

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

#: As in the Raspberry Pi 3, 4 and 5, and for the A55 in the RK3588.
MACHINES = {
    "cortex-a53": Machine(0xD03, 0, 4, _V8),
    "cortex-a55": Machine(0xD05, 2, 0, _V8_2),
    "cortex-a72": Machine(0xD08, 0, 3, _V8),
    "cortex-a76": Machine(0xD0B, 4, 1, _V8_2),
}


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
    def counting(self) -> emulator.Emulator:
        """The qemu that counts."""
        return emulator.Emulator(self.cache)

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
        if not self.counting.complete() or (peers and not self.peers.exists()):
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
        self.counting.set_up(say)
        if peers:
            make_once(self.peers, "LiteRT and ONNX Runtime", "pip, 45 MB", self._make_peers, say)

    def _make_peers(self, scratch: Path) -> Path:
        version = self.board.python.name.removeprefix("python")
        pip(["install", "--no-compile", "--target", str(scratch / "peers")], PEERS, version)
        return scratch / "peers"

    def count(
        self, core: str, arguments: Sequence[str | Path], folder: Path, peers: bool = False
    ) -> dict[int, list[Block]]:
        """Run the board's Python and return what the plug-in counted, by section.

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
        for name, text in MACHINES[core].files().items():
            path = folder / "machine" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for path in self.board.sysroot.iterdir():
            (folder / "machine" / path.name).symlink_to(path)
        environment = {"PATH": os.defpath, "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"}
        if peers:
            environment["PYTHONPATH"] = str(self.peers)
        # By the name of its program, Python finds its packages.
        name = self.board.python_wrapper()
        return self.counting.run(
            [self.board.python, *arguments],
            get_target(core),
            folder,
            ["-L", folder / "machine", "-0", name],
            environment,
        )


if __name__ == "__main__":
    sys.exit(set_up_or_say_why(COMMAND, Emulator().set_up))
