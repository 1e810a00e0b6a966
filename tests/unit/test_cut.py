"""Networks that end at a node that the user names, or before shapes that depend on the data."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import odd_models as odd
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from onnx_graphs import graph
from relax_helpers import normal

from mobilenet_tvm.compile import ModelOptions, compile_model, verify_artifact
from mobilenet_tvm.compile.cli.main import cli
from mobilenet_tvm.compile.frontend.read import prepare
from mobilenet_tvm.compile.models.source import resolve
from mobilenet_tvm.runtime import load
from mobilenet_tvm.runtime.detection import non_max_suppression
from mobilenet_tvm.runtime.metadata import read_metadata
from mobilenet_tvm.targets.errors import UserError

node = helper.make_node


def outputs(model: onnx.ModelProto) -> list[str]:
    return [value.name for value in model.graph.output]


def three_layers() -> onnx.ModelProto:
    """Return layers with and without names, one with two outputs; a second input is read last."""
    model = graph(
        [
            node("Conv", ["x", "w"], ["c"], "first"),
            node("Split", ["c"], ["s1", "s2"], "halves", axis=1, num_outputs=2),
            node("Relu", ["s1"], ["r"]),
            node("Mul", ["r", "scale"], ["m"], "scaled"),
            node("Conv", ["m", "v"], ["y"], "last"),
        ],
        [1, 4, 7, 5],
        w=normal(6, 4, 3, 3),
        v=normal(2, 3, 1, 1),
    )
    model.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1]))
    return model


@pytest.mark.parametrize(
    ("until", "expected", "operators"),
    [
        ("first", ["c"], ["Conv"]),
        ("c", ["c"], ["Conv"]),
        ("halves", ["s1", "s2"], ["Conv", "Split"]),
        (["s2"], ["s2"], ["Conv", "Split"]),
        (["r", "first", "c"], ["r", "c"], ["Conv", "Split", "Relu"]),
        ("scaled", ["m"], ["Conv", "Split", "Relu", "Mul"]),
    ],
)
def test_a_network_ends_at_the_nodes_that_are_named(
    until: str | list[str], expected: list[str], operators: list[str]
) -> None:
    original = three_layers()
    model = prepare(original, "model", until)
    assert outputs(model) == expected
    assert [each.op_type for each in model.graph.node] == operators
    assert [value.name for value in model.graph.input] == ["x", "scale"][: 1 + ("m" in expected)]
    assert [tensor.name for tensor in model.graph.initializer] == ["w"]
    assert original == three_layers()


def test_an_unknown_name_is_told_with_similar_ones() -> None:
    with pytest.raises(UserError, match=r"'scalde'.* did you mean scaled\? .*onnx\.load") as error:
        prepare(three_layers(), "model", ["first", "scalde"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["x", "w", ""])
def test_what_no_node_computes_is_no_end(name: str) -> None:
    with pytest.raises(UserError, match=f"no node or computed tensor has the name '{name}'"):
        prepare(three_layers(), "model", [name])


def test_what_follows_the_end_may_be_unsupported() -> None:
    twisted = odd.custom_operator()
    place = next(i for i, each in enumerate(twisted.graph.node) if each.op_type == "Twist")
    before = twisted.graph.node[place - 1]
    with pytest.raises(UserError, match=r"'Twist_1'.*compile what is before it with --until"):
        prepare(twisted, "model")
    assert outputs(prepare(twisted, "model", before.name)) == list(before.output)


def test_an_artifact_tells_its_end_to_verify(tmp_path: Path) -> None:
    file, so = tmp_path / "model.onnx", tmp_path / "model.so"
    onnx.save(three_layers(), file)
    arguments = ["compile", "--target", "x86", "--model", str(file), "-o", str(so), "--json"]
    result = CliRunner().invoke(cli, [*arguments, "--until", "halves", "--until", "r"])
    assert result.exit_code == 0, result.output
    written = json.loads(result.stdout)
    assert [output["name"] for output in written["outputs"]] == ["s1", "s2", "r"]
    assert [value["name"] for value in written["inputs"]] == ["x"]
    assert read_metadata(so).extra["recipe"] == {"until": ["s1", "s2", "r"]}
    verified = verify_artifact(so, file, inputs=2)
    assert len(verified.comparisons) == 6
    assert verified.agrees


def test_a_named_network_ends_where_it_is_told(tmp_path: Path) -> None:
    small: dict[str, Any] = {"resolution": 32, "alpha": 0.35}
    path = compile_model("v2", "x86", tmp_path / "m.so", until="Clip_2", **small).path
    verified = verify_artifact(path, inputs=1)
    assert [info.shape for info in verified.metadata.outputs] == [(1, 16, 16, 16)]
    assert verified.agrees


def test_the_outputs_of_an_uncut_network_are_not_recorded() -> None:
    cut = resolve(odd.detection(), ModelOptions(until="Conv_1"))
    assert cut.recipe == {"until": ["conv_1"]}
    assert resolve(three_layers(), ModelOptions()).recipe == {}


def loop(condition: str) -> list[onnx.NodeProto]:
    """Return a Loop that doubles `r` 5 times, or, if that is asked, while its sum is small."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            node("Add", ["map", "map"], ["doubled"]),
            node("ReduceSum", ["doubled"], ["sum"], keepdims=0),
            node("Less", ["sum", "limit"], ["small"]),
            node("Identity", [condition], ["go_on"]),
            node("And", ["small", "go"], ["and"]),
        ],
        "body",
        [
            value("i", TensorProto.INT64, ()),
            value("go", TensorProto.BOOL, ()),
            value("map", TensorProto.FLOAT, None),
        ],
        [
            value("go_on" if condition == "go" else "and", TensorProto.BOOL, ()),
            value("doubled", TensorProto.FLOAT, None),
        ],
    )
    return [node("Loop", ["five", "", "r"], ["y"], "loop", body=body)]


