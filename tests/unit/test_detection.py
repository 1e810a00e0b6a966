"""Tests of what follows a detector, against direct computations and ONNX Runtime."""

import math
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from mobilenet_tvm.runtime.detection import (
    decode_boxes,
    find_objects,
    non_max_suppression,
    ssd_anchors,
    suppress_overlaps,
)

Array = np.ndarray[Any, Any]


def random_boxes(rng: np.random.Generator, count: int) -> Array:
    corners = rng.uniform(0, 100, (count, 2, 2)).astype(np.float32)
    return np.concatenate([corners.min(1), corners.max(1)], axis=1)


def overlap(one: Array, other: Array) -> float:
    """Intersection over union of two boxes, in the words of its definition."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = float(width * height) if width > 0 and height > 0 else 0.0
    areas = sum(float((b[2] - b[0]) * (b[3] - b[1])) for b in (one, other))
    return common / (areas - common) if areas > common else 0.0


def chosen_directly(boxes: Array, scores: Array, threshold: float) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(overlap(boxes[index], boxes[better]) <= threshold for better in kept):
            kept.append(index)
    return kept


def test_anchors_are_those_of_ssdlite320() -> None:
    anchors = ssd_anchors(320, 320)
    assert anchors.shape == (3234, 4)
    expected = []
    scales = [0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0]
    for number, side in enumerate((20, 10, 5, 3, 2, 1)):
        scale, between = scales[number], math.sqrt(scales[number] * scales[number + 1])
        sizes = [(scale, scale), (between, between)]
        for ratio in (2, 3):
            long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            sizes += [(long, short), (short, long)]
        for row in range(side):
            for column in range(side):
                x, y = (column + 0.5) / side, (row + 0.5) / side
                for w, h in sizes:
                    half = min(w, 1) / 2, min(h, 1) / 2
                    box = (x - half[0], y - half[1], x + half[0], y + half[1])
                    expected.append([320 * edge for edge in box])
    np.testing.assert_allclose(anchors, expected, atol=1e-3)


def test_anchors_of_an_oblong_input() -> None:
    # Maps of 5x3, 3x2 and 2x1 pixels.
    anchors = ssd_anchors(80, 48, scales=(0.2, 0.5, 0.8), ratios=(2,))
    assert anchors.shape == (4 * (15 + 6 + 2), 4)
    np.testing.assert_allclose(anchors[0], [8 - 4.8, 8 - 8, 8 + 4.8, 8 + 8], atol=1e-4)
    assert anchors[-1].mean() == pytest.approx((24 + 60) / 2)


def test_boxes_are_moved_and_scaled_anchors() -> None:
    anchors = np.array([[0, 0, 10, 20], [10, 10, 30, 20]], np.float32)
    offsets = np.array([[0, 0, 0, 0], [10, -5, 5 * math.log(2), 1000]], np.float32)
    longest = 10 * 1000 / 16
    expected = [[0, 0, 10, 20], [20, 10 - longest / 2, 60, 10 + longest / 2]]
    np.testing.assert_allclose(decode_boxes(offsets, anchors), expected, rtol=1e-5)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.55, 1.0])
@pytest.mark.parametrize("count", [0, 1, 2, 150])
def test_overlaps_are_suppressed(threshold: float, count: int) -> None:
    rng = np.random.default_rng(count)
    boxes, scores = random_boxes(rng, count), rng.uniform(size=count)
    chosen = suppress_overlaps(boxes, scores, threshold)
    assert chosen.tolist() == chosen_directly(boxes, scores, threshold)


def test_equal_and_empty_boxes() -> None:
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 4], [1, 1, 1, 1], [1, 1, 1, 1]], np.float32)
    assert suppress_overlaps(boxes, np.array([0.5, 0.5, 0.9, 0.1]), 0.5).tolist() == [2, 0, 3]


def test_objects_are_those_of_a_direct_computation() -> None:
    rng = np.random.default_rng(7)
    anchors = ssd_anchors(96, 64)
    offsets = rng.normal(0, 2, (len(anchors), 4)).astype(np.float32)
    logits = rng.normal(0, 3, (len(anchors), 5)).astype(np.float32)
    found = find_objects(
        offsets, logits, anchors, (96, 64), min_score=0.3, max_overlap=0.4, candidates=20, limit=40
    )
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    boxes = decode_boxes(offsets, anchors)
    boxes = np.stack([np.clip(boxes[:, i], 0, (64, 96)[i % 2]) for i in range(4)], axis=1)
    expected = []
    for number in range(1, 5):
        scores = probabilities[:, number]
        likely = sorted((i for i in range(len(boxes)) if scores[i] > 0.3), key=lambda i: -scores[i])
        likely = likely[:20]
        kept = chosen_directly(boxes[likely], scores[likely], 0.4)
        expected += [(float(scores[likely[i]]), number, *boxes[likely[i]]) for i in kept]
    expected = sorted(expected, reverse=True)[:40]
    assert len(expected) == 40
    assert found.classes.tolist() == [row[1] for row in expected]
    np.testing.assert_allclose(found.scores, [row[0] for row in expected], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, [row[2:] for row in expected], atol=1e-3)


def test_nothing_is_found_in_background() -> None:
    anchors = ssd_anchors(64, 64)
    logits = np.zeros((len(anchors), 3), np.float32)
    logits[:, 0] = 20
    found = find_objects(np.zeros_like(anchors), logits, anchors, (64, 64))
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == found.classes.shape == (0,)


def suppressed_by_onnxruntime(
    boxes: Array,
    scores: Array,
    most: int,
    overlap: float,
    least: float | None = None,
    *,
    center_point_box: bool = False,
) -> Array:
    numbers = [("most", TensorProto.INT64, most), ("overlap", TensorProto.FLOAT, overlap)]
    if least is not None:
        numbers.append(("least", TensorProto.FLOAT, least))
    node = helper.make_node(
        "NonMaxSuppression",
        ["boxes", "scores", *[name for name, _, _ in numbers]],
        ["chosen"],
        center_point_box=int(center_point_box),
    )
    graph = helper.make_graph(
        [node],
        "suppression",
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, boxes.shape),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, scores.shape),
        ],
        [onnx.ValueInfoProto(name="chosen")],
        [helper.make_tensor(name, kind, [], [value]) for name, kind, value in numbers],
    )
    opset = [helper.make_opsetid("", 11)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return np.asarray(session.run(None, {"boxes": boxes, "scores": scores})[0])


@pytest.mark.parametrize("center_point_box", [False, True])
@pytest.mark.parametrize(
    ("most", "overlap", "least"),
    [
        (5, 0.5, None),
        (2**62, 0.3, 0.2),
        (100, 0.0, 1 / 3),
        (100, 1.0, -1.0),
        (0, 0.5, None),
        (9, 0.5, 2.0),
    ],
)
@pytest.mark.parametrize("count", [0, 1, 150])
def test_suppression_is_that_of_onnx(
    count: int, most: int, overlap: float, least: float | None, center_point_box: bool
) -> None:
    # Corners are in any order, and with center_point_box some sizes are negative.
    rng = np.random.default_rng(count)
    boxes = rng.uniform(-0.2, 1, (2, count, 4)).astype(np.float32)
    scores = rng.uniform(size=(2, 3, count)).astype(np.float32)
    # Equal scores, and overlaps of exactly the threshold.
    scores[0, 1] = np.round(3 * scores[0, 1]) / 3
    boxes[1] = np.round(4 * boxes[1])
    form = {"center_point_box": center_point_box}
    found = non_max_suppression(boxes, scores, most, overlap, least, **form)
    expected = suppressed_by_onnxruntime(boxes, scores, most, overlap, least, **form)
    assert found.dtype == np.int64
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)
    assert bool(len(found)) == (count > 0 and most > 0 and least != 2.0)
