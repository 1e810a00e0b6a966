"""Runs compiled models on the emulated arm64 board."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from board import Board

from mobilenet_tvm.runtime.bundle import bundle

#: Runs a bundle's model on each array of a file, on the board.
RUN = """
import sys
import numpy as np
sys.path.insert(0, "bundle")
from mobilenet_tvm.runtime import load
model = load(next(__import__("pathlib").Path("bundle").glob("*.so")))
np.save("outputs.npy", np.stack([model(image) for image in np.load("inputs.npy")]))
"""


def run_on_board(
    board: Board,
    artifact: Path,
    images: np.ndarray[Any, Any],
    folder: Path,
    cpu: str,
    timeout: float = 300,
) -> np.ndarray[Any, Any]:
    """Return a model's output for each image, computed by a bundle on the board."""
    bundle(artifact, folder / "bundle")
    np.save(folder / "inputs.npy", images)
    result = board.run(["-c", RUN], cpu=cpu, cwd=folder, timeout=timeout)
    assert result.returncode == 0, result.stderr
    outputs: np.ndarray[Any, Any] = np.load(folder / "outputs.npy")
    return outputs
