"""Quantised operators become DequantizeLinear, a float operator and QuantizeLinear."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from networks import EXPORTS
from onnx import TensorProto, helper, numpy_helper

from mobilenet_tvm.compile.frontend.qoperator import expand_qoperators
from mobilenet_tvm.compile.frontend.read import read_onnx
from mobilenet_tvm.compile.models.source import ModelOptions, resolve
from mobilenet_tvm.targets.errors import UserError

Array = np.ndarray[Any, Any]
#: An input of a node: a value that is fed, a constant, or nothing.
Input = str | Array | np.generic | None
Bytes = type[np.int8] | type[np.uint8]

MICROSOFT = "com.microsoft"
TYPES = pytest.mark.parametrize("dtype", [np.uint8, np.int8])


def model(
    op: str,
    inputs: Sequence[Input],
    fed: Mapping[str, Array],
    made: Any,
    *,
    domain: str = MICROSOFT,
    opset: int = 17,
    name: str = "node",
    **attributes: Any,
) -> onnx.ModelProto:
    """Return a model of one node whose output, `y`, has the NumPy type `made`."""
    names, constants = [], []
    for place, value in enumerate(inputs):
        if isinstance(value, str) or value is None:
            names.append(value or "")
        else:
            names.append(f"constant_{place}")
            constants.append(numpy_helper.from_array(np.asarray(value), names[-1]))
    node = helper.make_node(op, names, ["y"], name, domain=domain, **attributes)
    graph = helper.make_graph(
        [node],
        "test",
        [
            helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for key, a in fed.items()
        ],
        [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(np.dtype(made)), None)],
        constants,
    )
    imports = [helper.make_opsetid("", opset)]
    if domain:
        imports.append(helper.make_opsetid(domain, 1))
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def integers(dtype: Bytes, *shape: int, seed: int = 0) -> Array:
    limits = np.iinfo(dtype)
    values = np.random.default_rng(seed).integers(limits.min, limits.max, shape, endpoint=True)
    return values.astype(dtype)


def run(proto: onnx.ModelProto, fed: Mapping[str, Array]) -> Array:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return np.asarray(session.run(None, dict(fed))[0])


def expanded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the expanded model, which must be valid and have only ONNX's own operators."""
    before = proto.SerializeToString()
    result = expand_qoperators(proto)
    assert proto.SerializeToString() == before
    # The checker demands an output's shape.
    complete = onnx.shape_inference.infer_shapes(result, strict_mode=True)
    onnx.checker.check_model(complete, full_check=True)
    assert result.graph.output == proto.graph.output
    assert [o.domain for o in result.opset_import] == [""]
    assert not any(
        n.domain or (n.op_type.startswith("Q") and n.op_type != "QuantizeLinear")
        for n in result.graph.node
    )
    values = [name for node in result.graph.node for name in node.output]
    assert len(set(values)) == len(values)
    return result


def equals_onnxruntime(proto: onnx.ModelProto, fed: Mapping[str, Array]) -> onnx.ModelProto:
    """Compare a model with its expansion, and return that."""
    result = expanded(proto)
    theirs, ours = run(proto, fed), run(result, fed)
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    if theirs.dtype == np.float32:
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())
    else:
        apart = np.abs(ours.astype(int) - theirs.astype(int))
        assert len(np.unique(theirs)) > min(4, theirs.size - 1)
        assert apart.max() <= 1
        assert (apart > 0).mean() <= 0.05
    return result


def scale(value: float) -> Array:
    return np.asarray(value, np.float32)


def zero(dtype: Bytes, offset: int = 3) -> Array:
    """Return a zero point near the middle of the type's range."""
    return np.asarray(offset + (128 if dtype is np.uint8 else 0), dtype)


