"""What follows a detector: anchors, boxes, and the best of those that overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

#: Of the logarithm of a box's size over its anchor's, so that no box is infinite.
_MAX_LOG_SCALE = math.log(1000 / 16)
#: What a network's offsets are divided by: of the centre, and of the logarithm of the size.
_OFFSET_SCALES = (10, 10, 5, 5)


@dataclass(frozen=True)
class Detections:
    """What was found in an image, the surest first.

    Attributes
    ----------
    boxes : ndarray
        Left, top, right and bottom, [found, 4], float32, in pixels of the network's input.
    scores : ndarray
        Probabilities, [found], float32.
    classes : ndarray
        Numbers of the classes, [found], int64.
    """

    boxes: Array
    scores: Array
    classes: Array


def ssd_anchors(
    height: int,
    width: int,
    stride: int = 16,
    scales: Sequence[float] = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95),
    ratios: Sequence[float] = (2, 3),
) -> Array:
    """Return the anchors of a detector whose maps halve from one to the next.

    The defaults are those of SSDLite on MobileNetV3. Each pixel of a map has a square of the
    map's scale, one between it and the next scale, and two rectangles for each ratio.

    Parameters
    ----------
    height, width : int
        Of the network's input, in pixels.
    stride : int
        Pixels of the input for each pixel of the first map.
    scales : sequence of float
        For each map, the side of a square as a share of the input's.
    ratios : sequence of float
        Of the longer to the shorter side of rectangles.

    Returns
    -------
    ndarray
        Left, top, right and bottom, [anchors, 4], float32, in pixels: map after map, row after row.
    """
    anchors = []
    rows, columns = -(-height // stride), -(-width // stride)
    for scale, following in zip(scales, (*scales[1:], 1.0), strict=True):
        between = math.sqrt(scale * following)
        sizes = [(scale, scale), (between, between)]
        for ratio in ratios:
            longer, shorter = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            sizes += [(longer, shorter), (shorter, longer)]
        half = np.minimum(sizes, 1) / 2
        y, x = np.mgrid[:rows, :columns].reshape(2, -1, 1)
        centres = np.concatenate([(x + 0.5) / columns, (y + 0.5) / rows], axis=1)[:, None]
        boxes = np.concatenate([centres - half, centres + half], axis=2)
        anchors.append(boxes.reshape(-1, 4))
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
    return (np.concatenate(anchors) * ((width, height) * 2)).astype(np.float32)


def decode_boxes(offsets: Array, anchors: Array) -> Array:
    """Return the boxes that a network's offsets from its anchors stand for.

    Parameters
    ----------
    offsets : ndarray
        Of the centre and of the logarithm of the size, x before y, [anchors, 4], float32.
    anchors : ndarray
        From `ssd_anchors`, [anchors, 4].

    Returns
    -------
    ndarray
        Left, top, right and bottom, [anchors, 4], float32.
    """
    moves = offsets / np.array(_OFFSET_SCALES, np.float32)
    sizes = anchors[:, 2:] - anchors[:, :2]
    centres = anchors[:, :2] + sizes / 2 + moves[:, :2] * sizes
    half = np.exp(np.minimum(moves[:, 2:], _MAX_LOG_SCALE)) * sizes / 2
    return np.concatenate([centres - half, centres + half], axis=1)


def suppress_overlaps(
    boxes: Array, scores: Array, threshold: float, limit: int | None = None
) -> Array:
    """Choose boxes by their scores, and none that overlaps a better one too much.

    Parameters
    ----------
    boxes : ndarray
        Left, top, right and bottom, [boxes, 4].
    scores : ndarray
        [boxes].
    threshold : float
        Two boxes overlap too much if the area of their intersection is more than this share of
        that of their union.
    limit : int, optional
        How many boxes to choose at most.

    Returns
    -------
    ndarray
        Indices of the boxes that were chosen, int64, the best first.
    """
    order = np.argsort(-scores, kind="stable")
    limit = order.size if limit is None else limit
    areas = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    chosen: list[int] = []
    while order.size and len(chosen) < limit:
        best, rest = order[0], order[1:]
        chosen.append(best)
        low = np.maximum(boxes[best, :2], boxes[rest, :2])
        high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        common = np.prod(np.maximum(high - low, 0), axis=1)
        union = areas[best] + areas[rest] - common
        # Boxes may be empty.
        share = np.divide(common, union, out=np.zeros_like(common), where=common > 0)
        order = rest[share <= threshold]
    return np.array(chosen, np.int64)


def non_max_suppression(
    boxes: Array,
    scores: Array,
    max_output_boxes_per_class: int,
    iou_threshold: float = 0.0,
    score_threshold: float | None = None,
    *,
    center_point_box: bool = False,
) -> Array:
    """Compute ONNX's NonMaxSuppression, before which the compiler cuts a network.

    Parameters
    ----------
    boxes : ndarray
        [batch, boxes, 4]: any two opposite corners, x before y or y before x.
    scores : ndarray
        [batch, classes, boxes].
    max_output_boxes_per_class : int
        How many boxes of each image and class to choose at most.
    iou_threshold : float
        See `suppress_overlaps`; boxes of different classes may overlap.
    score_threshold : float, optional
        Boxes whose score is not above it are none. Default: all are boxes.
    center_point_box : bool
        Whether `boxes` has centres, widths and heights instead of corners.

    Returns
    -------
    ndarray
        Image, class and box of each that was chosen, [chosen, 3], int64: image after image, class
        after class, the best first.
    """
    first, second = boxes[..., :2], boxes[..., 2:]
    if center_point_box:
        low, high = first - second / 2, first + second / 2
    else:
        low, high = np.minimum(first, second), np.maximum(first, second)
    corners = np.concatenate([low, high], axis=2)
    found = [np.empty((0, 3), np.int64)]
    for image, number in np.ndindex(*scores.shape[:2]):
        score = scores[image, number]
        likely = np.arange(score.size)
        if score_threshold is not None:
            likely = np.flatnonzero(score > score_threshold)
        chosen = likely[
            suppress_overlaps(
                corners[image, likely], score[likely], iou_threshold, max_output_boxes_per_class
            )
        ]
        labels = np.full((chosen.size, 2), (image, number))
        found.append(np.column_stack([labels, chosen]))
    return np.concatenate(found)


def find_objects(
    offsets: Array,
    logits: Array,
    anchors: Array,
    size: tuple[int, int],
    *,
    min_score: float = 0.001,
    max_overlap: float = 0.55,
    candidates: int = 300,
    limit: int = 300,
) -> Detections:
    """Return what a single-shot detector found in an image.

    The defaults are those of SSDLite on MobileNetV3.

    Parameters
    ----------
    offsets : ndarray
        The network's `bbox_regression` of one image, [anchors, 4], float32.
    logits : ndarray
        Its `cls_logits`, [anchors, classes], float32; class 0 is the background.
    anchors : ndarray
        From `ssd_anchors`, [anchors, 4].
    size : tuple of int
        Height and width of the network's input, to which boxes are cut.
    min_score : float
        Probability below which a box is none.
    max_overlap : float
        See `suppress_overlaps`; boxes of different classes may overlap.
    candidates : int
        How many boxes of each class to choose from.
    limit : int
        How many to return.

    Returns
    -------
    Detections
        The surest first; no class is 0.
    """
    height, width = size
    boxes = np.clip(decode_boxes(offsets, anchors), 0, np.array([width, height] * 2, np.float32))
    found = best_objects(
        boxes,
        softmax(logits)[:, 1:],
        min_score=min_score,
        max_overlap=max_overlap,
        candidates=candidates,
        limit=limit,
    )
    return Detections(found.boxes, found.scores, found.classes + 1)


def best_objects(
    boxes: Array,
    scores: Array,
    *,
    min_score: float = 0.25,
    max_overlap: float = 0.45,
    candidates: int = 1000,
    limit: int = 300,
) -> Detections:
    """Return the surest boxes of an image, and none that overlaps a better one of its class.

    The defaults are those that are usual for YOLO.

    Parameters
    ----------
    boxes : ndarray
        Left, top, right and bottom, [boxes, 4].
    scores : ndarray
        Probabilities, [boxes, classes].
    min_score, max_overlap, candidates, limit
        As of `find_objects`.

    Returns
    -------
    Detections
        The surest first.
    """
    places = [np.empty(0, np.int64)]
    for score in scores.T:
        likely = np.flatnonzero(score > min_score)
        likely = likely[np.argsort(-score[likely], kind="stable")[:candidates]]
        places.append(likely[suppress_overlaps(boxes[likely], score[likely], max_overlap)])
    place = np.concatenate(places)
    label = np.repeat(np.arange(scores.shape[1]), [len(kept) for kept in places[1:]])
    score = scores[place, label]
    best = np.argsort(-score, kind="stable")[:limit]
    return Detections(boxes[place[best]], score[best], label[best])


def softmax(logits: Array) -> Array:
    """Return probabilities along the last axis, of the shape and type of the logits."""
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=-1, keepdims=True))
