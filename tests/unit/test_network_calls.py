"""Every call of a network has its ONNX node, its work and its bytes, whatever schedules it."""

from __future__ import annotations

import numpy as np
import odd_models
import onnx
import pytest

from mobilenet_tvm.compile.analysis.peak import Peak
from mobilenet_tvm.compile.analysis.profile import call_profiles
from mobilenet_tvm.compile.models.source import ModelOptions, resolve
from mobilenet_tvm.compile.pipeline import lower
from mobilenet_tvm.runtime.metadata import Metadata
from mobilenet_tvm.runtime.profile import CallTime
from mobilenet_tvm.targets.presets import PRESETS

MODELS = {
    "channel_multiplier": odd_models.channel_multiplier(),
    "squeeze_excitation": odd_models.squeeze_excitation("sigmoid"),
    "batch_norm": odd_models.batch_norm_apart("after_dense"),
    "two_outputs": odd_models.two_outputs(),
}


def names_of(model: onnx.ModelProto) -> list[str]:
    return [node.name or node.output[0] for node in model.graph.node]


@pytest.mark.parametrize("target", ["x86", "mali"])
@pytest.mark.parametrize("name", MODELS)
def test_calls_are_described(name: str, target: str) -> None:
    model = resolve(MODELS[name], ModelOptions()).model
    calls = lower(model, PRESETS[target]).calls
    assert calls
    assert {call.node for call in calls} <= {*names_of(model)}
    assert all(call.bytes > 0 for call in calls)
    for call in calls:
        if call.layer:
            work = (call.layer.workload.flops, call.layer.workload.bytes)
            assert (call.flops, call.bytes) == work


def test_a_convolution_by_rule_counts_its_multiply_adds() -> None:
    model = MODELS["channel_multiplier"]
    (convolution,) = (
        call
        for call in lower(model, PRESETS["mali-x86"]).calls
        if "conv2d" in call.function and not call.layer
    )
    node = next(n for n in model.graph.node if (n.name or n.output[0]) == convolution.node)
    assert node.op_type == "Conv"
    (group,) = (attribute.i for attribute in node.attribute if attribute.name == "group")
    assert group > 1
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    taps = shapes[node.input[1]][2] * shapes[node.input[1]][3]
    assert convolution.flops >= 2 * taps


def test_times_find_their_calls_though_some_are_not_called() -> None:
    names = ["pointwise_0", "reshape", "multiply", "multiply", "pointwise_0"]
    calls = [
        {"function": name, "node": f"node {place}", "flops": 10, "bytes": 20, "workload": name}
        for place, name in enumerate(names)
    ]
    metadata = Metadata(
        model="m",
        inputs=(),
        outputs=(),
        target={},
        required_features=(),
        versions={},
        weights="",
        layers=2,
        tuned_layers=0,
        extra={"calls": calls},
    )
    times = [CallTime(name, np.array([1e-6])) for name in names if name != "reshape"]
    rows = call_profiles(times, metadata, Peak(1.0, 1.0))
    assert [row.node for row in rows] == ["node 0", "node 2", "node 3", "node 4"]
    assert [row.gflops for row in rows] == pytest.approx([0.01] * 4)


def test_calls_of_branches_are_in_the_order_in_which_they_run() -> None:
    net = odd_models.Net((1, 8, 6, 6))
    parts: list[list[str]] = [[], []]
    x = "input"
    for _ in range(2):
        x = net.conv(x, 8, 8, 3)
        # Layers of the same workload, so that only their nodes tell them apart.
        for part in parts:
            head = net.node("Transpose", net.conv(x, 8, 4), perm=[0, 2, 3, 1])
            part.append(net.node("Reshape", head, net.weight([1, -1, 4], np.int64)))
    heads = [net.node("Concat", *part, axis=1) for part in parts]
    model = resolve(net.model(*heads, shapes=((1, 72, 4),) * 2), ModelOptions()).model
    # TVM computes all of the first output before what is only in the second.
    order = ["Conv_0", "Conv_1", "Conv_7", "Conv_8", "Reshape_3", "Conv_4", "Conv_11", "Reshape_6"]
    assert [call.node for call in lower(model, PRESETS["x86"]).calls] == order