COUNT = [node("ReduceMax", ["r"], ["max"], keepdims=0), node("Cast", ["max"], ["k"], to=7)]
COUNTS = [*COUNT, node("Reshape", ["k", "minus"], ["ks"])]


@pytest.mark.parametrize(
    ("tail", "cut_before", "ends"),
    [
        ([node("NonZero", ["r"], ["y"])], "y", ["r"]),
        ([node("Unique", ["r"], ["y"], "u")], "u", ["r"]),
        ([*COUNTS, node("TopK", ["r", "ks"], ["y", "i"], "top")], "top", ["r", "ks"]),
        ([*COUNT, node("Range", ["zero", "k", "one"], ["y"])], "y", ["k"]),
        ([*COUNTS, node("ConstantOfShape", ["ks"], ["y"])], "y", ["ks"]),
        ([*COUNTS, node("Slice", ["r", "ks", "ends", "axes"], ["y"])], "y", ["r", "ks"]),
        (
            [node("Greater", ["flat", "limit"], ["g"]), node("Compress", ["flat", "g"], ["y"])],
            "y",
            ["flat", "g"],
        ),
        (loop("small"), "loop", ["r"]),
    ],
    ids=lambda value: value[-1].op_type if isinstance(value[0], onnx.NodeProto) else "",
)
def test_a_tail_that_depends_on_the_data_is_cut(
    tail: list[onnx.NodeProto],
    cut_before: str,
    ends: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("Reshape", ["r", "minus"], ["flat"]),
        *tail,
        node("Shape", ["y"], ["count"]),
    ]
    numbers = {"zero": 0, "one": 1, "five": 5, "minus": [-1], "ends": [9], "axes": [3]}
    weights = {name: np.array(value) for name, value in numbers.items()}
    limit = np.array(0.5, np.float32)
    model = graph(nodes, [1, 4, 7, 5], ("count",), w=normal(4, 4, 3, 3), limit=limit, **weights)
    file = tmp_path / "model.onnx"
    onnx.save(model, file)
    with caplog.at_level(logging.WARNING):
        artifact = compile_model(file, "x86", tmp_path / "model.so")
    (line,) = [record.getMessage() for record in caplog.records]
    start = f"warning: the network is cut before node '{cut_before}' ({tail[-1].op_type}), whose"
    assert line.startswith(start)
    assert f"its outputs are now {', '.join(ends)}, and" in line
    assert [output.name for output in artifact.metadata.outputs] == ends
    assert artifact.metadata.extra["recipe"] == {"until": ends}
    caplog.clear()
    assert verify_artifact(artifact.path, file, inputs=2).agrees
    assert not caplog.records


