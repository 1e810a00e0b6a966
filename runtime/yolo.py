"""Boxes of detectors in YOLO's manner, from what their heads compute for each pixel of their maps.

The rows of a head's outputs are in the order of `grid`: transpose maps to
[anchors, rows, columns, values], and join them. What follows is `detection.best_objects`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mobilenet_tvm.runtime.detection import Array, softmax


def grid(
    height: int,
    width: int,
    strides: Sequence[int] = (8, 16, 32),
    anchors: Sequence[Sequence[tuple[float, float]]] | None = None,
) -> Array:
    """Return the places of the pixels of a detector's maps, and the anchors there.

    Parameters
    ----------
    height, width : int
        Of the network's input, in pixels: multiples of the strides.
    strides : sequence of int
        For each map, pixels of the input for each of its pixels.
    anchors : sequence, optional
        For each map, widths and heights of its anchors, in pixels of the input. Default: there are
        none, and one box for each pixel.

    Returns
    -------
    ndarray
        Column, row and stride, [boxes, 3], and the anchor's width and height, if there are anchors,
        [boxes, 5], float32: map after map, anchor after anchor, row after row.
    """
    maps = []
    for number, stride in enumerate(strides):
        rows, columns = np.mgrid[: height // stride, : width // stride].reshape(2, -1)
        places = np.column_stack([columns, rows, np.full_like(rows, stride)])
        for size in anchors[number] if anchors else [()]:
            maps.append(np.column_stack([places, np.tile(size, (len(places), 1))]))
    return np.concatenate(maps).astype(np.float32)


def boxes_from_distances(distances: Array, places: Array) -> Array:
    """Return boxes that are given by the distances of their edges from their pixels' centres.

    Such heads are those of PP-YOLOE, YOLOv6 and YOLOv8.

    Parameters
    ----------
    distances : ndarray
        To the left, top, right and bottom, in strides, [boxes, 4], or, as logits of each whole
        number of strides from 0 on, [boxes, 4 * numbers].
    places : ndarray
        From `grid`, [boxes, 3].

    Returns
    -------
    ndarray
        Left, top, right and bottom in pixels, [boxes, 4].
    """
    if distances.shape[1] > 4:
        shares = softmax(distances.reshape(len(distances), 4, -1))
        distances = shares @ np.arange(shares.shape[2], dtype=shares.dtype)
    centres = places[:, :2] + 0.5
    corners = np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], axis=1)
    return np.asarray(corners * places[:, 2:3])


def boxes_from_sizes(outputs: Array, places: Array) -> Array:
    """Return boxes that are given by their centres and the logarithms of their sizes.

    Such heads are those of YOLOX and YuNet.

    Parameters
    ----------
    outputs : ndarray
        Centre from the pixel's corner, and logarithm of the size, both in strides, x before y,
        [boxes, 4].
    places : ndarray
        From `grid`, [boxes, 3].

    Returns
    -------
    ndarray
        Left, top, right and bottom in pixels, [boxes, 4].
    """
    strides = places[:, 2:3]
    return _corners((places[:, :2] + outputs[:, :2]) * strides, np.exp(outputs[:, 2:]) * strides)


def boxes_from_anchors(outputs: Array, places: Array) -> Array:
    """Return boxes that are given by logits of their centres and of their shares of anchors.

    Such heads are those of YOLOv5 and YOLOv7: a centre is at most a pixel of the map away from its
    own, and a side at most four times the anchor's.

    Parameters
    ----------
    outputs : ndarray
        Logits of the centre and of the size, x before y, [boxes, 4].
    places : ndarray
        From `grid` with anchors, [boxes, 5].

    Returns
    -------
    ndarray
        Left, top, right and bottom in pixels, [boxes, 4].
    """
    shares = 2 / (1 + np.exp(-outputs))
    centres = (places[:, :2] + shares[:, :2] - 0.5) * places[:, 2:3]
    return _corners(centres, shares[:, 2:] ** 2 * places[:, 3:])


def _corners(centres: Array, sizes: Array) -> Array:
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)
