"""Float16 networks are computed in float32, with their own inputs and outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import equals_onnxruntime
from odd_models import Net
from onnx import TensorProto, helper, numpy_helper
from onnx_graphs import graph

from mobilenet_tvm.compile.frontend.widen import widen
from mobilenet_tvm.compile.pipeline import layers
from mobilenet_tvm.targets.presets import PRESETS

SHAPE = (1, 8, 6, 5)


def types(model: onnx.ModelProto) -> list[int]:
    """Return the types of a model's inputs and outputs."""
    values = (*model.graph.input, *model.graph.output)
    return [value.type.tensor_type.elem_type for value in values]


def narrow(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store a model's constants in float16."""
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


def test_float32_networks_are_themselves() -> None:
    model = graph([helper.make_node("Relu", ["x"], ["y"])], SHAPE)
    assert widen(model) is model


def test_inputs_and_outputs_keep_their_types(tmp_path: Path) -> None:
    net = Net(SHAPE, TensorProto.FLOAT16)
    result = net.node("HardSwish", net.batch_norm(net.conv("input", 8, 16, 3), 16))
    model = narrow(net.model(result, dtype=TensorProto.FLOAT16))
    wide = widen(model)
    assert types(wide) == types(model) == [TensorProto.FLOAT16] * 2
    inner = onnx.shape_inference.infer_shapes(wide).graph.value_info
    assert len(inner) > 3
    assert {value.type.tensor_type.elem_type for value in inner} == {TensorProto.FLOAT}
    equals_onnxruntime(model, tmp_path)


def test_outputs_that_are_inputs_or_constants(tmp_path: Path) -> None:
    net = Net(SHAPE, TensorProto.FLOAT16)
    outputs = [net.node("Relu", "input"), "input", net.normal(3)]
    shapes = [SHAPE, SHAPE, (3,)]
    model = narrow(net.model(*outputs, shapes=shapes, dtype=TensorProto.FLOAT16))
    equals_onnxruntime(model, tmp_path)


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Cast", ["half"], ["y"], to=TensorProto.FLOAT)],
        [
            helper.make_node("Sigmoid", ["half"], ["gate"]),
            helper.make_node("CastLike", ["gate", "x"], ["y"]),
        ],
        [
            helper.make_node("Shape", ["half"], ["shape"]),
            helper.make_node(
                "ConstantOfShape",
                ["shape"],
                ["two"],
                value=numpy_helper.from_array(np.array([2], np.float16)),
            ),
            helper.make_node("Add", ["half", "two"], ["y"]),
        ],
    ],
    ids=["cast", "cast_like", "constant"],
)
def test_types_of_nodes(nodes: list[onnx.NodeProto], tmp_path: Path) -> None:
    first = [
        helper.make_node("Relu", ["x"], ["positive"]),
        helper.make_node("Cast", ["positive"], ["half"], to=TensorProto.FLOAT16),
    ]
    equals_onnxruntime(graph([*first, *nodes], SHAPE), tmp_path, tolerance=1e-3)


def test_constants_are_folded_in_float32() -> None:
    """As 1/6 is, which float16 does not have: else this would be no hard-sigmoid."""
    net = Net(SHAPE, TensorProto.FLOAT16)
    sums = net.node("HardSigmoid", net.conv("input", 8, 16), alpha=1 / 6, beta=0.5)
    (layer,) = layers(narrow(net.model(sums, dtype=TensorProto.FLOAT16)), PRESETS["x86"])
    assert str(layer).endswith("hard_sigmoid")
