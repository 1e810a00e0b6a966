"""ARM instruction sets that multiply integers, on the emulated board."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import guarded as guarded_memory
import numpy as np
import tvm
from board import Board
from integer_machines import Machine

from mobilenet_tvm.compile.codegen.linker import link_shared
from mobilenet_tvm.targets.presets import PRESETS

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class EmulatedMachine(Machine):
    """An ARM CPU that qemu emulates.

    Parameters
    ----------
    cpu : str
        Its name in qemu.
    """

    cpu: str = ""

    def missing(self) -> str | None:
        """Return why it cannot be used here, if it cannot."""
        return Board().reason()

    def call(
        self, built: tvm.runtime.Module, arguments: Sequence[Sequence[Array]], guarded: bool
    ) -> list[Array]:
        """Call compiled functions on the board, all in one process, and return their results."""
        board = Board()
        with tempfile.TemporaryDirectory() as scratch:
            library, given, found = (
                Path(scratch) / name for name in ("layers.so", "arguments.npz", "results.npz")
            )
            built.export_library(
                str(library), fcompile=lambda output, objects, **_: link_shared(output, objects)
            )
            arrays = {
                f"{index}.{place}": array
                for index, operands in enumerate(arguments)
                for place, array in enumerate(operands)
            }
            np.savez(given, **arrays)
            script, runtime = guarded_memory.__file__, board.runtime_library
            command = [script, runtime, library, given, found, int(guarded)]
            result = board.run([str(word) for word in command], cpu=self.cpu)
            assert result.returncode == 0, result.stderr or f"killed: {result.returncode}"
            with np.load(found) as results:
                return [results[name] for name in results]


#: SMULL and SADALP, SDOT, and SMMLA, which qemu's `max` has.
MACHINES = [
    EmulatedMachine(PRESETS["cortex-a53"], "cortex-a53"),
    EmulatedMachine(PRESETS["cortex-a76"], "cortex-a76"),
    EmulatedMachine(
        replace(PRESETS["arm64"], dot="i8mm", features=("+neon", "+dotprod", "+i8mm")), "max"
    ),
]