def test_outputs_before_the_tail_stay_first_and_its_inputs_go(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nodes = [
        node("Sigmoid", ["x"], ["s"]),
        node("Relu", ["x"], ["r"]),
        node("NonZero", ["r"], ["z"], "one"),
        node("Exp", ["r"], ["kept"]),
        node("NonZero", ["s"], ["zz"], "other"),
        node("Concat", ["z", "zz"], ["both"], axis=1),
        node("Mul", ["both", "size"], ["y"]),
    ]
    model = graph(nodes, [1, 4, 7, 5], ("y", "kept"))
    model.graph.input.append(helper.make_tensor_value_info("size", TensorProto.INT64, [1]))
    cut = prepare(model, "model")
    assert outputs(cut) == ["kept", "s", "r"]
    assert [value.name for value in cut.graph.input] == ["x"]
    assert "'one' (NonZero) and 1 more, whose" in caplog.text


def branches(**ends: str) -> onnx.NodeProto:
    """Return an If whose branches make a shape: that of `x`, or one from its values."""
    made = {"shape": [node("Shape", ["x"], ["n"])], "values": [node("Cast", ["x"], ["n"], to=7)]}
    value = helper.make_tensor_value_info("n", TensorProto.INT64, None)
    graphs = {
        f"{name}_branch": helper.make_graph(made[end], name, [], [value])
        for name, end in ends.items()
    }
    return node("If", ["known"], ["shape"], **graphs)


@pytest.mark.parametrize(
    "nodes",
    [
        [
            node("Shape", ["x"], ["shape"]),
            node(
                "ConstantOfShape", ["shape"], ["zeros"], value=helper.make_tensor("", 1, [1], [1])
            ),
            node("NonZero", ["zeros"], ["z"]),
            node("Cast", ["z"], ["f"], to=1),
            node("ReduceSum", ["f"], ["n"], keepdims=0),
            node("Add", ["x", "n"], ["y"]),
        ],
        [branches(then="shape", **{"else": "shape"}), node("Reshape", ["x", "shape"], ["y"])],
        [node("NonZero", ["x"], ["unused"]), node("Exp", ["x"], ["y"])],
        [node("Compress", ["x", "choice"], ["y"], axis=1)],
    ],
)
def test_what_does_not_depend_on_the_data_is_not_cut(
    nodes: list[onnx.NodeProto], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = {"known": np.array(True), "choice": np.array([True, False, True])}
    onnx.save(graph(nodes, [1, 4, 7, 5], **weights), tmp_path / "m.onnx")
    path = compile_model(tmp_path / "m.onnx", "x86", tmp_path / "m.so").path
    verified = verify_artifact(path, tmp_path / "m.onnx", inputs=1)
    assert [output.name for output in verified.metadata.outputs] == ["y"]
    assert verified.agrees
    assert not caplog.records


@pytest.mark.parametrize(
    ("nodes", "until", "message"),
    [
        ([node("NonZero", ["x"], ["y"])], None, "node 'y': operator NonZero cannot be compiled"),
        (
            [node("Relu", ["x"], ["r"]), node("NonZero", ["r"], ["y"], "nz")],
            "nz",
            "node 'nz': operator NonZero cannot be compiled (its shape depends on the input's",
        ),
        (
            [node("Relu", ["x"], ["r"]), *loop("go")],
            None,
            "node 'loop': operator Loop cannot be compiled",
        ),
        ([node("Relu", ["x"], ["r"])], "rr", "no node or computed tensor has the name 'rr'"),
    ],
)
def test_what_leaves_nothing_or_is_asked_for_is_refused(
    nodes: list[onnx.NodeProto], until: str | None, message: str, tmp_path: Path
) -> None:
    model = graph(
        nodes,
        [1, 4, 7, 5],
        (nodes[-1].output[0],),
        five=np.array(5),
        limit=np.array(1.0, np.float32),
    )
    with pytest.raises(UserError, match=re.escape(message)):
        compile_model(model, "x86", tmp_path / "m.so", until=until)


def detector() -> onnx.ModelProto:
    """Return a single-shot detector of two maps whose tail is what exporters make of it.

    Boxes are decoded and chosen in the network; the outputs are the chosen boxes, their scores and
    their classes, as many as there are.
    """
    heads = []
    for name, source in (("8", "a"), ("16", "b")):
        for kind, values, size in (("box", "w_box", 4), ("score", "w_score", 3)):
            heads += [
                node("Conv", [source, values], [f"{kind}_map_{name}"]),
                node("Transpose", [f"{kind}_map_{name}"], [f"{kind}_t_{name}"], perm=[0, 2, 3, 1]),
                node("Reshape", [f"{kind}_t_{name}", f"rows_{size}"], [f"{kind}_{name}"]),
            ]
    nodes = [
        node("Conv", ["x", "w_a"], ["c_a"], pads=[1] * 4, strides=[2, 2]),
        node("Relu", ["c_a"], ["a"]),
        node("Conv", ["a", "w_b"], ["c_b"], pads=[1] * 4, strides=[2, 2]),
        node("Relu", ["c_b"], ["b"]),
        *heads,
        node("Concat", ["box_8", "box_16"], ["offsets"], axis=1),
        node("Split", ["offsets"], ["move", "log"], axis=2, num_outputs=2),
        node("Add", ["move", "centres"], ["middle"]),
        node("Exp", ["log"], ["half"]),
        node("Sub", ["middle", "half"], ["low"]),
        node("Add", ["middle", "half"], ["high"]),
        node("Concat", ["low", "high"], ["boxes"], axis=2),
        node("Concat", ["score_8", "score_16"], ["logits"], axis=1),
        node("Sigmoid", ["logits"], ["probabilities"]),
        node("Transpose", ["probabilities"], ["scores"], perm=[0, 2, 1]),
        node("NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], ["chosen"]),
        node("Gather", ["chosen", "places"], ["box_places"], axis=1),
        node("GatherND", ["boxes", "box_places"], ["found_boxes"]),
        node("GatherND", ["scores", "chosen"], ["found_scores"]),
        node("Gather", ["chosen", "one"], ["found_classes"], axis=1),
    ]
    rng = np.random.default_rng(0)
    weights = {
        "w_a": normal(8, 3, 3, 3),
        "w_b": normal(8, 8, 3, 3) / 4,
        "w_box": normal(4, 8, 1, 1) / 4,
        "w_score": normal(3, 8, 1, 1) / 2,
        "centres": rng.uniform(0, 8, (1, 16 * 12 + 8 * 6, 2)).astype(np.float32),
        "rows_4": np.array([1, -1, 4]),
        "rows_3": np.array([1, -1, 3]),
        "most": np.array(20),
        "overlap": np.array(0.45, np.float32),
        "least": np.array(0.6, np.float32),
        "places": np.array([0, 2]),
        "one": np.array(1),
    }
    outputs = ("found_boxes", "found_scores", "found_classes")
    return graph(nodes, [1, 3, 32, 24], outputs, **weights)


def test_a_detector_cut_before_its_suppression_finds_the_same_boxes(tmp_path: Path) -> None:
    model = detector()
    compiled = load(compile_model(model, "x86", tmp_path / "m.so").path)
    assert [info.name for info in compiled.outputs] == ["boxes", "scores"]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for seed in range(3):
        image = np.random.default_rng(seed).normal(size=(1, 3, 32, 24)).astype(np.float32)
        found_boxes, found_scores, found_classes = session.run(None, {"x": image})
        result = compiled(image)
        boxes, scores = result["boxes"], result["scores"]
        images, classes, places = non_max_suppression(boxes, scores, 20, 0.45, 0.6).T
        assert len(found_classes) == len(classes) > 20
        np.testing.assert_array_equal(classes, found_classes)
        np.testing.assert_allclose(boxes[images, places], found_boxes, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(scores[images, classes, places], found_scores, rtol=1e-4)
