"""Accuracy of a quantised MobileNetV2, and whether it names pictures as ONNX Runtime does.

    pip install '.[verify]' pillow
    python benchmarks/labels.py --target native --keep v2_int8.onnx

The pretrained network is quantised by ONNX Runtime: QDQ, a scale per channel, activations by the
99.99th percentile of what some of the pictures give. The file is compiled, and ONNX Runtime runs
the same one. The pictures are one per class; the network may have been trained on them, so compare
the figures, do not quote them.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime
from PIL import Image

from mobilenet_tvm.compile import ModelOptions, compile_model
from mobilenet_tvm.compile.models.source import resolve
from mobilenet_tvm.runtime import load

Array = np.ndarray[Any, Any]

SHARED = Path(__file__).resolve().parents[2] / "shared"
#: Mean and deviation of ImageNet's channels, as torchvision's networks expect them.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def prepare(path: Path) -> Array:
    """Return a picture as torchvision prepares it: [1, 3, 224, 224]."""
    image = Image.open(path).convert("RGB")
    scale = 256 / min(image.size)
    if scale != 1:
        size = (round(image.width * scale), round(image.height * scale))
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
    pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
    normal = (pixels - np.float32(MEAN)) / np.float32(DEVIATION)
    return np.ascontiguousarray(normal.transpose(2, 0, 1)[None], np.float32)


class Pictures:
    """Hands pictures to ONNX Runtime's calibration."""

    def __init__(self, name: str, paths: list[Path]) -> None:
        self._feeds: Iterator[dict[str, Array]] = ({name: prepare(path)} for path in paths)

    def get_next(self) -> dict[str, Array] | None:
        """Return the next input, or None after the last."""
        return next(self._feeds, None)


def quantize(weights: Path, pictures: list[Path], output: Path) -> None:
    """Write the pretrained network, quantised."""
    # ONNX Runtime imports one of its modules by a name that a script here has: float16.
    sys.path.remove(str(Path(__file__).resolve().parent))
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    model = resolve("v2", ModelOptions(weights=str(weights))).model
    with tempfile.TemporaryDirectory() as folder:
        source, prepared = Path(folder) / "float32.onnx", Path(folder) / "prepared.onnx"
        onnx.save(model, source)
        # Batch norm becomes part of the convolutions.
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(prepared)
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        quantize_static(
            str(prepared),
            str(output),
            Pictures(model.graph.input[0].name, pictures),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": 99.99},
        )


def step_of(path: Path) -> float:
    """Return the scale of the last quantisation of a network."""
    graph = onnx.load(path).graph
    last = [node for node in graph.node if node.op_type == "QuantizeLinear"][-1]
    scale = next(tensor for tensor in graph.initializer if tensor.name == last.input[1])
    return float(onnx.numpy_helper.to_array(scale).reshape(()))


def session_of(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Return ONNX Runtime's session, whose sums never saturate."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def compare(artifact: Path, network: Path, pictures: list[Path], threads: int) -> None:
    """Run all pictures, and print what both named them."""
    ours, theirs = load(artifact, threads=threads), session_of(network, threads)
    name, step = theirs.get_inputs()[0].name, step_of(network)
    right = np.zeros(2, int)
    same, equal, furthest = 0, 0, 0.0
    for path in pictures:
        image, label = prepare(path), int(path.name.partition("_")[0])
        logits = np.stack([np.ravel(ours(image)), np.ravel(theirs.run(None, {name: image})[0])])
        # In steps, of which ties are.
        steps = np.rint(logits / step)
        first = steps.argmax(1)
        right += first == label
        same += first[0] == first[1]
        apart = np.abs(steps[0] - steps[1]).max()
        equal += apart == 0
        furthest = max(furthest, apart)
        if first[0] != first[1]:
            shown = ", ".join(
                f"{who} {one} ({values[one]:g} steps, {values[other]:g} for {other})"
                for who, one, other, values in zip(
                    ("ours", "ONNX Runtime"), first, first[::-1], steps, strict=True
                )
            )
            click.echo(f"{path.name}: {shown}")
    count = len(pictures)
    for who, number in zip(("ours", "ONNX Runtime"), right, strict=True):
        click.echo(f"{who:<12} {number / count:.1%} named as they are")
    click.echo(f"same first label on {same} of {count} pictures, same logits on {equal}")
    click.echo(f"logits at most {furthest:g} steps of {step:.4g} apart")


@click.command()
@click.option("--target", default="native", show_default=True)
@click.option("--weights", type=click.Path(path_type=Path), help="Of torchvision's network.")
@click.option("--pictures", "folder", type=click.Path(path_type=Path), help="A folder.")
@click.option("--calibration", default=100, show_default=True, help="Pictures to calibrate on.")
@click.option("--keep", type=click.Path(path_type=Path), help="Reuse or write the quantised file.")
@click.option("--threads", default=1, show_default=True)
def main(
    target: str,
    weights: Path | None,
    folder: Path | None,
    calibration: int,
    keep: Path | None,
    threads: int,
) -> None:
    """Quantise MobileNetV2, compile it, and compare its labels with ONNX Runtime's."""
    weights = weights or SHARED / "models" / "mobilenet_v2-b0353104.safetensors"
    pictures = sorted((folder or SHARED / "imagenet-sample").glob("*.jpg"))
    with tempfile.TemporaryDirectory() as made:
        network = keep or Path(made) / "v2_int8.onnx"
        if not network.exists():
            quantize(weights, pictures[:: max(1, len(pictures) // calibration)], network)
        artifact = compile_model(network, target, Path(made) / "v2.so").path
        compare(artifact, network, pictures, threads)


if __name__ == "__main__":
    main()
