"""Segment a picture: an app that needs the runtime, NumPy and Pillow, but no compiler.

mobilenet-tvm compile --target native --model lraspp-v3-large --weights lraspp.pth -o lraspp.so
python examples/segment.py lraspp.so PICTURE [--scaling tensorflow] [--labels FILE]\
    [-o COLOURED.png]
"""

from __future__ import annotations

import argparse
import colorsys
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from mobilenet_tvm.runtime import Model, load
from mobilenet_tvm.targets.errors import UserError

# Mean and deviation of a colour from 0 to 1, as in the training of networks.
SCALINGS = {
    "torchvision": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "tensorflow": (0.5, 0.5),
}


def segment(model: Model, picture: Image.Image, scaling: str) -> np.ndarray[Any, Any]:
    """Return the number of the likeliest class of each pixel of a picture, [height, width]."""
    mean, deviation = SCALINGS[scaling]
    _, _, height, width = model.inputs[0].shape
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR)) / 255
    image = ((pixels - mean) / deviation).transpose(2, 0, 1)[None]
    scores = model(np.ascontiguousarray(image, np.float32))
    if isinstance(scores, dict) or scores.ndim != 4:
        raise UserError("the model has no map of classes as its output; give a LR-ASPP")
    classes = Image.fromarray(scores[0].argmax(0).astype(np.uint8))
    return np.asarray(classes.resize(picture.size, Image.Resampling.NEAREST))


def coloured(picture: Image.Image, classes: np.ndarray[Any, Any]) -> Image.Image:
    """Return a picture with a colour for each class but 0, the background."""
    hues = np.arange(256) * 0.618 % 1
    colours = np.array([colorsys.hsv_to_rgb(hue, 1, 1) for hue in hues]) * 255
    pixels = np.asarray(picture, np.float32)
    mixed = np.where(classes[..., None] > 0, (pixels + colours[classes]) / 2, pixels)
    return Image.fromarray(mixed.astype(np.uint8))


def main() -> None:
    """Parse the command line, run the model once, and print the share of each class."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a compiled model (.so)")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--scaling", choices=SCALINGS, default="torchvision")
    parser.add_argument("--labels", type=Path, help="text file with one label per line")
    parser.add_argument("-o", "--output", type=Path, help="a file for the coloured picture")
    arguments = parser.parse_args()
    try:
        model = load(arguments.model)
        with Image.open(arguments.picture) as opened:
            picture = opened.convert("RGB")
        classes = segment(model, picture, arguments.scaling)
        labels = arguments.labels.read_text().splitlines() if arguments.labels else []
        if arguments.output:
            coloured(picture, classes).save(arguments.output)
    except (UserError, OSError, ValueError, UnidentifiedImageError) as error:
        sys.exit(f"error: {error}")
    numbers, counts = np.unique(classes, return_counts=True)
    for number, count in sorted(zip(numbers, counts, strict=True), key=lambda pair: -pair[1]):
        label = labels[number] if number < len(labels) else f"class {number}"
        print(f"{count / classes.size:.3f}  {label}")


if __name__ == "__main__":
    main()
