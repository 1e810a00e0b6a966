"""Runs a network on the emulated machine, and marks sections for `counter.c`.

arm_instructions.py has it run there: `arm_guest.py RUNTIME NETWORK INPUT RESULTS INFERENCES`.
Section 1 is the inferences. With a sixth argument, `calls`, for this project's networks, section 2
and those after it are the calls in the network, of as many further inferences.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peer_runtimes
from peer_runtimes import OURS, Array, Case, Run

MARK = 0x41524D43
#: Runs before those that count: the first ones allocate memory and fill the caches.
WARM_UP = 2
#: Prefix of functions that manage memory and shapes, and compute nothing.
BUILTIN = "vm.builtin."


def end_section(number: int = 0) -> None:
    """Mark the end of a section; without a number it does not count."""
    ctypes.CDLL(None).prctl(MARK, number)


def peer(runtime: str, network: Path, image: Array) -> Run:
    """Load a network for another runtime."""
    case = Case(network.parent, network.stem, False, 1, "", False, Path())
    return peer_runtimes.RUNTIMES[runtime](case, image)


def ours(bundle: Path) -> Any:
    """Load what `mobilenet-tvm bundle` wrote."""
    sys.path.insert(0, str(bundle))
    from mobilenet_tvm.runtime import load

    return load(next(bundle.glob("*.so")), threads=1)


def run_calls(model: Any, run: Callable[[], Any], inferences: int) -> list[str]:
    """Make each call in the network a section; return the called functions of one inference."""
    names: list[str] = []

    def instrument(_function: Any, name: str, before: bool, *_: Any) -> int:
        if not name.startswith(BUILTIN):
            if not before:
                names.append(name)
            end_section(0 if before else 1 + len(names))
        return 0

    with model.instrumented(instrument):
        for _ in range(inferences):
            names.clear()
            run()
    return names


def main() -> None:
    """Run the network, and write what came of it."""
    runtime, network, source, results = sys.argv[1:5]
    image, folder, inferences = np.load(source), Path(results), int(sys.argv[5])
    model = ours(Path(network)) if runtime == OURS else None
    run = (lambda: model(image)) if model else peer(runtime, Path(network), image)
    gc.disable()
    end_section()
    for _ in range(WARM_UP):
        run()
    end_section()
    for _ in range(inferences):
        output = run()
    end_section(1)
    calls = run_calls(model, run, inferences) if sys.argv[6:] == ["calls"] else []
    np.save(folder / "output.npy", np.asarray(output))
    (folder / "calls.json").write_text(json.dumps(calls))
    (folder / "maps").write_text(Path("/proc/self/maps").read_text())


main()
