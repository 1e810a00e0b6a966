"""Pictures of plain colours, and networks that tell them apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from odd_models import Net
from PIL import Image

COLOURS = ("red", "green", "blue")


def write_pictures(folder: Path, count: int = 2, size: tuple[int, int] = (20, 16)) -> Path:
    """Write `count` pictures of each colour, each in a folder of its class, and return `folder`."""
    rng = np.random.default_rng(0)
    for channel, colour in enumerate(COLOURS):
        (folder / f"{channel}_{colour}").mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 100, (size[1], size[0], 3), dtype=np.uint8)
            pixels[..., channel] += 155
            Image.fromarray(pixels).save(folder / f"{channel}_{colour}" / f"{number}.png")
    return folder


def colour_network(shape: tuple[int | str, ...] = (1, 3, 8, 8)) -> onnx.ModelProto:
    """Return a classifier whose scores are the means of the colours, red first."""
    net = Net(shape)
    x = net.node("Conv", "input", net.weight(np.eye(3).reshape(3, 3, 1, 1)))
    return net.model(net.node("Flatten", net.node("GlobalAveragePool", x)), shapes=[(shape[0], 3)])
