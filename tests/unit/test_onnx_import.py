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
from onnx_graphs import agrees, graph
from relax_helpers import normal, operators, run

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.frontend.importer import to_relax
from mobilenet_tvm.compile.frontend.read import fix_shapes, read_onnx
from mobilenet_tvm.runtime import load
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


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_pad_in_every_mode(mode: str, tmp_path: Path) -> None:
    node = helper.make_node("Pad", ["x", "p"], ["y"], mode=mode)
    proto = graph([node], [1, 4, 7, 5], opset=19, p=np.array([0, 0, 2, 1, 0, 0, 3, 4]))
    agrees(proto, tmp_path, normal(1, 4, 7, 5))


def test_negative_pads_crop(tmp_path: Path) -> None:
    node = helper.make_node("Pad", ["x", "p"], ["y"])
    proto = graph([node], [1, 4, 7, 5], p=np.array([0, 1, -2, 1, 0, 0, 3, -2]))
    agrees(proto, tmp_path, normal(1, 4, 7, 5))


@pytest.mark.parametrize(
    ("op", "bound"), [("Min", 0.5), ("Max", 0.0), ("Max", 0.2), ("Div", 6.0), ("Mul", 1 / 6)]
)
def test_a_constant_of_more_axes_than_the_data_keeps_them(
    op: str, bound: float, tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Clip", ["f", "zero", "six"], ["c"]),
        helper.make_node(op, ["c", "b"], ["y"]),
    ]
    weights = {"zero": np.float32(0), "six": np.float32(6)}
    arrays = {name: np.asarray(value) for name, value in weights.items()}
    proto = graph(nodes, [2, 1, 2, 3], b=np.full((1, 1, 1, 1), bound, np.float32), **arrays)
    agrees(proto, tmp_path, 4 * normal(2, 1, 2, 3))


@pytest.mark.parametrize("axis", [-1, 1, 2])
@pytest.mark.parametrize("largest", [0, 1])
def test_topk_along_any_axis_with_equal_values(axis: int, largest: int, tmp_path: Path) -> None:
    node = helper.make_node("TopK", ["x", "k"], ["y", "i"], axis=axis, largest=largest)
    proto = graph([node], [2, 5, 6, 7], ("y", "i"), k=np.array([4]))
    agrees(proto, tmp_path, np.round(2 * normal(2, 5, 6, 7)))


def test_topk_of_opset_9(tmp_path: Path) -> None:
    proto = graph([helper.make_node("TopK", ["x"], ["y", "i"], k=3)], [1, 2, 3, 9], ("i",), 9)
    agrees(proto, tmp_path, normal(1, 2, 3, 9))


@pytest.mark.parametrize("attributes", [{}, {"reverse": 1}, {"exclusive": 1}])
def test_cumsum(attributes: dict[str, int], tmp_path: Path) -> None:
    node = helper.make_node("CumSum", ["x", "axis"], ["y"], **attributes)
    proto = graph([node], [1, 4, 7, 5], axis=np.array(2))
    agrees(proto, tmp_path, normal(1, 4, 7, 5))


@pytest.mark.parametrize("reduction", ["none", "add", "max"])
def test_scatter_elements(reduction: str, tmp_path: Path) -> None:
    node = helper.make_node("ScatterElements", ["x", "i", "u"], ["y"], axis=2, reduction=reduction)
    weights = {"i": np.array([[[[0], [-1]]]]), "u": normal(1, 1, 2, 1)}
    agrees(graph([node], [1, 4, 7, 5], **weights), tmp_path, normal(1, 4, 7, 5))


def gathers(op: str, **attributes: Any) -> onnx.ModelProto:
    proto = graph([helper.make_node(op, ["x", "i"], ["y"], **attributes)], [1, 4, 7, 5])
    shape = [1, 4, 3, 2] if op == "GatherElements" else [6, 1]
    indices = helper.make_tensor_value_info("i", TensorProto.INT64, shape)
    proto.graph.input.append(indices)
    return proto


@pytest.mark.parametrize("op", ["Gather", "GatherElements", "GatherND"])
def test_indices_out_of_range_are_clamped(op: str, tmp_path: Path) -> None:
    attributes = {} if op == "GatherND" else {"axis": 2}
    proto = gathers(op, **attributes)
    extent = 1 if op == "GatherND" else 7
    shape = [dim.dim_value for dim in proto.graph.input[1].type.tensor_type.shape.dim]
    legal = np.random.default_rng(0).integers(-extent, extent, shape)
    data = normal(1, 4, 7, 5)
    agrees(proto, tmp_path, data, legal)
    compiled = load(tmp_path / "model.so")
    beyond = np.full(shape, 10**9)
    np.testing.assert_array_equal(
        compiled(data, beyond), compiled(data, np.full(shape, extent - 1))
    )
    np.testing.assert_array_equal(compiled(data, -beyond), compiled(data, np.zeros_like(beyond)))


