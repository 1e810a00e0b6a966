"""Operators whose conversion is this project's own: each variant against ONNX Runtime."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import odd_models
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_graphs import agrees, graph
from relax_helpers import normal

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.targets.errors import UserError

SHAPE = [2, 4, 9, 11]


def variant(*values: Any) -> Any:
    """Return a case that only the full tests try."""
    return pytest.param(*values, marks=pytest.mark.full)


def node(op: str, *inputs: str, outputs: tuple[str, ...] = ("y",), **attributes: Any) -> Any:
    return helper.make_node(op, inputs or ["x"], outputs, **attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1], "storage_order": 1},
        variant({"kernel_shape": [2, 2], "strides": [2, 2]}),
        variant({"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        variant({"kernel_shape": [3, 3], "strides": [2, 3], "dilations": [2, 2], "ceil_mode": 1}),
        variant({"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    ],
    ids=str,
)
def test_places_of_maxima(attributes: dict[str, Any], tmp_path: Path) -> None:
    pool = node("MaxPool", outputs=("y", "i"), **attributes)
    # Some values are equal.
    agrees(graph([pool], SHAPE, ("y", "i")), tmp_path, np.round(2 * normal(*SHAPE)))


@pytest.mark.full
def test_places_of_maxima_of_bytes_are_not_in_the_padding(tmp_path: Path) -> None:
    nodes = [
        node("Cast", outputs=("c",), to=TensorProto.UINT8),
        node("MaxPool", "c", outputs=("p", "y"), kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]),
    ]
    agrees(graph(nodes, SHAPE), tmp_path, np.maximum(np.round(2 * normal(*SHAPE)), 0))


@pytest.mark.full
@pytest.mark.parametrize("sized", [False, True])
def test_values_are_put_back_where_they_were(sized: bool, tmp_path: Path) -> None:
    kernel = [2, 2] if sized else [3, 1]
    window = {"kernel_shape": kernel, "strides": kernel}
    shape = {"s": np.array(SHAPE)} if sized else {}
    nodes = [
        node("MaxPool", outputs=("p", "i"), **window),
        node("MaxUnpool", "p", "i", *shape, **window),
    ]
    agrees(graph(nodes, SHAPE, **shape), tmp_path, normal(*SHAPE))


@pytest.mark.parametrize(("opset", "factors"), [(18, 2), variant(20, 2), (21, 4)])
def test_group_normalisation(opset: int, factors: int, tmp_path: Path) -> None:
    norm = node("GroupNormalization", "x", "s", "b", num_groups=2, epsilon=0.01)
    weights = {"s": normal(factors), "b": normal(factors, seed=1)}
    agrees(graph([norm], SHAPE, opset=opset, **weights), tmp_path, normal(*SHAPE))


@pytest.mark.parametrize(
    ("axis", "scale"), [variant(-1, (11,)), (1, (11,)), variant(1, (4, 9, 11)), variant(0, ())]
)
def test_normalisation_by_root_mean_squares(
    axis: int, scale: tuple[int, ...], tmp_path: Path
) -> None:
    norm = node("RMSNormalization", "x", "s", axis=axis)
    agrees(graph([norm], SHAPE, opset=23, s=normal(*scale)), tmp_path, normal(*SHAPE))


def test_attention_is_expanded(tmp_path: Path) -> None:
    mask = np.where(normal(9, 9) > 0, 0, -np.inf).astype(np.float32)
    mask[:, 0] = 0
    attention = node("Attention", "x", "k", "v", "m", scale=0.3)
    weights = {"k": normal(2, 4, 9, 11, seed=1), "v": normal(2, 4, 9, 8, seed=2), "m": mask}
    agrees(graph([attention], SHAPE, opset=23, **weights), tmp_path, normal(*SHAPE))


@pytest.mark.full
@pytest.mark.parametrize("align", [0, 1])
def test_affine_transformer(align: int, tmp_path: Path) -> None:
    nodes = [
        node("AffineGrid", "t", "s", outputs=("g",), align_corners=align),
        node("GridSample", "x", "g", align_corners=align),
    ]
    weights = {"t": normal(2, 2, 3), "s": np.array([2, 4, 5, 6])}
    agrees(graph(nodes, SHAPE, opset=20, **weights), tmp_path, normal(*SHAPE))


@pytest.mark.parametrize("op", ["Cosh", "Sinh"])
def test_hyperbolic_functions_of_small_and_large_values(op: str, tmp_path: Path) -> None:
    exponents = np.linspace(-30, 4.48, np.prod(SHAPE)).reshape(SHAPE)
    data = (np.exp(exponents) * np.sign(normal(*SHAPE))).astype(np.float32)
    nodes = [node(op, outputs=("c",)), node("Div", "c", "x")]
    agrees(graph(nodes, SHAPE), tmp_path, data)


@pytest.mark.parametrize("signs", [(0, 1), variant((1, 0)), variant((0, 0)), variant((1, 1))])
def test_infinities_of_either_sign(signs: tuple[int, int], tmp_path: Path) -> None:
    data = normal(*SHAPE)
    data[0, 0, 0, :3] = np.inf, -np.inf, np.nan
    negative, positive = signs
    nodes = [
        node("IsInf", outputs=("i",), detect_negative=negative, detect_positive=positive),
        node("Where", "i", "one", "x"),
    ]
    agrees(graph(nodes, SHAPE, one=np.ones(1, np.float32)), tmp_path, data)


@pytest.mark.parametrize("op", ["ReduceMax", variant("ReduceMin")])
def test_extremes_of_infinities_and_truth_values(op: str, tmp_path: Path) -> None:
    data = normal(*SHAPE)
    data[0, 0] = -np.inf if op == "ReduceMax" else np.inf
    nodes = [
        node(op, "x", "a"),
        node("Greater", "x", "half", outputs=("g",)),
        node(op, "g", "a", outputs=("t",), keepdims=0),
    ]
    weights = {"half": np.array(0.5, np.float32), "a": np.array([2, -1])}
    agrees(graph(nodes, SHAPE, ("y", "t"), opset=20, **weights), tmp_path, data)


@pytest.mark.parametrize("bounds", [["", "high"], variant(["low"]), variant(["low", "high"])])
def test_clip_of_integers(bounds: list[str], tmp_path: Path) -> None:
    nodes = [
        node("Cast", outputs=("c",), to=TensorProto.INT8),
        node("Clip", "c", *bounds),
    ]
    values = {"low": np.array(-2, np.int8), "high": np.array(3, np.int8)}
    given = {name: value for name, value in values.items() if name in bounds}
    agrees(graph(nodes, SHAPE, **given), tmp_path, np.round(4 * normal(*SHAPE)))


@pytest.mark.full
@pytest.mark.parametrize("to", [TensorProto.INT32, TensorProto.INT64])
def test_powers_of_integers(to: int, tmp_path: Path) -> None:
    nodes = [node("Cast", outputs=("c",), to=to), node("Pow", "c", "e")]
    exponent = np.array(5, helper.tensor_dtype_to_np_dtype(to))
    agrees(graph(nodes, SHAPE, e=exponent), tmp_path, np.round(20 * normal(*SHAPE)))


@pytest.mark.full
@pytest.mark.parametrize("opset", [7, 13])
def test_dropout_has_a_mask(opset: int, tmp_path: Path) -> None:
    nodes = [node("Dropout", outputs=("d", "m")), node("Exp", "d", outputs=("y",))]
    agrees(graph(nodes, SHAPE, ("y", "m"), opset), tmp_path, normal(*SHAPE))


def test_empty_parts_of_a_split(tmp_path: Path) -> None:
    nodes = [
        node("Split", "x", "sizes", outputs=("a", "b", "c"), axis=1),
        node("Concat", "c", "b", "a", axis=1),
    ]
    agrees(graph(nodes, SHAPE, sizes=np.array([3, 0, 1])), tmp_path, normal(*SHAPE))


@pytest.mark.full
@pytest.mark.parametrize("attributes", [{"reverse": 1}, {"exclusive": 1}], ids=str)
def test_cumulative_products(attributes: dict[str, int], tmp_path: Path) -> None:
    data = normal(*SHAPE)
    product = node("CumProd", "x", "axis", **attributes)
    agrees(graph([product], SHAPE, opset=26, axis=np.array(1)), tmp_path, data)


@pytest.mark.full
def test_sizes_are_folded(tmp_path: Path) -> None:
    nodes = [
        node("Relu", outputs=("r",)),
        node("Size", "r", outputs=("s",)),
        node("Cast", "s", outputs=("f",), to=TensorProto.FLOAT),
        node("Div", "r", "f"),
    ]
    agrees(graph(nodes, SHAPE), tmp_path, normal(*SHAPE))


ROIS = {"r": np.array([[0, 0, 5, 5]], np.float32), "b": np.array([0])}


@pytest.mark.parametrize(
    ("nodes", "weights", "message"),
    [
        ([node("RoiAlign", "x", "r", "b", mode="max")], ROIS, "RoiAlign cannot be compiled .mode"),
        (
            [
                node(
                    "BatchNormalization",
                    *"xwwww",
                    outputs=("z", "y", "v"),
                    training_mode=1,
                )
            ],
            {"w": np.ones(4, np.float32)},
            "BatchNormalization cannot be compiled .training mode",
        ),
        (
            [node("Dropout", "x", "ratio", "training")],
            {"ratio": np.array(0.5, np.float32), "training": np.array(True)},
            "Dropout cannot be compiled .training mode",
        ),
        (
            [node("Slice", "x", "s", "s", "a")],
            {"s": np.array([3]), "a": np.array([1])},
            re.escape("output 'y' of shape [2, 0, 9, 11] has no elements"),
        ),
    ],
    ids=["max of regions", "statistics of the batch", "dropout", "no elements"],
)
def test_what_has_no_equal_result_is_refused(
    nodes: list[onnx.NodeProto], weights: dict[str, Any], message: str, tmp_path: Path
) -> None:
    proto = graph(nodes, SHAPE, opset=17, **weights)
    with pytest.raises(UserError, match=message) as refused:
        compile_model(proto, "x86", tmp_path / "m.so")
    assert "\n" not in str(refused.value)


def test_mean_of_whole_numbers_over_a_picture(tmp_path: Path) -> None:
    net = odd_models.Net((1, 4, 5, 6), TensorProto.INT32)
    mean = net.node("Cast", net.node("ReduceMean", "input", axes=[1, 2]), to=TensorProto.FLOAT)
    model = net.model(mean, shapes=((1, 1, 1, 6),), opset=13)
    values = np.random.default_rng(0).integers(-50, 50, (1, 4, 5, 6)).astype(np.int32)
    agrees(model, tmp_path, values)