def names(proto: onnx.ModelProto) -> list[str]:
    return [node.name for node in proto.graph.node]


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def conv(
    dtype: Bytes = np.uint8,
    weights: Bytes = np.int8,
    *,
    scales: Array | None = None,
    zeros: Array | None = None,
    group: int = 1,
    bias: bool = True,
    **options: Any,
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Return a convolution from 6 channels to 10, and its input; 7 x 5 pixels."""
    options = {"domain": "", "pads": [1, 0, 1, 1], "strides": [2, 1], **options}
    shape = (1, 7, 5, 6) if options.get("channels_last") else (1, 6, 7, 5)
    fed = {"x": integers(dtype, *shape)}
    rng = np.random.default_rng(1)
    inputs: list[Input] = [
        "x", scale(0.02), zero(dtype),
        integers(weights, 10, 6 // group, 3, 3, seed=2),
        scale(0.003) if scales is None else scales,
        zero(weights, 0) if zeros is None else zeros,
        scale(0.07), zero(dtype, -5),
    ]  # fmt: skip
    if bias:
        inputs.append(rng.integers(-9000, 9000, 10).astype(np.int32))
    return model("QLinearConv", inputs, fed, dtype, group=group, **options), fed


CHANNELS = np.random.default_rng(5).uniform(0.001, 0.004, 10).astype(np.float32)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("dtype", "weights"),
    # ONNX Runtime has no kernel for int8 data and uint8 weights.
    [(np.uint8, np.uint8), (np.uint8, np.int8), (np.int8, np.int8)],
)
def test_convolution(dtype: Bytes, weights: Bytes, bias: bool) -> None:
    result = equals_onnxruntime(*conv(dtype, weights, bias=bias))
    kinds = ["DequantizeLinear"] * (3 if bias else 2) + ["Conv", "QuantizeLinear"]
    assert operators(result) == kinds
    roles = ["node_dequantize_x", "node_dequantize_w", *["node_dequantize_bias"] * bias]
    assert names(result) == [*roles, "node", "node_quantize"]


@TYPES
@pytest.mark.parametrize("group", [1, 2])
def test_convolution_with_a_scale_per_channel(dtype: Bytes, group: int) -> None:
    proto, fed = conv(dtype, scales=CHANNELS, zeros=np.zeros(10, np.int8), group=group)
    result = equals_onnxruntime(proto, fed)
    nodes = {node.name: node for node in result.graph.node}
    for role in ("w", "bias"):
        node = nodes[f"node_dequantize_{role}"]
        assert [(a.name, a.i) for a in node.attribute] == [("axis", 0)]
    assert len(nodes["node_dequantize_bias"].input) == 2
    constants = {t.name: numpy_helper.to_array(t) for t in result.graph.initializer}
    product = constants[nodes["node_dequantize_bias"].input[1]]
    np.testing.assert_array_equal(product, np.float32(0.02) * CHANNELS, strict=True)


@pytest.mark.parametrize(
    ("scales", "zeros"),
    [(CHANNELS, np.int8(0)), (np.full(1, 0.003, np.float32), np.zeros(1, np.int8))],
    ids=["one_zero_point", "vectors_of_one"],
)
def test_shapes_of_scales_and_zero_points(scales: Array, zeros: Array) -> None:
    equals_onnxruntime(*conv(scales=scales, zeros=zeros))


def test_vectors_of_one_become_scalars() -> None:
    inputs: list[Input] = ["x", *(np.reshape(v, (1,)) for v in (scale(0.1), zero(np.int8)))]
    inputs += [*(np.reshape(v, (1,)) for v in (scale(0.01), zero(np.int8, -128)))]
    fed = {"x": integers(np.int8, 1, 3, 5)}
    result = equals_onnxruntime(model("QLinearSigmoid", inputs, fed, np.int8, opset=11), fed)
    assert [list(tensor.dims) for tensor in result.graph.initializer] == [[]] * 4


@pytest.mark.parametrize("attributes", [{"auto_pad": "SAME_LOWER"}, {"dilations": [2, 1]}], ids=str)
def test_attributes_of_a_convolution(attributes: dict[str, Any]) -> None:
    options = {"pads": None, **attributes} if "auto_pad" in attributes else attributes
    equals_onnxruntime(*conv(**options))


@TYPES
def test_convolution_in_nhwc(dtype: Bytes) -> None:
    proto, fed = conv(dtype, scales=CHANNELS, domain=MICROSOFT, channels_last=1)
    assert operators(equals_onnxruntime(proto, fed)) == [
        "Transpose", *["DequantizeLinear"] * 3, "Conv", "QuantizeLinear", "Transpose",
    ]  # fmt: skip


@pytest.mark.parametrize("opset", [10, 11, 12])
@pytest.mark.parametrize("scales", [None, CHANNELS], ids=["tensor", "channel"])
def test_older_opsets(opset: int, scales: Array | None) -> None:
    result = equals_onnxruntime(*conv(scales=scales, opset=opset))
    assert result.opset_import[0].version == (opset if scales is None else 13)


@TYPES
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
def test_matrix_product(dtype: Bytes, columns: bool, batch: tuple[int, ...]) -> None:
    fed = {"a": integers(dtype, *batch, 5, 13)}
    scales, zeros = scale(0.01), np.asarray(0, np.int8)
    weight = integers(np.int8, *batch, 13, 7, seed=1)
    if columns:
        scales, zeros = np.linspace(0.005, 0.01, 7, dtype=np.float32), np.zeros(7, np.int8)
        # ONNX Runtime has no scales per column for a stack of matrices.
        weight = weight.reshape(-1, 13, 7)[0]
    inputs: list[Input] = ["a", scale(0.02), zero(dtype), weight]
    inputs += [scales, zeros, scale(0.4), zero(dtype, 1)]
    equals_onnxruntime(model("QLinearMatMul", inputs, fed, dtype, domain=""), fed)


def gemm(
    *,
    dtype: Bytes = np.uint8,
    channels: bool = False,
    bias: tuple[int, ...] | None = (7,),
    quantized: bool = True,
    opset: int = 17,
    **attributes: Any,
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    fed = {"a": integers(dtype, *((13, 5) if attributes.get("transA") else (5, 13)))}
    scales, zeros = scale(0.01), np.asarray(0, np.int8)
    if channels:
        scales, zeros = np.linspace(0.005, 0.01, 7, dtype=np.float32), np.zeros(7, np.int8)
    weight = integers(np.int8, *((7, 13) if attributes.get("transB") else (13, 7)), seed=1)
    inputs: list[Input] = ["a", scale(0.02), zero(dtype), weight, scales, zeros, None]
    if bias is not None:
        inputs[6] = np.random.default_rng(2).integers(-9000, 9000, bias).astype(np.int32)
    if quantized:
        inputs += [scale(0.4), zero(dtype, 1)]
    made = dtype if quantized else np.float32
    return model("QGemm", inputs, fed, made, opset=opset, **attributes), fed


@TYPES
@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("transposed", [0, 1])
def test_dense_layer(dtype: Bytes, channels: bool, quantized: bool, transposed: int) -> None:
    proto, fed = gemm(dtype=dtype, channels=channels, quantized=quantized, transB=transposed)
    result = equals_onnxruntime(proto, fed)
    assert operators(result)[-1] == ("QuantizeLinear" if quantized else "Gemm")


@pytest.mark.parametrize("channels", [False, True])
@pytest.mark.parametrize("bias", [None, (), (1,), (7,), (1, 7), (5, 7), (5, 1)], ids=str)
def test_biases_of_a_dense_layer(channels: bool, bias: tuple[int, ...] | None) -> None:
    equals_onnxruntime(*gemm(channels=channels, bias=bias, alpha=0.5, transA=1))


def test_dense_layer_without_a_bias_in_opset_10() -> None:
    result = equals_onnxruntime(*gemm(bias=None, opset=10))
    assert result.opset_import[0].version == 13


@TYPES
@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("constant", [False, True])
def test_arithmetic(dtype: Bytes, op: str, constant: bool) -> None:
    other = integers(dtype, 1, 6, 1, 1, seed=1)
    fed = {"a": integers(dtype, 2, 6, 7, 5)}
    if not constant:
        fed["b"] = other
    second: Input = other if constant else "b"
    inputs: list[Input] = ["a", scale(0.02), zero(dtype), second, scale(0.03), zero(dtype, -9)]
    equals_onnxruntime(model(op, [*inputs, scale(0.045), zero(dtype, 1)], fed, dtype), fed)


@TYPES
def test_the_same_value_twice(dtype: Bytes) -> None:
    fed = {"a": integers(dtype, 3, 5)}
    inputs: list[Input] = ["a", scale(0.02), zero(dtype)] * 2
    equals_onnxruntime(
        model("QLinearMul", [*inputs, scale(0.045), zero(dtype, 1)], fed, dtype), fed
    )


@TYPES
@pytest.mark.parametrize("last", [0, 1])
def test_global_pooling(dtype: Bytes, last: int) -> None:
    fed = {"x": integers(dtype, 2, 7, 5, 33)}
    inputs: list[Input] = ["x", scale(0.02), zero(dtype), scale(0.004), zero(dtype, 9)]
    proto = model("QLinearGlobalAveragePool", inputs, fed, dtype, channels_last=last)
    equals_onnxruntime(proto, fed)


@TYPES
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]},
        {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "count_include_pad": 1},
        {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
    ],
    ids=["pads", "padding_counts", "ceil", "auto_pad"],
)
def test_pooling(dtype: Bytes, last: int, attributes: dict[str, Any]) -> None:
    fed = {"x": integers(dtype, 1, 9, 7, 5)}
    inputs: list[Input] = ["x", scale(0.02), zero(dtype), scale(0.015), zero(dtype, 9)]
    proto = model("QLinearAveragePool", inputs, fed, dtype, channels_last=last, **attributes)
    equals_onnxruntime(proto, fed)


@TYPES
def test_concatenation(dtype: Bytes) -> None:
    fed = {"a": integers(dtype, 1, 3, 5, 7), "b": integers(dtype, 1, 4, 5, 7, seed=1)}
    inputs: list[Input] = [scale(0.03), zero(dtype, 5), "a", scale(0.02), zero(dtype)]
    inputs += ["b", scale(0.035), zero(dtype, -9)]
    inputs += [integers(dtype, 1, 1, 5, 7, seed=2), scale(0.03), zero(dtype, 5)]
    result = equals_onnxruntime(model("QLinearConcat", inputs, fed, dtype, axis=1), fed)
    assert names(result)[:3] == [f"node_dequantize_x{number}" for number in range(3)]


@TYPES
@pytest.mark.parametrize(
    ("op", "attributes"),
    [("QLinearSigmoid", {}), ("QLinearLeakyRelu", {}), ("QLinearLeakyRelu", {"alpha": 0.2})],
    ids=str,
)
def test_unary_operators(dtype: Bytes, op: str, attributes: dict[str, float]) -> None:
    fed = {"x": integers(dtype, 1, 300)}
    inputs: list[Input] = ["x", scale(0.04), zero(dtype), scale(0.021), zero(dtype, -60)]
    equals_onnxruntime(model(op, inputs, fed, dtype, **attributes), fed)


@TYPES
@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("meaning", [12, 13])
@pytest.mark.parametrize("axis", [None, -1, 1, 2])
def test_softmax(dtype: Bytes, opset: int, meaning: int, axis: int | None) -> None:
    fed = {"x": integers(dtype, 2, 3, 5)}
    inputs: list[Input] = ["x", scale(0.02), zero(dtype), scale(1 / 256), zero(dtype, -128)]
    proto = model("QLinearSoftmax", inputs, fed, dtype, opset=opset)
    attributes = {"opset": meaning} if axis is None else {"opset": meaning, "axis": axis}
    proto.graph.node[0].attribute.extend(helper.make_attribute(*a) for a in attributes.items())
    if (opset, meaning) == (11, 13) and axis in (1, 2):
        assert f"opset 13's meaning of axis {axis} in opset 11" in refusal(proto)
    else:
        equals_onnxruntime(proto, fed)


@TYPES
@pytest.mark.parametrize("opset", [13, 17, 18])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_mean(dtype: Bytes, opset: int, keepdims: int) -> None:
    # ONNX Runtime has no kernel for it.
    fed = {"x": integers(dtype, 1, 6, 7, 5)}
    inputs: list[Input] = ["x", scale(0.02), zero(dtype), scale(0.004), zero(dtype, 9)]
    attributes = {"axes": [2, 3], "keepdims": keepdims}
    proto = model("QLinearReduceMean", inputs, fed, dtype, opset=opset, **attributes)
    mean = (fed["x"].astype(np.float32) - zero(dtype)).mean((2, 3), keepdims=bool(keepdims))
    limits = np.iinfo(dtype)
    exact = np.clip(np.rint(mean * 5 + zero(dtype, 9)), limits.min, limits.max)
    ours = run(expanded(proto), fed)
    assert (ours.dtype, ours.shape) == (dtype, exact.shape)
    assert np.abs(ours - exact).max() <= 1


@TYPES
def test_where(dtype: Bytes) -> None:
    fed = {"condition": np.arange(15).reshape(3, 5) % 2 > 0, "x": integers(dtype, 3, 5)}
    inputs: list[Input] = ["condition", "x", scale(0.02), zero(dtype), integers(dtype, 5, seed=1)]
    inputs += [scale(0.03), zero(dtype, 7), scale(0.025), zero(dtype, -7)]
    equals_onnxruntime(model("QLinearWhere", inputs, fed, dtype), fed)


@TYPES
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_matrix_product_to_float(dtype: Bytes, columns: bool, bias: bool) -> None:
    fed = {"a": integers(dtype, 5, 13)}
    scales, zeros = scale(0.01), np.asarray(3, np.int8)
    if columns:
        scales, zeros = np.linspace(0.005, 0.01, 7, dtype=np.float32), np.arange(7, dtype=np.int8)
    inputs: list[Input] = ["a", integers(np.int8, 13, 7, seed=1), scale(0.02), scales]
    inputs += [zero(dtype), zeros, *([np.linspace(-9, 9, 7, dtype=np.float32)] if bias else [])]
    equals_onnxruntime(model("MatMulIntegerToFloat", inputs, fed, np.float32), fed)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("opset", [11, 17])
def test_dynamic_matrix_product(bias: bool, opset: int) -> None:
    fed = {"a": np.random.default_rng(0).normal(size=(5, 13)).astype(np.float32)}
    scales = np.linspace(0.005, 0.01, 7, dtype=np.float32)
    inputs: list[Input] = ["a", integers(np.int8, 13, 7, seed=1), scales, np.arange(7, dtype="i1")]
    inputs += [np.linspace(-9, 9, 7, dtype=np.float32)] if bias else []
    equals_onnxruntime(model("DynamicQuantizeMatMul", inputs, fed, np.float32, opset=opset), fed)


@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, None])
def test_quantize_of_microsoft(axis: int | None, dtype: Bytes | None) -> None:
    fed = {"x": np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)}
    scales: Array = scale(0.02) if axis is None else np.array([0.01, 0.02, 0.03], np.float32)
    inputs: list[Input] = ["x", scales]
    if dtype is not None:
        inputs.append(np.full(scales.shape, 3, dtype))
    attributes = {} if axis is None else {"axis": axis}
    proto = model("QuantizeLinear", inputs, fed, dtype or np.uint8, **attributes)
    assert names(equals_onnxruntime(proto, fed)) == ["node"]


@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32])
def test_dequantize_of_microsoft(axis: int | None, dtype: Any) -> None:
    fed = {"x": integers(np.int8, 2, 3, 5).astype(dtype)}
    scales: Array = scale(0.02) if axis is None else np.array([0.01, 0.02, 0.03], np.float32)
    inputs: list[Input] = ["x", scales]
    if dtype is not np.int32:
        inputs.append(np.full(scales.shape, 3, dtype))
    attributes = {} if axis is None else {"axis": axis}
    proto = model("DequantizeLinear", inputs, fed, np.float32, **attributes)
    assert names(equals_onnxruntime(proto, fed)) == ["node"]


def test_a_missing_zero_point_keeps_the_type() -> None:
    fed = {"x": integers(np.int8, 2, 5)}
    inputs: list[Input] = ["x", scale(0.04), None, scale(0.021), None]
    proto = model("QLinearSigmoid", inputs, fed, np.int8)
    # The type has to be found through operators that keep it.
    flatten = helper.make_node("Flatten", ["x"], ["flat"], "flatten")
    proto.graph.node[0].input[0] = "flat"
    proto.graph.node.insert(0, flatten)
    equals_onnxruntime(proto, fed)


def test_names_stay_unique_and_unused_constants_go() -> None:
    proto, fed = conv(scales=np.full(1, 0.003, np.float32), zeros=np.zeros(1, np.int8))
    twice = onnx.ModelProto()
    twice.CopyFrom(proto)
    # A second layer from the same input without a name, and a value with a name that is wanted.
    second = twice.graph.node.add()
    second.CopyFrom(twice.graph.node[0])
    second.name, second.output[0] = "", "z"
    twice.graph.node[0].output[0] = "node_dequantize_x"
    twice.graph.node.append(helper.make_node("Identity", ["node_dequantize_x"], ["y"], "last"))
    result = equals_onnxruntime(twice, fed)
    assert {"node", "node_quantize", "z", "z_quantize", "z_dequantize_w"} <= set(names(result))
    # The weight's scale and zero point were vectors.
    assert not any(t.name in ("constant_4", "constant_5") for t in result.graph.initializer)


def test_constants_that_are_inputs() -> None:
    proto, fed = conv(scales=np.full(1, 0.003, np.float32), zeros=np.zeros(1, np.int8))
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        proto.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    result = equals_onnxruntime(proto, fed)
    weights = {tensor.name for tensor in result.graph.initializer}
    assert [value.name for value in result.graph.input if value.name not in weights] == ["x"]


def test_constants_from_nodes() -> None:
    proto, fed = conv(scales=CHANNELS)
    constants = list(proto.graph.initializer)
    del proto.graph.initializer[:]
    for tensor in constants:
        node = helper.make_node("Constant", [], [tensor.name], f"{tensor.name}_node", value=tensor)
        proto.graph.node.insert(0, node)
    equals_onnxruntime(proto, fed)


def test_models_from_files_and_from_memory_are_expanded() -> None:
    path = EXPORTS / "qoperator_v2_opset13.onnx"
    assert not {"QLinearConv", "QLinearAdd", "QGemm"}.isdisjoint(operators(onnx.load(path)))
    kinds = {"Add", "Conv", "DequantizeLinear", "Flatten", "Gemm"}
    kinds |= {"GlobalAveragePool", "QuantizeLinear"}
    for given in (path, onnx.load(path)):
        assert set(operators(resolve(given, ModelOptions()).model)) == kinds


def test_a_function_with_quantised_operators_is_expanded(tmp_path: Path) -> None:
    fed = {"x": integers(np.uint8, 1, 3, 5, 7)}
    inputs: list[Input] = ["x", scale(0.04), zero(np.uint8), scale(0.021), zero(np.uint8, -60)]
    proto = model("QLinearSigmoid", inputs, fed, np.uint8)
    given = list(proto.graph.node[0].input)
    body = helper.make_node("QLinearSigmoid", given, ["y"], "inner", domain=MICROSOFT)
    function = helper.make_function(
        "local", "Squash", given, ["y"], [body], list(proto.opset_import)
    )
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("local", 1))
    proto.graph.node[0].CopyFrom(helper.make_node("Squash", given, ["y"], "call", domain="local"))
    onnx.save(proto, tmp_path / "model.onnx")
    kinds = ["DequantizeLinear", "Sigmoid", "QuantizeLinear"]
    assert operators(read_onnx(tmp_path / "model.onnx")) == kinds


def test_other_models_are_returned_as_they_are() -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], "quantize"),
        helper.make_node("ConvInteger", ["q", "w", "z"], ["y"], "conv"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "test",
        [value("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [value("y", TensorProto.INT32, None)],
        [numpy_helper.from_array(integers(np.uint8, 4, 3, 3, 3), "w")],
    )
    proto = helper.make_model(graph)
    assert expand_qoperators(proto) is proto


def test_another_operator_of_the_domain_keeps_its_import() -> None:
    proto, _ = gemm()
    proto.graph.node.append(helper.make_node("Gelu", ["f"], ["g"], "gelu", domain=MICROSOFT))
    result = expand_qoperators(proto)
    assert [opset.domain for opset in result.opset_import] == ["", MICROSOFT]


def refusal(proto: onnx.ModelProto) -> str:
    """Return the message of the error, which must be one line that names the node."""
    with pytest.raises(UserError, match=re.escape("node 'node': operator ")) as error:
        expand_qoperators(proto)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (conv(opset=9)[0], "QLinearConv cannot be compiled (opset 9 has no QuantizeLinear"),
        (conv(scales=CHANNELS[:7])[0], "7 scales for 'constant_3' of shape [10, 6, 3, 3]"),
        (
            conv(scales=CHANNELS, zeros=np.zeros(4, np.int8))[0],
            "a scale and a zero point of shapes [10] and [4]",
        ),
        (conv(scales=np.asarray(0.1, np.float16))[0], "scales that are not float32"),
        (
            model("QLinearMul", ["x", CHANNELS] + [scale(1)] * 5, {}, np.int8),
            "10 scales or zero points instead of one",
        ),
        (model("QLinearMul", ["x", scale(1)], {}, np.int8), "its input 3 is missing"),
        (
            model("QLinearSigmoid", ["x", scale(1), None, scale(1)], {}, np.int8),
            "its output's type is not known",
        ),
        (
            model("QuantizeLinear", ["x", scale(1), np.int16(0)], {}, np.int16),
            "QuantizeLinear cannot be compiled (not 8 bits)",
        ),
        (
            model("DequantizeLinear", ["x", scale(1)], {"x": np.ones(3, np.int16)}, np.float32),
            "'x' is int16",
        ),
        (
            model("DynamicQuantizeMatMul", ["x", "w", scale(1)], {}, np.float32, opset=10),
            "opset 10 has no DynamicQuantizeLinear",
        ),
        (gemm(quantized=False)[0], ""),
    ],
)
def test_what_is_not_supported(proto: onnx.ModelProto, message: str) -> None:
    if not message:
        # A scale of the output, but no zero point, which would tell its type.
        proto.graph.node[0].input.append("constant_1")
        message = "its input 8 is missing"
    assert message in refusal(proto)


def test_parameters_that_are_computed() -> None:
    proto, _ = conv()
    proto.graph.node[0].input[4] = "computed"
    assert "a weight's scale or zero point that is computed at run time" in refusal(proto)
    proto, _ = conv()
    proto.graph.node[0].input[1] = "computed"
    assert "a bias with a scale that is computed at run time" in refusal(proto)


def test_a_model_that_cannot_be_converted() -> None:
    proto, _ = conv(scales=CHANNELS, opset=12)
    proto.graph.node.append(helper.make_node("NoSuchOperator", ["y"], ["z"], "odd"))
    assert "QLinearConv cannot be compiled (opset 12 cannot be converted to 13" in refusal(proto)
