"""Tests of boxes from YOLO's heads, against direct computations for each pixel."""

import math
from typing import Any

import numpy as np
import pytest

from mobilenet_tvm.runtime.detection import best_objects
from mobilenet_tvm.runtime.yolo import (
    boxes_from_anchors,
    boxes_from_distances,
    boxes_from_sizes,
    grid,
)

Array = np.ndarray[Any, Any]

ANCHORS = [[(10, 13), (16, 30)], [(30, 61), (62, 45)]]


def maps(values: int, anchors: int = 1) -> list[Array]:
    """Return a head's outputs for an image of 32 by 48 pixels, at strides 8 and 16."""
    rng = np.random.default_rng(values)
    shapes = [(1, anchors * values, 4, 6), (1, anchors * values, 2, 3)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def joined(outputs: list[Array], anchors: int = 1) -> Array:
    """Return one row for each box, as the module's docstring says."""
    split = [each[0].reshape(anchors, -1, *each.shape[2:]) for each in outputs]
    return np.concatenate([each.transpose(0, 2, 3, 1).reshape(-1, each.shape[1]) for each in split])


def pixels(anchors: int = 1) -> list[tuple[int, int, int, int, int]]:
    """Return map, stride, anchor, row and column of each box."""
    return [
        (number, stride, anchor, row, column)
        for number, stride in enumerate((8, 16))
        for anchor in range(anchors)
        for row in range(32 // stride)
        for column in range(48 // stride)
    ]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


@pytest.mark.parametrize("numbers", [1, 5])
def test_boxes_by_distances(numbers: int) -> None:
    outputs = maps(4 * numbers)
    expected = []
    for number, stride, _, row, column in pixels():
        sides = outputs[number][0, :, row, column].reshape(4, numbers)
        if numbers > 1:
            weights = np.exp(sides) / np.exp(sides).sum(axis=1, keepdims=True)
            sides = (weights * range(numbers)).sum(axis=1, keepdims=True)
        left, top, right, bottom = sides[:, 0]
        x, y = column + 0.5, row + 0.5
        expected.append([stride * edge for edge in (x - left, y - top, x + right, y + bottom)])
    found = boxes_from_distances(joined(outputs), grid(32, 48, (8, 16)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_boxes_by_sizes() -> None:
    outputs = maps(4)
    expected = []
    for number, stride, _, row, column in pixels():
        x, y, w, h = outputs[number][0, :, row, column].astype(float)
        x, y, w, h = column + x, row + y, math.exp(w) / 2, math.exp(h) / 2
        expected.append([stride * edge for edge in (x - w, y - h, x + w, y + h)])
    found = boxes_from_sizes(joined(outputs), grid(32, 48, (8, 16)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_boxes_by_anchors() -> None:
    outputs = maps(7, 2)
    expected = []
    for number, stride, anchor, row, column in pixels(2):
        values = outputs[number][0, 7 * anchor : 7 * anchor + 4, row, column]
        x, y, w, h = (sigmoid(float(value)) for value in values)
        x, y = (2 * x - 0.5 + column) * stride, (2 * y - 0.5 + row) * stride
        width, height = ANCHORS[number][anchor]
        w, h = (2 * w) ** 2 * width / 2, (2 * h) ** 2 * height / 2
        expected.append([x - w, y - h, x + w, y + h])
    found = boxes_from_anchors(joined(outputs, 2)[:, :4], grid(32, 48, (8, 16), ANCHORS))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_surest_boxes_of_each_class() -> None:
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 3], [8, 8, 9, 9], [0, 0, 4, 4]], np.float32)
    scores = np.array([[0.5, 0.3], [0.9, 0.0], [0.2, 0.6], [0.1, 0.2]], np.float32)
    found = best_objects(boxes, scores)
    assert found.classes.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(found.scores, scores[[1, 2, 0], [0, 1, 1]])
    np.testing.assert_array_equal(found.boxes, boxes[[1, 2, 0]])
    assert best_objects(boxes, scores, limit=1).classes.tolist() == [0]
    assert (
        best_objects(boxes, scores, candidates=1).scores.tolist() == scores[[1, 2], [0, 1]].tolist()
    )
    assert best_objects(boxes, scores, min_score=0.9).boxes.shape == (0, 4)
