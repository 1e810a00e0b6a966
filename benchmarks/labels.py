"""Whether compiled, quantised networks name pictures as ONNX Runtime does.

    pip install '.[compress]'
    python benchmarks/labels.py --target native --keep v2_int8.onnx

The pretrained MobileNetV2 is quantised as by `mobilenet-tvm quantize`, calibrated on some of the
pictures. The file is compiled, and ONNX Runtime runs the same one. The network may have been
trained on the pictures, so compare the figures, do not quote them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np
import onnx

from mobilenet_tvm.compile import QuantizeOptions, compile_model, quantize_model
from mobilenet_tvm.compile.compress.pictures import PREPROCESSINGS
from mobilenet_tvm.compile.compress.runners import open_runner

SHARED = Path(__file__).resolve().parents[2] / "shared"


def step_of(path: Path) -> float:
    """Return the scale of the last quantisation of a network."""
    graph = onnx.load(path).graph
    last = [node for node in graph.node if node.op_type == "QuantizeLinear"][-1]
    scale = next(tensor for tensor in graph.initializer if tensor.name == last.input[1])
    return float(onnx.numpy_helper.to_array(scale).reshape(()))


def compare(artifact: Path, network: Path, pictures: list[Path], threads: int) -> None:
    """Run all pictures, and print what both named them."""
    ours, theirs = open_runner(artifact, threads), open_runner(network, threads)
    step = step_of(network)
    right = np.zeros(2, int)
    same, equal, furthest = 0, 0, 0.0
    for path in pictures:
        image = ours.read(path, PREPROCESSINGS["torchvision"])
        label = int(path.name.partition("_")[0])
        logits = np.stack([ours.classify(image), theirs.classify(image)])
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
@click.option("--calibration", default=64, show_default=True, help="Pictures to calibrate on.")
@click.option("--method", default="search", show_default=True, help="How ranges are chosen.")
@click.option("--keep", type=click.Path(path_type=Path), help="Reuse or write the quantised file.")
@click.option("--threads", default=1, show_default=True)
def main(
    target: str,
    weights: Path | None,
    folder: Path | None,
    calibration: int,
    method: str,
    keep: Path | None,
    threads: int,
) -> None:
    """Quantise MobileNetV2, compile it, and compare its labels with ONNX Runtime's."""
    weights = weights or SHARED / "models" / "mobilenet_v2-b0353104.safetensors"
    pictures = sorted((folder or SHARED / "imagenet-sample").glob("*.jpg"))
    with tempfile.TemporaryDirectory() as made:
        network = keep or Path(made) / "v2_int8.onnx"
        if not network.exists():
            options = QuantizeOptions(calibration, held_out=0, method=method)
            quantize_model("v2", pictures[0].parent, network, options, weights=str(weights))
        artifact = compile_model(network, target, Path(made) / "v2.so").path
        compare(artifact, network, pictures, threads)


if __name__ == "__main__":
    main()
