"""ConvTranspose: every way to say how large the output is, as ONNX Runtime computes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_layers import normal
from onnx import helper
from onnx_graphs import agrees, graph
from relax_helpers import operators

from mobilenet_tvm.compile.frontend.importer import to_relax

SHAPE = (2, 6, 5, 7)


def transposed(kernel: tuple[int, int], outputs: int = 4, **attributes: Any) -> Any:
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], **attributes)
    group = attributes.get("group", 1)
    weights = {"w": normal(SHAPE[1], outputs, *kernel), "b": normal(outputs * group)}
    return graph([node], SHAPE, **weights)


@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        ((2, 2), {"strides": [2, 2]}),
        ((3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
        ((4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ((3, 5), {"strides": [3, 2], "pads": [0, 2, 1, 3]}),
        ((2, 3), {"strides": [3, 4]}),
        ((3, 3), {}),
        ((3, 2), {"strides": [2, 1], "dilations": [2, 3]}),
        ((3, 3), {"strides": [2, 2], "group": 3}),
        ((2, 2), {"strides": [2, 2], "group": 6}),
        ((3, 3), {"strides": [1, 1], "pads": [3, 3, 3, 3]}),
    ],
)
def test_strides_padding_dilation_and_groups(
    kernel: tuple[int, int], attributes: dict[str, Any], tmp_path: Path
) -> None:
    outputs = 1 if attributes.get("group") == SHAPE[1] else 4
    agrees(transposed(kernel, outputs, **attributes), tmp_path, normal(*SHAPE))


@pytest.mark.parametrize("mode", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("size", [(10, 14), (11, 12), (9, 15)])
def test_output_shape(mode: str, size: tuple[int, int], tmp_path: Path) -> None:
    proto = transposed((3, 3), strides=[2, 2], output_shape=size, auto_pad=mode)
    agrees(proto, tmp_path, normal(*SHAPE))


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("kernel", [(2, 2), (3, 3), (4, 5)])
def test_automatic_padding(mode: str, kernel: tuple[int, int], tmp_path: Path) -> None:
    agrees(transposed(kernel, strides=[2, 3], auto_pad=mode), tmp_path, normal(*SHAPE))


def test_one_spatial_axis(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "rows"], ["r"]),
        helper.make_node("ConvTranspose", ["r", "w"], ["y"], strides=[2], pads=[1, 0]),
    ]
    proto = graph(nodes, SHAPE, rows=np.array([*SHAPE[:2], -1]), w=normal(6, 5, 4))
    agrees(proto, tmp_path, normal(*SHAPE))


def test_it_is_one_convolution_without_inserted_zeros() -> None:
    names = operators(to_relax(transposed((2, 2), strides=[2, 2])))
    assert names.count("nn.conv2d") == 1
    assert "nn.conv2d_transpose" not in names
