"""Find objects in a picture: an app that needs the runtime, NumPy and Pillow, but no compiler.

mobilenet-tvm compile --target native --model ssdlite-v3-large --weights ssdlite320.pth -o ssd.so
python examples/detect.py ssd.so PICTURE [--labels FILE] [--min-score 0.5] [-o MARKED.png]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, UnidentifiedImageError

from mobilenet_tvm.runtime import Model, load
from mobilenet_tvm.runtime.detection import Detections, find_objects, ssd_anchors
from mobilenet_tvm.targets.errors import UserError


def detect(model: Model, picture: Image.Image, min_score: float) -> Detections:
    """Return the objects in a picture, with boxes in its own pixels."""
    _, _, height, width = model.inputs[0].shape
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), np.float32)
    image = np.ascontiguousarray((pixels / 127.5 - 1).transpose(2, 0, 1)[None])
    outputs = outputs_of(model(image))
    anchors = ssd_anchors(height, width)
    found = find_objects(
        outputs["bbox_regression"][0],
        outputs["cls_logits"][0],
        anchors,
        (height, width),
        min_score=min_score,
    )
    scale = np.array([picture.width / width, picture.height / height] * 2, np.float32)
    return Detections(found.boxes * scale, found.scores, found.classes)


def outputs_of(result: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Return the outputs of a detector; refuse those of another network."""
    if not (isinstance(result, dict) and {"bbox_regression", "cls_logits"} <= result.keys()):
        raise UserError("the model has no outputs bbox_regression and cls_logits; give a SSDLite")
    return result


def main() -> None:
    """Parse the command line, run the model once, and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a compiled model (.so)")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--labels", type=Path, help="text file with one label per line")
    parser.add_argument("--min-score", type=float, default=0.5)
    parser.add_argument("-o", "--output", type=Path, help="a file for the picture with boxes")
    arguments = parser.parse_args()
    try:
        model = load(arguments.model)
        with Image.open(arguments.picture) as opened:
            picture = opened.convert("RGB")
        found = detect(model, picture, arguments.min_score)
        labels = arguments.labels.read_text().splitlines() if arguments.labels else []
        draw = ImageDraw.Draw(picture)
        for box, score, number in zip(found.boxes, found.scores, found.classes, strict=True):
            label = labels[number] if number < len(labels) else f"class {number}"
            print(f"{score:.3f}  {' '.join(f'{edge:.0f}' for edge in box)}  {label}")
            draw.rectangle(box.tolist(), outline="red", width=2)
        if arguments.output:
            picture.save(arguments.output)
    except (UserError, OSError, ValueError, UnidentifiedImageError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
