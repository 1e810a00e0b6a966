"""Resize and Upsample: every mode by the scales of the file, as ONNX Runtime computes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_layers import normal
from onnx import helper
from onnx_graphs import agrees, graph
from relax_helpers import operators

from mobilenet_tvm.compile.frontend.importer import to_relax
from mobilenet_tvm.compile.passes.to_nhwc import ToNHWC
from mobilenet_tvm.targets.errors import UserError

COORDINATES = (
    "half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric",
)  # fmt: skip
ROUNDING = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
SHAPE = (1, 3, 7, 9)


def resize(inputs: str = "x,,scales", opset: int = 19, **given: Any) -> Any:
    weights = {name: value for name, value in given.items() if isinstance(value, np.ndarray)}
    attributes = {name: value for name, value in given.items() if name not in weights}
    node = helper.make_node("Resize", inputs.split(","), ["y"], **attributes)
    return graph([node], SHAPE, opset=opset, **weights)


def scales(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("factors", [(2.5, 1.5), (0.6, 0.4), (2, 0.5)])
def test_scales_that_are_no_ratio_of_sizes(
    mode: str, coordinates: str, factors: tuple[float, float], tmp_path: Path
) -> None:
    proto = resize(
        scales=scales(1, 1, *factors), mode=mode, coordinate_transformation_mode=coordinates
    )
    agrees(proto, tmp_path, normal(*SHAPE))


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_a_size_of_one_pixel(mode: str, coordinates: str, tmp_path: Path) -> None:
    proto = resize(
        "x,,,sizes",
        sizes=np.array([1, 3, 1, 5]),
        mode=mode,
        coordinate_transformation_mode=coordinates,
    )
    agrees(proto, tmp_path, normal(*SHAPE))


@pytest.mark.parametrize("rounding", ROUNDING)
@pytest.mark.parametrize("factor", [0.4, 2.0, 2.5])
def test_rounding_of_nearest(rounding: str, factor: float, tmp_path: Path) -> None:
    proto = resize(scales=scales(1, 1, factor, factor), mode="nearest", nearest_mode=rounding)
    agrees(proto, tmp_path, normal(*SHAPE))


@pytest.mark.parametrize("excludes", [0, 1])
@pytest.mark.parametrize("antialias", [0, 1])
def test_cubic_with_a_coefficient_and_without_what_is_outside(
    antialias: int, excludes: int, tmp_path: Path
) -> None:
    proto = resize(
        scales=scales(1, 1, 0.3, 1.5),
        mode="cubic",
        cubic_coeff_a=-0.5,
        exclude_outside=excludes,
        antialias=antialias,
    )
    agrees(proto, tmp_path, normal(*SHAPE))


@pytest.mark.parametrize("size", [(2, 3), (3, 20), (7, 4)])
def test_antialias(size: tuple[int, int], tmp_path: Path) -> None:
    proto = resize("x,,,sizes", sizes=np.array([1, 3, *size]), mode="linear", antialias=1)
    agrees(proto, tmp_path, normal(*SHAPE))


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_a_region_of_interest_that_reaches_outside(mode: str, tmp_path: Path) -> None:
    proto = resize(
        "x,roi,,sizes",
        roi=scales(0, 0, -0.2, 0.3, 1, 1, 0.6, 1.3),
        sizes=np.array([1, 3, 6, 5]),
        mode=mode,
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=2.5,
    )
    agrees(proto, tmp_path, normal(*SHAPE))


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_axes_and_the_aspect_ratio(policy: str, tmp_path: Path) -> None:
    proto = resize(
        "x,,,sizes",
        sizes=np.array([20, 13]),
        axes=[3, 2],
        mode="linear",
        keep_aspect_ratio_policy=policy,
    )
    agrees(proto, tmp_path, normal(*SHAPE))


def test_empty_inputs_beside_sizes(tmp_path: Path) -> None:
    proto = resize(
        "x,roi,scales,sizes",
        opset=11,
        roi=scales(),
        scales=scales(),
        sizes=np.array([1, 3, 10, 11]),
        mode="linear",
    )
    agrees(proto, tmp_path, normal(*SHAPE))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("factor", [0.6, 2.0, 2.4])
def test_opset_10_and_upsample(mode: str, factor: float, tmp_path: Path) -> None:
    factors = scales(1, 1, factor, 2)
    data = normal(*SHAPE)
    agrees(resize("x,scales", opset=10, scales=factors, mode=mode), tmp_path, data)
    if factor < 1:
        return
    new = helper.make_node("Upsample", ["x", "scales"], ["y"], mode=mode)
    agrees(graph([new], SHAPE, opset=9, scales=factors), tmp_path, data)
    old = helper.make_node("Upsample", ["x"], ["y"], mode=mode, scales=factors.tolist())
    agrees(graph([old], SHAPE, opset=7), tmp_path, data)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_it_stays_in_nhwc_between_convolutions(mode: str, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["c"]),
        helper.make_node("Resize", ["c", "", "scales"], ["r"], mode=mode),
        helper.make_node("Conv", ["r", "w"], ["y"]),
    ]
    weights = {"v": normal(8, 3, 1, 1), "w": normal(4, 8, 3, 3)}
    proto = graph(nodes, SHAPE, scales=scales(1, 1, 2, 1.7), **weights)
    transposes = operators(ToNHWC(to_relax(proto)).run()).count("permute_dims")
    assert transposes == 2  # of the input and of the output
    agrees(proto, tmp_path, normal(*SHAPE))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"mode": "linear", "scales": scales(1, 1, 0.05, 1)}, "an output of 0 pixels"),
        ({"mode": "smooth", "scales": scales(1, 1, 2, 2)}, "mode 'smooth'"),
    ],
)
def test_what_cannot_be_resized_is_named(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(
        UserError, match=re.escape(f"node 'y': operator Resize cannot be compiled ({message})")
    ):
        to_relax(resize(**attributes))
