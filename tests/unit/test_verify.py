"""How an output is compared with ONNX Runtime's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mobilenet_tvm.compile.analysis.verify import TOLERANCES, Comparison, VerifyResult, compare
from mobilenet_tvm.runtime.base_model import BaseModel
from mobilenet_tvm.runtime.metadata import Metadata, TensorInfo

Array = np.ndarray[Any, Any]
SHAPE = (2, 100)


class Computed(BaseModel):
    """Computes with NumPy what a compiled model would."""

    def __init__(self, function: Callable[[Array], Array]) -> None:
        infos = [(TensorInfo(name, SHAPE, "float32"),) for name in ("x", "y")]
        super().__init__(Metadata("m", *infos, {}, (), {}, "none", 0, 0), 1)
        self._function = function

    def _compute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        return [self._function(inputs[0]).astype(np.float32)]

    def _place(self) -> str:
        return "NumPy"


def scale_and_shift(scale: float, shift: float) -> onnx.ModelProto:
    """Make the model `x * scale + shift`."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in "xy"]
    constants = [
        helper.make_tensor(name, TensorProto.FLOAT, [], [value])
        for name, value in (("scale", scale), ("shift", shift))
    ]
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["product"]),
        helper.make_node("Add", ["product", "shift"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)


def compared_with(model: onnx.ModelProto, function: Callable[[Array], Array]) -> Comparison:
    feed = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    (result,) = compare(Computed(function), model, [{"x": feed}])
    return result


def compared(function: Callable[[Array], Array], scale: float, shift: float) -> Comparison:
    return compared_with(scale_and_shift(scale, shift), function)


def agrees(result: Comparison, tolerance: float = TOLERANCES["float32"]) -> bool:
    metadata = Computed(np.abs).metadata
    return VerifyResult(metadata, "none", (result,), tolerance).agrees


def test_an_error_is_a_share_of_the_range() -> None:
    result = compared(lambda x: np.where(x == x.max(), x + 0.01 * np.ptp(x), x), 1.0, 0.0)
    assert result.error == pytest.approx(0.01, rel=1e-5)
    assert result.same_top
    assert not agrees(result)


@pytest.mark.parametrize("shift", [3.0, -1e6, 1e-6])
def test_rounding_is_allowed_where_an_output_is_nearly_constant(shift: float) -> None:
    """By units in the last place, some of which are more than the whole range."""
    unit = abs(shift) * np.finfo(np.float32).eps
    result = compared(lambda x: x * unit + shift + 5 * unit, unit, shift)
    assert agrees(result)


@pytest.mark.parametrize("shift", [3.0, -1e6, 1e-6])
@pytest.mark.parametrize("factor", [1.00002, 1.01, 0.0, -1.0])
def test_a_wrong_output_differs_where_it_is_nearly_constant(shift: float, factor: float) -> None:
    unit = abs(shift) * np.finfo(np.float32).eps
    assert not agrees(compared(lambda x: x * unit + factor * shift, unit, shift))


@pytest.mark.parametrize(("difference", "right"), [(8.5e-6, True), (5e-4, False)])
def test_a_single_value_may_be_small_beside_what_it_is_a_sum_of(
    difference: float, right: bool
) -> None:
    # As the one class of V1 is 0.132: a bias of 2.027, and the products that are added to it.
    result = compared(lambda x: np.full_like(x, 0.13239324 + difference), 0.0, 0.13239324)
    assert agrees(result) is right


def test_zeros_have_to_be_zeros() -> None:
    assert agrees(compared(np.zeros_like, 0.0, 0.0))
    assert not agrees(compared(lambda x: np.full_like(x, 0.001), 0.0, 0.0))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_differs(value: float) -> None:
    assert not agrees(compared(lambda x: np.where(x == x.max(), value, x), 1.0, 0.0), 1e9)
    with np.errstate(invalid="ignore"):
        assert not agrees(compared(lambda x: x, 1.0, value), 1e9)


def function_of_x(op: str, shift: float = 0.0) -> onnx.ModelProto:
    """Make a model of one function of `x + shift`."""
    model = scale_and_shift(1.0, shift)
    model.graph.node[-1].output[0] = "sum"
    model.graph.node.append(helper.make_node(op, ["sum"], ["y"]))
    return model


def test_what_is_not_finite_equals_itself() -> None:
    model = function_of_x("Log")

    def log(x: Array) -> Array:
        with np.errstate(invalid="ignore"):
            return np.log(x)

    right = compared_with(model, log)
    assert agrees(right)
    assert not agrees(compared_with(model, lambda x: np.where(x < 0, np.inf, log(x))))
    assert not agrees(compared_with(model, lambda x: np.where(x < 0, 0, log(x))))
    assert not agrees(compared_with(model, lambda x: log(x) * 1.001))
    assert agrees(compared_with(function_of_x("Sqrt", -100.0), lambda x: np.full_like(x, np.nan)))


@pytest.mark.parametrize("shift", [0.0, -14.0, 14.0, -40.0])
def test_sigmoid_is_compared_with_its_exact_values(shift: float) -> None:
    """ONNX Runtime's is off by 1.2e-7, which is much near 0."""

    def sigmoid(x: Array) -> Array:
        return 1 / (1 + np.exp(-(x + np.float32(shift)).astype(np.float64)))

    model = function_of_x("Sigmoid", shift)
    assert agrees(compared_with(model, sigmoid))
    assert not agrees(compared_with(model, lambda x: sigmoid(x) * 1.001))


def test_sigmoid_of_another_type_is_onnxruntimes() -> None:
    """Its Softplus has no float64."""
    model = scale_and_shift(1.0, 0.0)
    model.graph.node[-1].output[0] = "sum"
    for op, value, result, attributes in (
        ("Cast", "sum", "wide", {"to": TensorProto.DOUBLE}),
        ("Sigmoid", "wide", "gate", {}),
        ("Cast", "gate", "y", {"to": TensorProto.FLOAT}),
    ):
        model.graph.node.append(helper.make_node(op, [value], [result], **attributes))
    assert agrees(compared_with(model, lambda x: 1 / (1 + np.exp(-x))))


@pytest.mark.parametrize(("steps", "right"), [(1, True), (-1, True), (2, False)])
def test_neighbours_of_float16_are_equal(steps: int, right: bool) -> None:
    model = scale_and_shift(1.0, 0.0)
    model.graph.node[-1].output[0] = "sum"
    model.graph.node.append(helper.make_node("Cast", ["sum"], ["y"], to=TensorProto.FLOAT16))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16

    def other(x: Array) -> Array:
        stored = x.astype(np.float16)
        # Away from zero, so that no step is that of the next power of two.
        return np.where(np.abs(stored) > 1, stored + steps * np.spacing(np.abs(stored)), stored)

    assert agrees(compared_with(model, other)) is right
