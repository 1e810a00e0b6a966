"""Models for 64-bit ARM run on the emulated board and give ONNX Runtime's answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import odd_models as odd
import onnx
import onnxruntime
import pytest
from board import Board

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.source import ModelOptions, resolve
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
    board: Board, artifact: Path, images: np.ndarray[Any, Any], folder: Path, cpu: str
) -> np.ndarray[Any, Any]:
    """Return a model's output for each image, computed by a bundle on the board."""
    bundle(artifact, folder / "bundle")
    np.save(folder / "inputs.npy", images)
    result = board.run(["-c", RUN], cpu=cpu, cwd=folder)
    assert result.returncode == 0, result.stderr
    outputs: np.ndarray[Any, Any] = np.load(folder / "outputs.npy")
    return outputs


@pytest.mark.parametrize(
    ("model", "target", "cpu"),
    [
        ("v1", "arm64", "cortex-a53"),
        ("v2", "arm64", "cortex-a72"),
        ("v3-large", "rpi4", "cortex-a72"),
        ("v3-small", "cortex-a76", "cortex-a76"),
        (odd.tiny_v2(widths=(5, 7, 13), classes=11, resolution=33), "cortex-a53", "cortex-a53"),
        (odd.tensorflow_v1(), "arm64", "cortex-a72"),
    ],
    ids=["v1", "v2", "v3-large", "v3-small", "odd_channels", "tensorflow_v1"],
)
def test_the_board_equals_onnxruntime(
    model: str | onnx.ModelProto, target: str, cpu: str, board: Board, tmp_path: Path
) -> None:
    artifact = compile_model(model, target, tmp_path / "model.so")
    reference = resolve(model, ModelOptions()).model
    session = onnxruntime.InferenceSession(reference.SerializeToString())
    rng = np.random.default_rng(0)
    shape = artifact.metadata.inputs[0].shape
    images = rng.standard_normal((5, *shape)).astype(np.float32)
    outputs = run_on_board(board, artifact.path, images, tmp_path, cpu)
    for image, output in zip(images, outputs, strict=True):
        expected = session.run(None, {artifact.metadata.inputs[0].name: image})[0]
        assert np.abs(output - expected).max() <= 1e-4 * np.ptp(expected)


def test_the_code_is_for_arm64_and_needs_no_library(tmp_path: Path) -> None:
    path = compile_model(odd.tiny_v2(), "arm64", tmp_path / "model.so").path
    header = path.read_bytes()[:20]
    assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64
    assert b"GLIBC_" not in path.read_bytes()
    assert os.access(path, os.R_OK)