def test_a_constant_index_out_of_range_is_refused() -> None:
    node = helper.make_node("Gather", ["x", "i"], ["y"], name="g", axis=2)
    with pytest.raises(UserError, match=r"node 'g': operator Gather .*index out of range"):
        to_relax(graph([node], [1, 4, 7, 5], i=np.array([7])))


@pytest.mark.parametrize("axis", [-1, 1])
def test_one_hot_has_the_type_of_its_values(axis: int, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ArgMax", ["x"], ["a"], axis=1, keepdims=0),
        helper.make_node("OneHot", ["a", "depth", "values"], ["y"], axis=axis),
    ]
    weights = {"depth": np.array(6), "values": np.array([-1, 2.5], np.float32)}
    agrees(graph(nodes, [1, 4, 7, 5], **weights), tmp_path, normal(1, 4, 7, 5))


def test_layer_normalisation_has_three_outputs(tmp_path: Path) -> None:
    node = helper.make_node("LayerNormalization", ["x", "s", "b"], ["y", "m", "v"], axis=2)
    weights = {"s": normal(7, 5), "b": normal(7, 5)}
    proto = graph([node], [1, 4, 7, 5], ("y", "m", "v"), **weights)
    agrees(proto, tmp_path, normal(1, 4, 7, 5))


@pytest.mark.parametrize(
    ("node", "opset"),
    [
        (helper.make_node("Celu", ["x"], ["y"], alpha=0.7), 12),
        (helper.make_node("Swish", ["x"], ["y"]), 24),
        (helper.make_node("Shrink", ["x"], ["y"], bias=0.3, lambd=0.4), 9),
        (helper.make_node("ThresholdedRelu", ["x"], ["y"], alpha=0.4), 10),
        (helper.make_node("LpNormalization", ["x"], ["y"], axis=1), 17),
        (helper.make_node("LpNormalization", ["x"], ["y"], axis=1, p=1), 22),
        (helper.make_node("Slice", ["x"], ["y"], starts=[1, -3], ends=[9, -1], axes=[1, 2]), 9),
        (helper.make_node("Slice", ["x"], ["y"], starts=[0, 1], ends=[9, 3]), 7),
        (helper.make_node("Unsqueeze", ["x"], ["y"], axes=[0, 3]), 11),
        (helper.make_node("Squeeze", ["x"], ["y"], axes=[0]), 11),
        (helper.make_node("Softmax", ["x"], ["y"], axis=2), 11),
        (helper.make_node("Softmax", ["x"], ["y"], axis=2), 13),
        (helper.make_node("Shape", ["x"], ["y"], start=1), 15),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else str(value),
)
def test_operators_of_each_opset(node: onnx.NodeProto, opset: int, tmp_path: Path) -> None:
    if node.op_type == "Shape":
        nodes, outputs = [node, helper.make_node("Exp", ["x"], ["e"])], ("e", "y")
    else:
        nodes, outputs = [node], ("y",)
    agrees(graph(nodes, [1, 4, 7, 5], outputs, opset), tmp_path, normal(1, 4, 7, 5))


@pytest.mark.parametrize("exponent", [np.int64(2), np.int32(3), np.float64(0.5)])
def test_pow_with_an_exponent_of_another_type(exponent: Any, tmp_path: Path) -> None:
    proto = graph(
        [helper.make_node("Pow", ["x", "e"], ["y"])], [1, 4, 7, 5], e=np.asarray(exponent)
    )
    agrees(proto, tmp_path, np.abs(normal(1, 4, 7, 5)))


def test_an_empty_part_of_a_concatenation(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Slice", ["x", "three", "three", "one"], ["e"]),
        helper.make_node("Concat", ["x", "e"], ["c"], axis=1),
        helper.make_node("Exp", ["c"], ["y"]),
    ]
    proto = graph(nodes, [1, 4, 7, 5], three=np.array([3]), one=np.array([1]))
    agrees(proto, tmp_path, normal(1, 4, 7, 5))


def if_node(condition: str) -> onnx.NodeProto:
    branches = {}
    for name, op in (("then_branch", "Exp"), ("else_branch", "Neg")):
        # Both branches name their values alike, and read values of the outer graph.
        nodes = [
            helper.make_node("Add", ["x", "w"], ["inner"]),
            helper.make_node(op, ["inner"], ["result"]),
        ]
        output = helper.make_tensor_value_info("result", TensorProto.FLOAT, None)
        branches[name] = helper.make_graph(nodes, name, [], [output])
    return helper.make_node("If", [condition], [f"{condition}_y"], **branches)


@pytest.mark.parametrize("taken", [True, False])
def test_branches_of_known_conditions(taken: bool, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "two"], ["rows"]),
        helper.make_node("Equal", ["rows", "seven"], ["by_shape"]),
        if_node("by_shape"),
        if_node("by_constant"),
        helper.make_node("Sub", ["by_shape_y", "by_constant_y"], ["y"]),
    ]
    weights = {"two": np.array(2), "seven": np.array(7 if taken else 8)}
    proto = graph(
        nodes, [1, 4, 7, 5], by_constant=np.array(not taken), w=normal(4, 1, 1), **weights
    )
    agrees(proto, tmp_path, normal(1, 4, 7, 5))


