"""Find objects in a picture: an app that needs the runtime, NumPy and Pillow, but no compiler.

mobilenet-tvm compile --target native --model ssdlite-v3-large --weights ssdlite320.pth -o ssd.so
python examples/detect.py ssd.so PICTURE [--labels FILE] [--min-score 0.5] [-o MARKED.png]

Which detector it is, is seen from the names of the outputs: torchvision's SSDLite, YuNet or
UltraFace.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, UnidentifiedImageError

from mobilenet_tvm.runtime import Model, load
from mobilenet_tvm.runtime.detection import Detections, best_objects, find_objects, ssd_anchors
from mobilenet_tvm.runtime.yolo import boxes_from_sizes, grid
from mobilenet_tvm.targets.errors import UserError

Array = np.ndarray[Any, Any]
#: Pixels of the input for each pixel of YuNet's maps.
STRIDES = (8, 16, 32)


def detect(model: Model, picture: Image.Image, min_score: float) -> Detections:
    """Return the objects in a picture, with boxes in its own pixels."""
    names = {output.name for output in model.outputs}
    finders = {"cls_logits": ssdlite, "cls_8": yunet, "scores": ultraface}
    finder = next((finders[name] for name in finders if name in names), None)
    if finder is None:
        raise UserError(
            f"the model's outputs are {', '.join(sorted(names))}; give a SSDLite (bbox_regression, "
            "cls_logits), a YuNet (cls_8, ...) or an UltraFace (scores, boxes)"
        )
    _, _, height, width = model.inputs[0].shape
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR), np.float32)
    found = finder(model, pixels, min_score)
    scale = np.array([picture.width / width, picture.height / height] * 2, np.float32)
    return Detections(found.boxes * scale, found.scores, found.classes)


def ssdlite(model: Model, pixels: Array, min_score: float) -> Detections:
    """Decode what torchvision's SSDLite finds."""
    height, width, _ = pixels.shape
    outputs = run(model, pixels / 127.5 - 1)
    return find_objects(
        outputs["bbox_regression"][0],
        outputs["cls_logits"][0],
        ssd_anchors(height, width),
        (height, width),
        min_score=min_score,
    )


def yunet(model: Model, pixels: Array, min_score: float) -> Detections:
    """Decode the faces that YuNet finds in blue, green and red."""
    height, width, _ = pixels.shape
    outputs = run(model, pixels[..., ::-1])

    def joined(name: str) -> Array:
        return np.concatenate([outputs[f"{name}_{stride}"][0] for stride in STRIDES])

    scores = np.sqrt(joined("cls") * joined("obj"))
    boxes = boxes_from_sizes(joined("bbox"), grid(height, width, STRIDES))
    return best_objects(boxes, scores, min_score=min_score)


def ultraface(model: Model, pixels: Array, min_score: float) -> Detections:
    """Return the faces that UltraFace finds, which decodes its boxes itself."""
    height, width, _ = pixels.shape
    outputs = run(model, (pixels - 127) / 128)
    boxes = outputs["boxes"][0] * np.array([width, height] * 2, np.float32)
    return best_objects(boxes, outputs["scores"][0, :, 1:], min_score=min_score)


def run(model: Model, pixels: Array) -> dict[str, Array]:
    """Return a network's outputs by name for an image in NHWC without the batch."""
    image = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)
    outputs: dict[str, Array] = model(image)
    return outputs


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
