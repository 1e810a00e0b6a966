"""Convolutions of all kinds and functions after them equal ONNX Runtime's, and have schedules."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import onnx
import pytest
from networks import equals_onnxruntime
from odd_models import Net

from mobilenet_tvm.compile import compile_model


def schedules(path: Path) -> list[str]:
    """Return the workloads of a model's calls that have a schedule."""
    calls = compile_model(path, "x86", path.with_suffix(".again.so")).metadata.extra["calls"]
    return [call["workload"] for call in calls if call["source"]]


def ending(net: Net, value: str, opset: int = 17) -> onnx.ModelProto:
    """Return a network with one output, of any size."""
    return net.model(value, shapes=[("n", "c", "h", "w")], opset=opset)


def transposed(
    inputs: int, outputs: int, kernel: tuple[int, int], **attributes: Any
) -> onnx.ModelProto:
    """Return a network of a transposed convolution with a bias, and ReLU."""
    net = Net((2, inputs, 5, 7))
    groups = attributes.get("group", 1)
    weight = net.normal(inputs, outputs // groups, *kernel)
    sums = net.node("ConvTranspose", "input", weight, net.normal(outputs), **attributes)
    return ending(net, net.node("Relu", sums))


@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "attributes"),
    [
        (8, 6, (2, 2), {"strides": [2, 2]}),
        (8, 6, (4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        (8, 6, (3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
        (8, 6, (3, 3), {"strides": [1, 1], "pads": [1, 1, 1, 1]}),
        (8, 6, (3, 5), {"strides": [2, 3], "pads": [0, 1, 1, 2], "output_padding": [0, 1]}),
        (8, 8, (4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1], "group": 8}),
        (8, 12, (4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1], "group": 2}),
        (8, 6, (2, 2), {"strides": [3, 3]}),
        (8, 6, (3, 3), {"strides": [2, 2], "pads": [2, 2, 2, 2], "dilations": [2, 2]}),
        (4, 6, (16, 16), {"strides": [8, 8], "pads": [4, 4, 4, 4]}),
        (8, 1, (1, 1), {"strides": [2, 2], "output_padding": [1, 1]}),
    ],
    ids=str,
)
def test_transposed_convolutions_are_plain_ones(
    inputs: int, outputs: int, kernel: tuple[int, int], attributes: dict[str, Any], tmp_path: Path
) -> None:
    model = transposed(inputs, outputs, kernel, **attributes)
    equals_onnxruntime(model, tmp_path)
    assert schedules(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "attributes",
    [
        {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
        {"group": 4},
        {"group": 4, "dilations": [3, 1], "pads": [3, 1, 3, 1], "strides": [1, 2]},
        {"strides": [2, 2], "pads": [0, 0, 1, 1]},
    ],
    ids=str,
)
def test_dense_convolutions(attributes: dict[str, Any], tmp_path: Path) -> None:
    net = Net((1, 16, 13, 11))
    middle = net.node("Relu", net.conv("input", 16, 24, 3))
    equals_onnxruntime(ending(net, net.conv(middle, 24, 20, 3, **attributes)), tmp_path)
    kinds = [text.partition(" ")[0] for text in schedules(tmp_path / "model.onnx")]
    assert kinds == ["conv2d", "conv2d"]


def gelu(net: Net, x: str) -> str:
    """Add GELU as PyTorch exports it."""
    error = net.node("Erf", net.node("Div", x, net.weight(math.sqrt(2))))
    product = net.node("Mul", x, net.node("Add", error, net.weight(1)))
    return net.node("Mul", product, net.weight(0.5))


FUNCTIONS = {
    "silu": lambda net, x: net.node("Mul", x, net.node("Sigmoid", x)),
    "gelu": gelu,
    "prelu": lambda net, x: net.node("PRelu", x, net.normal(24, 1, 1)),
    "leaky_relu(0.1)": lambda net, x: net.node("LeakyRelu", x, alpha=0.1),
    "tanh": lambda net, x: net.node("Tanh", x),
    "sigmoid": lambda net, x: net.node("Sigmoid", x),
    "elu": lambda net, x: net.node("Elu", x),
    "softplus": lambda net, x: net.node("Softplus", x),
    "mish": lambda net, x: net.node("Mul", x, net.node("Tanh", net.node("Softplus", x))),
}


@pytest.mark.parametrize("step", FUNCTIONS)
def test_functions_go_into_the_layer_before(step: str, tmp_path: Path) -> None:
    net = Net((1, 16, 9, 11))
    result = FUNCTIONS[step](net, net.conv("input", 16, 24, 3))
    equals_onnxruntime(ending(net, result), tmp_path)
    (text,) = schedules(tmp_path / "model.onnx")
    assert text.endswith(f"add_channel {step}")


@pytest.mark.parametrize(
    ("op", "attributes"),
    [("Elu", {"alpha": 0.3}), ("Selu", {}), ("Mish", {}), ("Softsign", {}), ("Exp", {})],
)
def test_other_functions_are_right(op: str, attributes: dict[str, float], tmp_path: Path) -> None:
    net = Net((1, 16, 9, 11))
    result = net.node(op, net.conv("input", 16, 24, 3), **attributes)
    equals_onnxruntime(ending(net, result, opset=18), tmp_path)
