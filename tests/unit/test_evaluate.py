"""Accuracy on pictures: which there are, how they are prepared, and what is counted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from colours import COLOURS, colour_network, write_pictures
from command_line import run
from PIL import Image

from mobilenet_tvm.compile import Preprocessing, compile_model, evaluate_model
from mobilenet_tvm.compile.compress.pictures import find_pictures, read_picture, spread
from mobilenet_tvm.targets.errors import UserError

RAW = Preprocessing((0.0,) * 3, (1.0,) * 3, crop=1.0)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "images")


@pytest.fixture
def network(tmp_path: Path) -> Path:
    onnx.save(colour_network(), tmp_path / "colours.onnx")
    return tmp_path / "colours.onnx"


def test_folders_are_classes_by_order_or_by_number(images: Path) -> None:
    assert [picture.label for picture in find_pictures(images)] == [0, 0, 1, 1, 2, 2]
    for channel, colour in enumerate(COLOURS):
        (images / f"{channel}_{colour}").rename(images / str(10 - channel))
    labels = {picture.path.parent.name: picture.label for picture in find_pictures(images)}
    assert labels == {"10": 10, "9": 9, "8": 8}


def test_a_file_lists_pictures_and_classes(images: Path, tmp_path: Path) -> None:
    (images / "0_red" / "0.png").rename(images / "a red one.png")
    (tmp_path / "labels.txt").write_text("2_blue/1.png 2\n\na red one.png 0\n")
    found = find_pictures(images, tmp_path / "labels.txt")
    assert [(picture.path.name, picture.label) for picture in found] == [
        ("1.png", 2),
        ("a red one.png", 0),
    ]


def test_calibration_pictures_are_spread_evenly(images: Path) -> None:
    pictures = find_pictures(images)
    chosen, others = spread(pictures, 3)
    assert [picture.label for picture in chosen] == [0, 1, 2]
    assert len(others) == 3
    assert not set(chosen) & set(others)
    assert spread(pictures, 99) == (pictures, [])


@pytest.mark.parametrize(("size", "crop"), [((20, 16), 1.0), ((37, 64), 0.875), ((16, 16), 1.0)])
def test_pictures_are_resized_and_cropped(
    size: tuple[int, int], crop: float, tmp_path: Path
) -> None:
    ramp = np.linspace(0, 255, size[0]).astype(np.uint8)
    Image.fromarray(np.repeat(ramp[None], size[1], 0)).save(tmp_path / "ramp.png")
    how = Preprocessing((0.5,) * 3, (0.25,) * 3, crop)
    first = read_picture(tmp_path / "ramp.png", (1, 3, 8, 8), "float32", how)
    last = read_picture(tmp_path / "ramp.png", (1, 8, 8, 3), "float32", how)
    raw = read_picture(tmp_path / "ramp.png", (1, 8, 8, 3), "uint8", how)
    assert first.dtype == np.float32
    assert raw.dtype == np.uint8
    np.testing.assert_array_equal(first[0].transpose(1, 2, 0), last[0])
    np.testing.assert_allclose(last, (raw / 255 - 0.5) / 0.25, atol=1e-6)
    # The crop is in the middle, and spans its share of the shorter side.
    across = raw[0, 4, :, 0].astype(float)
    assert across.mean() == pytest.approx(127.5, abs=16)
    assert across[-1] - across[0] == pytest.approx(255 * crop * min(size) / size[0] * 7 / 8, abs=16)


def test_known_classes_are_counted(images: Path, network: Path) -> None:
    right = evaluate_model(network, images, preprocessing=RAW)
    assert (right.pictures, right.top1, right.agreement) == (6, 1.0, None)
    assert right.pictures_per_second > 0
    # The blue pictures are called green.
    (images / "2_blue" / "0.png").rename(images / "1_green" / "5.png")
    wrong = evaluate_model(network, images, preprocessing=RAW)
    assert (wrong.top1, wrong.top5) == (5 / 6, 1.0)


def test_a_background_shifts_classes(images: Path, network: Path, tmp_path: Path) -> None:
    # To a network whose background is red, green is class 0 and blue is class 1.
    (tmp_path / "labels.txt").write_text("1_green/0.png 0\n2_blue/0.png 1\n")
    labels = tmp_path / "labels.txt"
    for first, top1 in ((0, 0.0), (1, 1.0)):
        result = evaluate_model(
            network, images, labels=labels, preprocessing=RAW, first_class=first
        )
        assert result.top1 == top1


def test_a_compiled_model_agrees_with_its_file(
    images: Path, network: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    artifact = compile_model(network, "native", tmp_path / "colours.so").path
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in sorted(images.glob("*/*.png")):
        path.rename(flat / f"{path.parent.name}_{path.name}")
    status, output, error = run(
        capfd, "evaluate", artifact, "--images", flat, "--against", network, "--json"
    )
    assert (status, error) == (0, "")
    result = json.loads(output)
    assert (result["pictures"], result["agreement"], result["top1"]) == (6, 1.0, None)


def test_the_command_prints_shares(
    images: Path, network: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--mean", "0,0,0", "--deviation", "1,1,1", "--against", network]
    status, output, _ = run(capfd, "evaluate", network, "--images", images, *options)
    assert status == 0
    assert "top1     100.0%" in output
    assert f"agrees   100.0% with {network}, whose top1 is 100.0%" in output


def test_pictures_that_cannot_be_used_are_named(
    images: Path, network: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no such folder"):
        evaluate_model(network, images / "none")
    with pytest.raises(UserError, match="no pictures"):
        find_pictures(tmp_path)
    broken = images / "1_green" / "0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(UserError, match=r"0\.png: not a picture, or damaged"):
        evaluate_model(network, images)
    with pytest.raises(UserError, match="classes of its pictures are not known"):
        evaluate_model(network, images / "0_red")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0_red/0.png", "line 1: not the name of a picture"),
        ("0_red/9.png 0", "line 1: .*does not exist"),
        ("0_red/0.png 3", "is of class 3, but the network has 3 scores"),
        ("", "names no pictures"),
    ],
)
def test_labels_that_cannot_be_used_are_named(
    line: str, message: str, images: Path, network: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels.txt").write_text(line)
    with pytest.raises(UserError, match=message):
        evaluate_model(network, images, labels=tmp_path / "labels.txt")


def test_a_network_of_another_shape_is_refused(images: Path, tmp_path: Path) -> None:
    onnx.save(colour_network((2, 3, 8, 8)), tmp_path / "two.onnx")
    with pytest.raises(UserError, match=r"two\.onnx.*\[2, 3, 8, 8\], not one picture"):
        evaluate_model(tmp_path / "two.onnx", images)
