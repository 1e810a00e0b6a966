"""The apps for detection and segmentation print what follows from ONNX Runtime's outputs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from networks import MODELS, ROOT, reference
from PIL import Image

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.runtime.detection import find_objects, ssd_anchors

Array = np.ndarray[Any, Any]

DETECTOR: dict[str, Any] = {"alpha": 0.25, "resolution": 96, "classes": 4}
SEGMENTER: dict[str, Any] = {"alpha": 0.25, "resolution": 64, "classes": 5}


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    pixels = np.random.default_rng(3).integers(0, 256, (9, 12, 3), np.uint8)
    Image.fromarray(pixels).resize((192, 144), Image.Resampling.BICUBIC).save(path)
    return path


def compiled(name: str, options: dict[str, Any], folder: Path) -> Path:
    return compile_model(name, "x86", folder / f"{name}.so", **options).path


def run(app: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "examples" / app, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def by_onnxruntime(name: str, options: dict[str, Any], image: Array) -> list[Array]:
    session = onnxruntime.InferenceSession(reference(name, **options).SerializeToString())
    outputs: list[Array] = session.run(None, {"input": image.astype(np.float32)})
    return outputs


def resized(picture: Path, side: int) -> Array:
    with Image.open(picture) as opened:
        pixels = np.asarray(opened.resize((side, side), Image.Resampling.BILINEAR), np.float64)
    return pixels.transpose(2, 0, 1)[None]


@pytest.mark.full
def test_objects_and_their_boxes(picture: Path, tmp_path: Path) -> None:
    model = compiled("ssdlite-v3-large", DETECTOR, tmp_path)
    marked = tmp_path / "marked.png"
    result = run("detect.py", model, picture, "--min-score", "0.9", "-o", marked)
    assert result.returncode == 0, result.stderr
    image = resized(picture, 96) / 127.5 - 1
    offsets, logits = by_onnxruntime("ssdlite-v3-large", DETECTOR, image)
    found = find_objects(offsets[0], logits[0], ssd_anchors(96, 96), (96, 96), min_score=0.9)
    lines = [line.split(maxsplit=5) for line in result.stdout.splitlines()]
    assert len(lines) == len(found.boxes) > 3
    np.testing.assert_allclose([float(line[0]) for line in lines], found.scores, atol=2e-3)
    # The picture is 192 x 144, the network's input 96 x 96.
    expected = found.boxes * (2, 1.5, 2, 1.5)
    np.testing.assert_allclose([[*map(float, line[1:5])] for line in lines], expected, atol=1)
    assert [line[5] for line in lines] == [f"class {number}" for number in found.classes]
    with Image.open(marked) as opened:
        assert opened.size == (192, 144)


@pytest.mark.full
def test_share_of_each_class_of_pixels(picture: Path, tmp_path: Path) -> None:
    model = compiled("lraspp-v3-large", SEGMENTER, tmp_path)
    (tmp_path / "labels.txt").write_text("none\none\ntwo\nthree\nfour\n")
    result = run("segment.py", model, picture, "--labels", tmp_path / "labels.txt")
    assert result.returncode == 0, result.stderr
    mean, deviation = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    image = (resized(picture, 64) / 255 - mean) / deviation
    (scores,) = by_onnxruntime("lraspp-v3-large", SEGMENTER, image)
    printed = dict(reversed(line.split()) for line in result.stdout.splitlines())
    shares = np.bincount(scores[0].argmax(0).ravel(), minlength=5) / 64**2
    for label, share in zip(("none", "one", "two", "three", "four"), shares, strict=True):
        # Enlarging the map repeats rows and columns two or three times.
        assert float(printed.get(label, 0)) == pytest.approx(share, abs=0.03)


@pytest.mark.full
@pytest.mark.parametrize(
    ("network", "options", "scores"),
    [
        ("04_ultraface_rfb320", {}, (0.999, 0.999, 0.996, 0.947)),
        (
            "10_yunet_n_dynamic",
            {"input_shapes": {"input": (1, 3, 320, 320)}},
            (0.917, 0.912, 0.907),
        ),
    ],
)
def test_faces(
    network: str, options: dict[str, Any], scores: tuple[float, ...], tmp_path: Path
) -> None:
    file = MODELS.parent / "networks" / f"{network}.onnx"
    (photo,) = (MODELS.parent / "imagenet-sample").glob("982_*") if file.exists() else (None,)
    if photo is None:
        pytest.skip(f"needs {file} and a picture of a wedding beside it")
    model = compile_model(file, "x86", tmp_path / "model.so", **options).path
    result = run("detect.py", model, photo, "--min-score", "0.9")
    found = [float(line.split()[0]) for line in result.stdout.splitlines()]
    assert found == pytest.approx(scores, abs=2e-3)


@pytest.mark.full
@pytest.mark.parametrize(
    ("app", "message"),
    [
        ("detect.py", "error: the model's outputs are logits; give a SSDLite"),
        ("segment.py", "error: the model has no map of classes as its output"),
    ],
)
def test_another_network_is_refused(app: str, message: str, picture: Path, tmp_path: Path) -> None:
    model = compiled("v3-small", {"alpha": 0.25, "resolution": 32}, tmp_path)
    result = run(app, model, picture)
    assert result.returncode == 1
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
