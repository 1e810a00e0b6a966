"""Finds pictures and their classes, and prepares them as a network's input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobilenet_tvm.targets.errors import UserError

Array = np.ndarray[Any, Any]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How a network expects pictures.

    Parameters
    ----------
    mean, deviation : tuple of float
        Per channel, red first, of pixels from 0 to 1. Networks with integer inputs read the
        pixels as they are, from 0 to 255.
    crop : float
        Side of the centre crop as a share of the shorter side.
    bicubic : bool
        Whether to resize by bicubic interpolation instead of bilinear.
    """

    mean: tuple[float, ...] = _IMAGENET[0]
    deviation: tuple[float, ...] = _IMAGENET[1]
    crop: float = 0.875
    bicubic: bool = False


#: As the networks of these libraries expect them: torchvision's with the weights of version 1 and
#: timm's MobileNets; TensorFlow's of the time of Inception, from -1 to 1.
PREPROCESSINGS = {
    "torchvision": Preprocessing(),
    "timm": Preprocessing(bicubic=True),
    "tensorflow": Preprocessing((0.5,) * 3, (0.5,) * 3),
}


@dataclass(frozen=True)
class Picture:
    """A picture's file, and the number of its class, if it is known."""

    path: Path
    label: int | None = None


def find_pictures(folder: str | Path, labels: str | Path | None = None) -> list[Picture]:
    """Find the pictures in a folder.

    Parameters
    ----------
    folder : str or Path
        With pictures, whose classes are then unknown unless `labels` tells them; or with one folder
        per class. Such folders are classes 0, 1, 2 in the order of their names, or, if all names
        are numbers, the classes of these numbers.
    labels : str or Path, optional
        A text file with the name of a picture, relative to the folder, and the number of its class
        in each line. Only these pictures are used.

    Returns
    -------
    list of Picture
        Sorted by name, or in the order of the file.

    Raises
    ------
    UserError
        If there are no pictures, or a line is not of this form.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one with pictures")
    if labels is not None:
        return _listed(folder, Path(labels))
    found = [Picture(path) for path in _pictures_in(folder)]
    if not found:
        classes = sorted(path for path in folder.iterdir() if path.is_dir())
        numbered = all(path.name.isdecimal() for path in classes)
        for place, path in enumerate(classes):
            label = int(path.name) if numbered else place
            found += [Picture(inner, label) for inner in _pictures_in(path)]
    if not found:
        raise UserError(f"{folder}: no pictures ({', '.join(sorted(SUFFIXES))}) are there")
    return found


def spread(pictures: Sequence[Picture], count: int) -> tuple[list[Picture], list[Picture]]:
    """Split pictures into `count` of them, evenly spread, and the others."""
    if count >= len(pictures):
        return list(pictures), []
    chosen = {round(place) for place in np.linspace(0, len(pictures) - 1, count)}
    parts: tuple[list[Picture], list[Picture]] = ([], [])
    for place, picture in enumerate(pictures):
        parts[place not in chosen].append(picture)
    return parts


def read_picture(
    path: Path, shape: Sequence[int], dtype: str, preprocessing: Preprocessing
) -> Array:
    """Read a picture as a network's input.

    Parameters
    ----------
    path : Path
        Any picture that Pillow reads.
    shape : sequence of int
        The input's: [1, C, H, W] or [1, H, W, C], where C is 1 or 3.
    dtype : str
        The input's, such as `float32` or `uint8`.
    preprocessing : Preprocessing
        For float inputs, mean and deviation; for all, crop and interpolation.

    Returns
    -------
    numpy.ndarray
        Of this shape and dtype.

    Raises
    ------
    UserError
        If Pillow is not installed, the file is no picture or is damaged, or the shape is another.
    """
    try:
        from PIL import Image
    except ImportError:
        raise UserError("pictures need Pillow; run: pip install pillow") from None
    channels_last = image_layout(shape)
    height, width = shape[1:3] if channels_last else shape[2:4]
    channels = shape[3 if channels_last else 1]
    kind = Image.Resampling.BICUBIC if preprocessing.bicubic else Image.Resampling.BILINEAR
    try:
        with Image.open(path) as picture:
            image = picture.convert("RGB" if channels == 3 else "L")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).partition("\n")[0].replace(str(path), path.name)
        raise UserError(f"{path}: not a picture, or damaged ({reason}); remove it") from None
    size = _resized(image.size, (int(width / preprocessing.crop), int(height / preprocessing.crop)))
    if size != image.size:
        image = image.resize(size, kind)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    pixels = np.asarray(image.crop((left, top, left + width, top + height)))
    pixels = pixels.reshape(height, width, channels)
    if np.dtype(dtype).kind == "f":
        mean = np.asarray(preprocessing.mean[:channels], np.float32)
        deviation = np.asarray(preprocessing.deviation[:channels], np.float32)
        pixels = (pixels.astype(np.float32) / 255 - mean) / deviation
    if not channels_last:
        pixels = pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[None], dtype)


def image_layout(shape: Sequence[int]) -> bool:
    """Return whether the input is [1, H, W, C] and not [1, C, H, W], or raise a UserError."""
    if len(shape) == 4 and shape[0] == 1 and not {1, 3}.isdisjoint((shape[1], shape[3])):
        return shape[1] not in (1, 3)
    raise UserError(
        f"the network's input is {list(shape)}, not one picture ([1, 3, H, W] or [1, H, W, 3]); "
        "give a network that takes one picture per run"
    )


def _resized(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int]:
    """Return the least size that covers the wanted one, with the sides' ratio kept."""
    (width, height), (across, down) = size, wanted
    if width * down < height * across:
        return across, max(down, across * height // width)
    return max(across, down * width // height), down


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def _listed(folder: Path, labels: Path) -> list[Picture]:
    try:
        lines = labels.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UserError(f"{labels}: cannot be read ({reason})") from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        path = folder / name.strip()
        if not name or not label.isdecimal():
            raise UserError(
                f"{labels}, line {number}: not the name of a picture and a class number"
            )
        if not path.is_file():
            raise UserError(f"{labels}, line {number}: {path} does not exist")
        found.append(Picture(path, int(label)))
    if not found:
        raise UserError(f"{labels}: names no pictures")
    return found
