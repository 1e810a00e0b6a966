"""The example app names what is in real pictures, by real networks, on this machine and ARM."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from board import Board
from board_models import run_on_board
from networks import MODELS, ROOT

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.runtime import load

sys.path.insert(0, str(ROOT / "examples"))

from classify import prepare

pytestmark = pytest.mark.skipif(
    not MODELS.is_dir(), reason=f"the pretrained networks and pictures are not at {MODELS}"
)
PICTURES = {"chelsea": "Egyptian cat", "coffee": "espresso"}
FLOAT, INT8 = "mobilenet_v1_0.5_128", "mobilenet_v1_0.5_128_int8"


@pytest.fixture(scope="module", params=[FLOAT, INT8])
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("classify") / f"{request.param}.so"
    return compile_model(MODELS / f"{request.param}.onnx", "x86", output).path


@pytest.mark.parametrize("picture", PICTURES)
def test_the_app_says_what_is_in_the_picture(picture: str, artifact: Path) -> None:
    app = [ROOT / "examples" / "classify.py", artifact, MODELS / f"{picture}.png"]
    options = ["--labels", MODELS / "labels_imagenet.txt", "--scaling", "tensorflow"]
    command = [sys.executable, *map(str, app), *map(str, options)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    first, label = result.stdout.splitlines()[0].split(maxsplit=1)
    assert label == PICTURES[picture]
    assert float(first) > 0.4


@pytest.mark.parametrize("picture", PICTURES)
def test_probabilities_are_onnxruntimes(picture: str, artifact: Path) -> None:
    model = load(artifact)
    info = model.inputs[0]
    image = prepare(MODELS / f"{picture}.png", info.shape, info.dtype, "tensorflow")
    session = onnxruntime.InferenceSession(str(MODELS / f"{artifact.stem}.onnx"))
    expected = session.run(None, {info.name: image})[0]
    # Those of the quantised network are integers.
    allowed = 0 if artifact.stem == INT8 else 1e-4
    assert np.abs(model(image).astype(float) - expected.astype(float)).max() <= allowed


def test_the_board_sees_the_same(board: Board, tmp_path: Path) -> None:
    path = compile_model(MODELS / f"{FLOAT}.onnx", "arm64", tmp_path / "model.so").path
    shape = (1, 128, 128, 3)
    images = np.stack(
        [prepare(MODELS / f"{p}.png", shape, "float32", "tensorflow") for p in PICTURES]
    )
    outputs = run_on_board(board, path, images, tmp_path, "cortex-a72")
    session = onnxruntime.InferenceSession(str(MODELS / f"{FLOAT}.onnx"))
    labels = (MODELS / "labels_imagenet.txt").read_text().splitlines()
    for picture, image, output in zip(PICTURES, images, outputs, strict=True):
        expected = session.run(None, {session.get_inputs()[0].name: image})[0]
        np.testing.assert_allclose(output, expected, atol=1e-4)
        assert labels[output.argmax()] == PICTURES[picture]


@pytest.mark.parametrize(
    ("model", "picture"),
    [("missing.so", "chelsea.png"), (None, "missing.png"), (None, "README.md")],
)
def test_what_is_wrong_is_said_in_one_line(model: str | None, picture: str, artifact: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "examples" / "classify.py"),
        str(model or artifact),
        str(MODELS / picture),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