def test_sparse_tensors(tmp_path: Path) -> None:
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.5, -2])
    places = helper.make_tensor("i", TensorProto.INT64, [2, 2], [0, 1, 3, 4])
    sparse = helper.make_sparse_tensor(values, places, [4, 5])
    nodes = [
        helper.make_node("Constant", [], ["v"], sparse_value=sparse),
        helper.make_node("Add", ["x", "v"], ["y"]),
    ]
    agrees(graph(nodes, [1, 2, 4, 5]), tmp_path, normal(1, 2, 4, 5))


def test_a_model_in_memory_is_sorted_and_what_no_output_needs_is_left_out(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Exp", ["r"], ["y"]),
        helper.make_node("NonZero", ["x"], ["unused"]),
        helper.make_node("Relu", ["x"], ["r"]),
    ]
    proto = model(nodes)
    proto.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["a", "b"]))
    data = normal(1, 4, 7, 7)
    compiled = load(compile_model(proto, "x86", tmp_path / "m.so").path)
    expected = np.exp(np.maximum(data, 0))
    np.testing.assert_allclose(compiled(data, np.zeros((1, 1), np.float32)), expected, 1e-5)
    assert proto.graph.node[0].op_type == "Exp"


@pytest.mark.parametrize(
    ("nodes", "outputs", "message"),
    [
        ([("Relu", "x", "y", {})], ["y", "y"], "2 outputs have the name 'y'; remove all but one"),
        ([("Identity", "x", "y", {})], ["y"], "the network computes nothing"),
        (
            [("Cast", "x", "c", {"to": TensorProto.FLOAT8E5M2}), ("Cast", "c", "y", {"to": 1})],
            ["y"],
            "'c' has the type float8e5m2, which cannot be compiled",
        ),
    ],
)
def test_models_that_are_refused_as_a_whole(
    nodes: list[Any], outputs: list[str], message: str, tmp_path: Path
) -> None:
    proto = model([helper.make_node(op, [x], [y], **at) for op, x, y, at in nodes], opset=19)
    proto.ir_version = 9
    del proto.graph.output[:]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    proto.graph.output.extend(values)
    with pytest.raises(UserError, match=re.escape(message)):
        compile_model(proto, "x86", tmp_path / "m.so")


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
            helper.make_node("Det", ["x"], ["y"], name="p"),
            "node 'p': operator Det cannot be compiled",
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


@pytest.mark.parametrize("elsewhere", [False, True])
def test_external_data_behind_links_of_a_cache(elsewhere: bool, tmp_path: Path) -> None:
    """A cache of models has its files in one folder, under names of hashes, and links to them."""
    blobs, snapshot, other = (tmp_path / name for name in ("blobs", "snapshots/1/onnx", "other"))
    for folder in (blobs, snapshot, other):
        folder.mkdir(parents=True)
    onnx.save(
        conv(), blobs / "m", save_as_external_data=True, location="m.onnx_data", size_threshold=0
    )
    data = (other if elsewhere else blobs) / "5f1d"
    (blobs / "m.onnx_data").rename(data)
    (snapshot / "m.onnx").symlink_to(blobs / "m")
    (snapshot / "m.onnx_data").symlink_to(data)
    if elsewhere:
        with pytest.raises(UserError, match=r"external data is missing.*symbolic link"):
            read_onnx(snapshot / "m.onnx")
        return
    found = read_onnx(snapshot / "m.onnx").graph.initializer
    wanted = conv().graph.initializer
    assert [numpy_helper.to_array(t).tolist() for t in found] == [
        numpy_helper.to_array(t).tolist() for t in wanted
    ]
