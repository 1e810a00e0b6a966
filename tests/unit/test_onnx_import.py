"""Reading ONNX files: what is refused and how, shapes, and operators converted here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from relax_helpers import normal, operators, run

from mobilenet_tvm.compile.frontend.importer import to_relax
from mobilenet_tvm.compile.frontend.read import fix_shapes, read_onnx
from mobilenet_tvm.targets.errors import UserError


def model(
    nodes: list[onnx.NodeProto],
    shape: list[int | str] | None = None,
    opset: int = 17,
    outputs: list[int | str] | None = None,
    **weights: np.ndarray[Any, Any],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape or [1, 4, 7, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, outputs)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def conv(**attributes: Any) -> onnx.ModelProto:
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    return model([node], w=normal(8, 4, 3, 3))


def equals_onnxruntime(proto: onnx.ModelProto, *shape: int) -> None:
    data = 4 * normal(*shape)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    expected = session.run(None, {"x": data})[0]
    np.testing.assert_allclose(run(to_relax(proto), data), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2])
def test_automatic_padding_of_a_convolution(mode: str, stride: int) -> None:
    proto = conv(auto_pad=mode, strides=[stride, stride], kernel_shape=[3, 3])
    assert operators(to_relax(proto)) == ["nn.conv2d"]
    equals_onnxruntime(proto, 1, 4, 7, 7)


def test_automatic_padding_with_unequal_strides_and_an_even_extent() -> None:
    proto = conv(auto_pad="SAME_UPPER", strides=[2, 3])
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 8
    equals_onnxruntime(proto, 1, 4, 8, 7)


@pytest.mark.parametrize("opset", [9, 10])
def test_clip_with_attributes(opset: int) -> None:
    proto = model([helper.make_node("Clip", ["x"], ["y"], min=0.0, max=6.0)], opset=opset)
    assert operators(to_relax(proto)) == ["clip"]
    equals_onnxruntime(proto, 1, 4, 7, 7)


@pytest.mark.parametrize("inputs", [["x", "low", "high"], ["x", "", "high"], ["x", "low"], ["x"]])
def test_clip_with_inputs(inputs: list[str]) -> None:
    bounds = {"low": np.float32(-0.5), "high": np.float32(1.5)}
    given = {name: np.asarray(value) for name, value in bounds.items() if name in inputs}
    proto = model([helper.make_node("Clip", inputs, ["y"])], **given)
    equals_onnxruntime(proto, 1, 4, 7, 7)


def test_pad_with_attributes_and_a_value() -> None:
    node = helper.make_node("Pad", ["x"], ["y"], pads=[0, 0, 1, 2, 0, 1, 0, 3], value=2.5)
    equals_onnxruntime(model([node], opset=9), 1, 4, 7, 7)


def test_pad_with_axes() -> None:
    node = helper.make_node("Pad", ["x", "pads", "", "axes"], ["y"])
    proto = model(
        [node], opset=18, pads=np.array([0, 1, 2, 0]), axes=np.array([-1, 2], dtype=np.int64)
    )
    equals_onnxruntime(proto, 1, 4, 7, 7)


def test_min_and_max_stay_element_wise() -> None:
    nodes = [
        helper.make_node("Max", ["x", "zero"], ["m"]),
        helper.make_node("Min", ["m", "six", "x"], ["y"]),
    ]
    proto = model(nodes, zero=np.zeros(1, np.float32), six=np.full((1, 4, 1, 1), 6, np.float32))
    assert operators(to_relax(proto)) == ["maximum", "minimum", "minimum"]
    equals_onnxruntime(proto, 1, 4, 7, 7)


def test_dynamic_batch_is_1_unless_said() -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], ["N", 3, 8, 8])
    assert operators(to_relax(fix_shapes(proto))) == ["nn.relu"]
    fixed = fix_shapes(proto, batch=4)
    assert [d.dim_value for d in fixed.graph.input[0].type.tensor_type.shape.dim] == [4, 3, 8, 8]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (["N", 3, "H", "W"], {}, "axis 2 of input 'x' is dynamic; fix it with --input-shape x="),
        ([1, 3, 8, 8], {"batch": 2}, "input 'x' has a fixed batch of 1"),
        ([1, 3, 8, 8], {"input_shapes": {"x": (1, 3, 9, 8)}}, "axis 2 of input 'x' is 8 in the"),
        ([1, 3, 8, 8], {"input_shapes": {"x": (1, 3, 8)}}, "has 4 axes, the given shape 3"),
        ([1, 3, 8, 8], {"input_shapes": {"z": (1,)}}, "the model has no input 'z'; its inputs: x"),
        ([1, 128], {}, "the model has no image input"),
    ],
)
def test_shapes_that_cannot_be_fixed(
    shape: list[int | str], options: dict[str, Any], message: str
) -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], shape)
    with pytest.raises(UserError, match=re.escape(message)):
        fix_shapes(proto, **options)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (helper.make_node("NonZero", ["x"], ["y"], name="odd"), "node 'odd': operator NonZero"),
        (
            helper.make_node("Fused", ["x"], ["y"], domain="com.acme"),
            "node 'y': operator Fused cannot be compiled (domain com.acme)",
        ),
        (
            helper.make_node("MaxPool", ["x"], ["y", "i"], name="p", kernel_shape=[2, 2]),
            "node 'p': operator MaxPool cannot be compiled (its output 2",
        ),
    ],
)
def test_an_operator_that_cannot_be_compiled_is_named(
    node: onnx.NodeProto, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    proto = model([node])
    if node.domain:
        proto.opset_import.append(helper.make_opsetid(node.domain, 1))
    onnx.save(proto, path)
    with pytest.raises(UserError, match=re.escape(message)):
        to_relax(read_onnx(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; give a model's name or an ONNX file"),
        (b"", "the file is empty"),
        (b"not a protocol buffer", "not an ONNX"),
        ("truncated", "not an ONNX file, or truncated"),
        ("opset 6", "opset 6 is not supported; export it with an opset from 7 to 26"),
        ("opset 99", "opset 99 is not supported"),
        ("folder", "cannot be read"),
        ("external", "its external data is missing"),
        ("invalid", "not a valid ONNX model"),
    ],
)
def test_broken_files(content: bytes | str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    good = conv()
    match content:
        case bytes():
            path.write_bytes(content)
        case "truncated":
            path.write_bytes(good.SerializeToString()[:200])
        case "opset 6" | "opset 99":
            good.opset_import[0].version = int(content.split()[1])
            path.write_bytes(good.SerializeToString())
        case "folder":
            path.mkdir()
        case "external":
            onnx.save(good, path, save_as_external_data=True, location="w.bin", size_threshold=0)
            (tmp_path / "w.bin").unlink()
        case "invalid":
            good.graph.node[0].input[0] = "nowhere"
            path.write_bytes(good.SerializeToString())
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_onnx(path)
    assert "\n" not in str(error.value)
