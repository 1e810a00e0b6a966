"""Pooling over windows: kinds, windows at the edges, channels that fill no vector."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import odd_models
import pytest
import tvm
from numpy_layers import BIAS, RELU, close, normal, with_epilogue
from onnx_graphs import agrees

from mobilenet_tvm.compile.codegen.pass_context import PASS_CONFIG
from mobilenet_tvm.compile.codegen.tvm_target import llvm_target
from mobilenet_tvm.compile.models.source import ModelOptions, resolve
from mobilenet_tvm.compile.pipeline import layers
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.cpu import window_pooling
from mobilenet_tvm.schedules.workloads import GlobalPool, Types, Window, WindowPool
from mobilenet_tvm.targets.presets import PRESETS

Array = np.ndarray[Any, Any]

X86 = PRESETS["x86"]
WINDOWS = [
    Window((3, 3), (2, 2), (1, 1, 1, 1)),
    Window((2, 2), (2, 2)),
    Window((3, 2), (1, 2), (0, 1, 2, 0)),
    Window((1, 5), (1, 1), (0, 2, 0, 2)),
]
DILATED = Window((3, 3), (1, 1), (2, 2, 2, 2), (2, 2))


def variant(*values: Any) -> Any:
    """Return a case that only the full tests try."""
    return pytest.param(*values, marks=pytest.mark.full)


def reference(data: Array, workload: WindowPool) -> Array:
    """Return what a pooling computes, without its epilogue, in double precision."""
    window = workload.window
    top, left, bottom, right = window.padding
    widths = ((0, 0), (top, bottom), (left, right), (0, 0))
    outside = -np.inf if workload.kind == "max" else 0
    full = np.pad(data.astype(np.float64), widths, constant_values=outside)
    inside = np.pad(np.ones_like(data), widths)
    result = np.zeros(workload.output_shape)
    rows, columns = workload.output_shape[1:3]
    (down, across), (below, beside) = window.stride, window.dilation
    height, width = window.reach
    for y, x in itertools.product(range(rows), range(columns)):
        place = (
            slice(None),
            slice(y * down, y * down + height, below),
            slice(x * across, x * across + width, beside),
        )
        if workload.kind == "max":
            result[:, y, x] = full[place].max((1, 2))
        else:
            count = (
                inside[place][0, ..., 0].sum() if workload.kind == "mean_inside" else window.taps
            )
            result[:, y, x] = full[place].sum((1, 2)) / count
    return result


def check(workload: WindowPool, decision: window_pooling.Decision) -> None:
    data = normal(workload.batch, workload.height, workload.width, workload.channels)
    expected, operands = with_epilogue(reference(data, workload), workload.epilogue)
    func = window_pooling.SCHEDULE.build(workload, decision, X86)
    with tvm.transform.PassContext(opt_level=3, config=PASS_CONFIG):
        compiled = tvm.compile(func, target=llvm_target(X86))
    result = np.full(expected.shape, np.nan, np.float32)
    tensors = [tvm.runtime.tensor(array) for array in (data, *operands, result)]
    compiled["main"](*tensors)
    close(tensors[-1].numpy(), expected)


@pytest.mark.parametrize("channels", [24, variant(16), variant(7)])
@pytest.mark.parametrize("window", [WINDOWS[0], *map(variant, WINDOWS[1:]), DILATED], ids=str)
@pytest.mark.parametrize("kind", ["max", "mean", "mean_inside"])
def test_by_default(kind: str, window: Window, channels: int) -> None:
    workload = WindowPool(kind, 2, 9, 7, channels, window, (BIAS, RELU))
    schedule = registry.find(workload, X86)
    if kind == "mean_inside" and window == DILATED:
        assert schedule is None
        return
    assert schedule is window_pooling.SCHEDULE
    check(workload, window_pooling.SCHEDULE.default(workload, X86))


def test_by_other_decisions() -> None:
    workload = WindowPool("max", 1, 8, 8, 16, Window((3, 3), (2, 2), (0, 0, 1, 1)))
    decisions = registry.decisions(workload, X86)
    assert len(decisions) > 10
    for decision in decisions[::4]:
        assert isinstance(decision, window_pooling.Decision)
        check(workload, decision)


def test_values_are_vectors_of_channels() -> None:
    workload = WindowPool("max", 1, 9, 9, 48, Window((3, 3), (2, 2), (1, 1, 1, 1)))
    func = registry.build(workload, registry.default(workload, X86), X86)
    assert "T.vectorized(8)" in func.script()


def test_what_it_does_not_compute() -> None:
    workload = WindowPool("max", 1, 65, 65, 16, Window((33, 33)))
    assert registry.find(workload, X86) is None
    half = WindowPool("max", 1, 9, 9, 16, Window((3, 3)), types=Types.of("float16"))
    assert registry.find(half, PRESETS["cortex-a76"]) is None


@pytest.mark.parametrize(
    ("op", "attributes", "kinds"),
    [
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, ["max"]),
        variant("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, ["max"]),
        variant("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, []),
        variant("MaxPool", {"kernel_shape": [3, 2], "dilations": [2, 3]}, ["max"]),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 0, 1, 2]}, ["mean_inside"]),
        variant(
            "AveragePool",
            {"kernel_shape": [2, 3], "pads": [1, 1, 0, 1], "count_include_pad": 1},
            ["mean"],
        ),
        ("AveragePool", {"kernel_shape": [7, 9]}, ["whole"]),
    ],
    ids=str,
)
def test_networks_have_it(
    op: str, attributes: dict[str, Any], kinds: list[str], tmp_path: Path
) -> None:
    net = odd_models.Net((1, 8, 7, 9))
    pooled = net.node(op, net.conv("input", 8, 20), **attributes)
    output = net.conv(net.node("Relu", pooled), 20, 4)
    model = net.model(output, shapes=(("n", "c", "h", "w"),))
    found = [
        layer
        for layer in layers(resolve(model, ModelOptions()).model, X86)
        if isinstance(layer, WindowPool | GlobalPool)
    ]
    names = [layer.kind if isinstance(layer, WindowPool) else "whole" for layer in found]
    assert names == kinds
    assert all(layer.epilogue for layer in found)
    agrees(model, tmp_path, normal(1, 8, 7, 9))
