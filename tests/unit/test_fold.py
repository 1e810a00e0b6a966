"""What is folded in an ONNX graph: shapes and quantised weights, but not their integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from relax_helpers import operators, run

from mobilenet_tvm.compile.frontend.fold import fold_constants
from mobilenet_tvm.compile.frontend.importer import to_relax

Array = np.ndarray[Any, Any]

OPSETS = pytest.mark.parametrize("opset", [13, 19, 21])


def model(
    nodes: list[onnx.NodeProto], opset: int = 17, dtype: int = TensorProto.FLOAT, **weights: Any
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 7, 7])],
        [helper.make_tensor_value_info("y", dtype, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def values(proto: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def onnxruntime_runs(proto: onnx.ModelProto, data: Array) -> Array:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return np.asarray(session.run(None, {"x": data})[0])


@OPSETS
def test_the_integers_of_a_weight_stay(opset: int) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["f"], axis=0),
        helper.make_node("Conv", ["x", "f"], ["y"]),
    ]
    weight = np.arange(-16, 16, dtype=np.int8).reshape(8, 4, 1, 1)
    scales = np.linspace(0.01, 0.02, 8, dtype=np.float32)
    proto = model(nodes, opset, w=weight, s=scales, z=np.zeros(8, np.int8))
    folded = fold_constants(proto)
    assert [node.op_type for node in folded.graph.node] == ["DequantizeLinear", "Conv"]
    assert operators(to_relax(proto)) == ["dequantize", "nn.conv2d"]
    data = np.random.default_rng(0).normal(size=(1, 4, 7, 7)).astype(np.float32)
    expected = onnxruntime_runs(proto, data)
    np.testing.assert_allclose(run(to_relax(proto), data), expected, rtol=1e-5, atol=1e-5)


@OPSETS
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_a_float_weight_becomes_integers(opset: int, dtype: Any, axis: int | None) -> None:
    rng = np.random.default_rng(0)
    # Halves between two steps, and what is far outside the range.
    weight = (rng.integers(-600, 600, (5, 4, 3)) / 2).astype(np.float32)
    weight.flat[:4] = [1e30, -1e30, 3e9, -3e9]
    size = 1 if axis is None else weight.shape[axis]
    scales = np.resize(np.array([1, 2, 0.5, 0.75, 3], np.float32), size)
    zeros = np.resize(np.array([0, 3, -9, 1, 5]).astype(dtype), size)
    if axis is None:
        scales, zeros = scales[0], zeros[0]
    attributes = {} if axis is None else {"axis": axis}
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"], **attributes),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["f"], **attributes),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "f"], ["y"]),
    ]
    folded = fold_constants(model(nodes, opset, w=weight, s=scales, z=zeros))
    assert [node.op_type for node in folded.graph.node] == ["DequantizeLinear", "ReduceSum", "Mul"]
    quantize = model([nodes[0], helper.make_node("Identity", ["q"], ["y"])], opset)
    quantize.graph.output[0].type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(
        np.dtype(dtype)
    )
    for name, array in {"w": weight, "s": scales, "z": zeros}.items():
        quantize.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    expected = onnxruntime_runs(quantize, np.zeros((1, 4, 7, 7), np.float32))
    np.testing.assert_array_equal(values(folded)["q"], expected, strict=True)


@pytest.mark.parametrize(
    ("opset", "attributes", "dtype"),
    [(10, {}, np.uint8), (17, {}, np.uint8), (21, {"output_dtype": TensorProto.INT8}, np.int8)],
    ids=["opset_10", "opset_17", "output_dtype"],
)
def test_the_type_without_a_zero_point(opset: int, attributes: dict[str, int], dtype: Any) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "s"], ["q"], **attributes),
        helper.make_node("DequantizeLinear", ["q", "s"], ["f"]),
        helper.make_node("Mul", ["x", "f"], ["y"]),
    ]
    weight = np.array([-3, 2.5, 3.5, 99999], np.float32).reshape(1, 4, 1, 1)
    folded = fold_constants(model(nodes, opset, w=weight, s=np.float32(1)))
    limits = np.iinfo(dtype)
    expected = np.clip([-3, 2, 4, 99999], limits.min, limits.max).astype(dtype)
    np.testing.assert_array_equal(values(folded)["q"].reshape(-1), expected, strict=True)


def test_quantising_what_depends_on_the_input_stays() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["y"]),
    ]
    folded = fold_constants(model(nodes, s=np.float32(0.1)))
    assert [node.op_type for node in folded.graph.node] == ["QuantizeLinear", "DequantizeLinear"]


@OPSETS
def test_dequantised_bounds_are_folded(opset: int) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["high", "s", "z"], ["six"]),
        helper.make_node("DequantizeLinear", ["value", "s"], ["one"]),
        helper.make_node("Clip", ["x", "", "six"], ["c"]),
        helper.make_node("Pad", ["c", "pads", "one"], ["y"]),
    ]
    proto = model(
        nodes,
        opset,
        high=np.uint8(14),
        value=np.uint8(2),
        s=np.float32(0.5),
        z=np.uint8(2),
        pads=np.array([0, 0, 1, 0, 0, 0, 0, 2]),
    )
    assert [node.op_type for node in fold_constants(proto).graph.node] == ["Clip", "Pad"]
    data = 9 * np.random.default_rng(0).normal(size=(1, 4, 7, 7)).astype(np.float32)
    expected = onnxruntime_runs(proto, data)
    np.testing.assert_array_equal(run(to_relax(proto), data), expected)


@pytest.mark.parametrize(
    ("opset", "dtype"), [(21, TensorProto.INT4), (21, TensorProto.INT16)], ids=["int4", "int16"]
)
def test_other_integers_become_floats(opset: int, dtype: int) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["f"]),
        helper.make_node("Mul", ["x", "f"], ["y"]),
    ]
    proto = model(nodes, opset, s=np.float32(0.5))
    proto.graph.initializer.append(helper.make_tensor("w", dtype, [1, 4, 1, 1], [-8, -1, 0, 7]))
    folded = fold_constants(proto)
    assert [node.op_type for node in folded.graph.node] == ["Mul"]
    np.testing.assert_array_equal(values(folded)["f"].reshape(-1), [-4, -0.5, 0, 3.5])


@OPSETS
def test_shapes_are_still_folded(opset: int) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["f"]),
        helper.make_node("Conv", ["x", "f"], ["c"]),
        helper.make_node("Shape", ["c"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Concat", ["batch", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["c", "target"], ["y"]),
    ]
    folded = fold_constants(
        model(
            nodes,
            opset,
            w=np.ones((8, 4, 1, 1), np.int8),
            s=np.float32(0.5),
            zero=np.array([0]),
            rest=np.array([-1]),
        )
    )
    kinds = ["DequantizeLinear", "Conv", "Reshape"]
    assert [node.op_type for node in folded.graph.node] == kinds
    assert values(folded)["target"].tolist() == [1, -1]
