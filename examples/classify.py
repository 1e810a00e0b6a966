"""Classify a picture: an app that needs the runtime, NumPy and Pillow, but no compiler.

python examples/classify.py MODEL.so PICTURE [--labels FILE] [--scaling imagenet]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from mobilenet_tvm.runtime import load
from mobilenet_tvm.targets.errors import UserError

# (pixel / 255 - mean) / deviation, per channel, as in the training of the network.
SCALINGS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "tensorflow": ((128 / 255,) * 3, (128 / 255,) * 3),
}


def prepare(path: Path, shape: tuple[int, ...], dtype: str, scaling: str) -> np.ndarray[Any, Any]:
    """Return the centre of a picture as the input of a network, in NCHW or NHWC."""
    channels_last = shape[-1] == 3
    height, width = shape[1:3] if channels_last else shape[2:4]
    with Image.open(path) as picture:
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.convert("RGB").crop((left, top, left + side, top + side))
        pixels = np.asarray(square.resize((width, height), Image.Resampling.BILINEAR))
    if np.dtype(dtype).kind == "f":
        mean, deviation = SCALINGS[scaling]
        pixels = (pixels / 255 - mean) / deviation
    if not channels_last:
        pixels = pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(np.broadcast_to(pixels, shape), dtype)


def probabilities(output: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return class probabilities, from logits or from probabilities, possibly quantised."""
    values = output.astype(np.float64)
    if output.dtype.kind in "iu" or (values.min() >= 0 and abs(values.sum() - 1) < 0.01):
        return np.asarray(values / values.sum())
    exponents = np.exp(values - values.max())
    return np.asarray(exponents / exponents.sum())


def main() -> None:
    """Parse the command line, run the model once, and print the five most likely classes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a compiled model (.so)")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--labels", type=Path, help="text file with one label per line")
    parser.add_argument("--scaling", choices=SCALINGS, default="imagenet")
    arguments = parser.parse_args()
    try:
        model = load(arguments.model)
        info = model.inputs[0]
        output = model(prepare(arguments.picture, info.shape, info.dtype, arguments.scaling))
        labels = arguments.labels.read_text().splitlines() if arguments.labels else []
    except (UserError, OSError, UnidentifiedImageError) as error:
        sys.exit(f"error: {error}")
    likely = probabilities(output[0])
    for index in likely.argsort()[::-1][:5]:
        label = labels[index] if index < len(labels) else f"class {index}"
        print(f"{likely[index]:.3f}  {label}")


if __name__ == "__main__":
    main()
