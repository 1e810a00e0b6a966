"""Models that are damaged, invalid or huge: one clear line, within bounded time and memory."""

from __future__ import annotations

import itertools
import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from odd_models import Net
from onnx import TensorProto, helper, numpy_helper
from onnx_graphs import graph

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.frontend.fold import fold_constants
from mobilenet_tvm.compile.frontend.importer import to_relax
from mobilenet_tvm.compile.frontend.read import fix_shapes, load_onnx, prepare
from mobilenet_tvm.targets.errors import UserError

node = helper.make_node


def relu(shape: list[int | str] | None = None) -> onnx.ModelProto:
    return graph([node("Relu", ["x"], ["y"], "the_relu")], shape or [1, 4, 7, 7])


def conv(*weight: int, **attributes: Any) -> onnx.ModelProto:
    made = graph([node("Conv", ["x", "w"], ["y"])], [1, 4, 7, 7], w=np.ones(weight, np.float32))
    made.graph.node[0].CopyFrom(node("Conv", ["x", "w"], ["y"], "conv", **attributes))
    return made


def constants(operator: str, **values: Any) -> onnx.ModelProto:
    """Add what an operator makes of constants to an image."""
    nodes = [node(operator, list(values), ["c"], "bomb"), node("Add", ["x", "c"], ["y"])]
    arrays = {name: np.asarray(value) for name, value in values.items()}
    made = graph([node("Relu", ["x"], ["y"])], [1, 4, 7, 7], **arrays)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


@pytest.mark.parametrize("name", [b"the_relu", b"x", b"y"])
def test_a_name_that_is_no_text(tmp_path: Path, name: bytes) -> None:
    field = bytes([len(name)])
    data = relu().SerializeToString().replace(field + name, field + b"\xff" * len(name))
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(UserError, match="not UTF-8"):
        load_onnx(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_type": 99}, "type of number 99"),
        ({"raw_data": b"123"}, "3 bytes"),
        ({"dims": [-8, 4, 3, 3]}, "Negative dimension"),
    ],
)
def test_a_weight_that_does_not_fit_its_type_or_shape(
    changes: dict[str, Any], message: str
) -> None:
    model = conv(8, 4, 3, 3)
    weight = model.graph.initializer[0]
    fields = {"name": "w", "dims": weight.dims, "data_type": 1, "raw_data": weight.raw_data}
    weight.CopyFrom(TensorProto(**(fields | changes)))
    with pytest.raises(UserError, match=message):
        prepare(model, "m")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (conv(8, 4, 3, 3, kernel_shape=[0, 0]), "kernel_shape"),
        (conv(8, 4, 3, 3, kernel_shape=[5, 5]), r"kernel_shape \[5, 5\] and a weight of shape"),
        (conv(8, 4, 3, 3, pads=[-1, 0, 0, 0]), "pads"),
        (conv(8, 4, 3, 3, strides=[0, 1]), "strides"),
        (conv(8, 4, 3, 3, group=3), "group 3"),
        (conv(8, 4, 3, 3, group=0), "group 0"),
        (conv(8, 5, 3, 3), "4 channels in its input and 5 in its weight"),
        (conv(0, 4, 3, 3), "without elements"),
        (constants("Add", a=np.ones(2, np.float32), b=np.ones(2)), "type"),
    ],
)
def test_nodes_that_do_not_fit_are_refused_as_by_onnxruntime(
    model: onnx.ModelProto, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prepare(model, "m")


@pytest.mark.parametrize(
    "model",
    [
        constants("ConstantOfShape", extents=[1000, 1000, 1000]),
        constants("Expand", one=np.ones(1, np.float32), extents=[1000, 1000, 1000]),
        constants("Tile", one=np.ones((1, 1), np.float32), times=[100000, 10000]),
        constants("Range", start=0, limit=1000000000, delta=1),
        constants("Add", a=np.ones((1, 60000), np.float32), b=np.ones((60000, 1), np.float32)),
    ],
)
def test_constants_do_not_grow_without_bound(model: onnx.ModelProto) -> None:
    with pytest.raises(UserError, match=r"'bomb'.*67108864"):
        fold_constants(model)


def test_a_node_that_cannot_be_folded_is_named() -> None:
    with pytest.raises(UserError, match=r"node 'bomb': operator Reshape .*size 4"):
        fold_constants(constants("Reshape", data=np.ones(4, np.float32), extents=[7]))


def test_functions_inside_functions_are_counted_before_they_are_expanded() -> None:
    model = relu()
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    functions = []
    for level in range(26):
        call = ("Relu", "") if level == 0 else (f"F{level - 1}", "own")
        body = [
            node(call[0], ["a"], ["b"], domain=call[1]),
            node(call[0], ["b"], ["c"], domain=call[1]),
        ]
        functions.append(helper.make_function("own", f"F{level}", ["a"], ["c"], body, opsets))
    model.functions.extend(functions)
    model.opset_import.append(opsets[1])
    model.graph.node[0].CopyFrom(node("F25", ["x"], ["y"], domain="own"))
    with pytest.raises(UserError, match="67108864 nodes"):
        prepare(model, "m")
    model.functions[0].node[0].CopyFrom(node("F0", ["a"], ["b"], domain="own"))
    with pytest.raises(UserError, match="inside each other"):
        prepare(model, "m")


def test_nodes_in_reverse_order_are_sorted_in_linear_time() -> None:
    count = 20000
    names = ["x", *(f"v{place}" for place in range(count - 1)), "y"]
    nodes = [node("Identity", [a], [b]) for a, b in itertools.pairwise(names)]
    model = graph([node("Relu", ["x"], ["y"])], [1, 4, 7, 7])
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    began = time.process_time()
    prepared = prepare(model, "m")
    assert [each.output[0] for each in prepared.graph.node] == names[1:]
    assert time.process_time() - began < 10
    with pytest.raises(UserError, match="20000 nodes, of which 8000"):
        to_relax(fix_shapes(prepared))


@pytest.mark.full
def test_long_chains_do_not_overflow_the_stack(tmp_path: Path) -> None:
    net = Net([1, 3, 8, 8])
    value = net.conv("input", 3, 4)
    for _ in range(1000):
        value = net.node("Sigmoid", value)
    compile_model(net.model(value, shapes=[[1, 4, 8, 8]]), "x86", tmp_path / "m.so")


def test_an_input_of_more_elements_than_tvm_counts_is_refused() -> None:
    with pytest.raises(UserError, match="2147483647"):
        fix_shapes(relu(["n", 4, 50000, 50000]))
    with pytest.raises(UserError, match="extents of 1 and more"):
        fix_shapes(relu(["n", 4, 7, 7]), batch=0)


@pytest.mark.parametrize("kind", ["pipe", "device", "nul", "long"])
def test_what_is_no_ordinary_file_is_not_read(tmp_path: Path, kind: str) -> None:
    pipe = tmp_path / "pipe.onnx"
    os.mkfifo(pipe)
    paths = {"pipe": pipe, "device": "/dev/zero", "nul": "a\0b.onnx", "long": "x" * 5000}
    with pytest.raises(UserError):
        compile_model(paths[kind], "x86", tmp_path / "m.so")


def test_weights_that_are_not_finite_are_announced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = conv(8, 4, 3, 3)
    weight = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight[0, 0, 0, 0] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    with caplog.at_level(logging.WARNING):
        compile_model(model, "x86", tmp_path / "m.so", tuning_log="none")
    assert "weight 'w' holds NaN or infinity" in caplog.text
