"""NaN and infinity in an input come out where ONNX Runtime's do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from assembly import assembly, functions
from board import Board
from board_models import run_on_board
from onnx import helper
from onnx_graphs import agrees, graph

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.workloads import Pointwise, Step, Workload
from mobilenet_tvm.targets.presets import PRESETS

Array = np.ndarray[Any, Any]
#: Vectors of 8 or 16 channels and, in the second, what is left of one.
SHAPES = [(1, 32, 3, 5), (1, 21, 5, 3)]
NUMBERS = {"low": 0.0, "high": 6.0, "half": 0.5, "three": 3.0}

#: Nodes of functions of `x`: operator, inputs, attributes. The output of one is the next one's `_`.
FUNCTIONS: dict[str, list[tuple[str, list[str], dict[str, Any]]]] = {
    "relu": [("Relu", ["x"], {})],
    "relu6": [("Clip", ["x", "low", "high"], {})],
    "clip": [("Clip", ["x", "half", "three"], {})],
    "relu6 of Min and Max": [("Min", ["high", "x"], {}), ("Max", ["_", "low"], {})],
    "max": [("Max", ["half", "x"], {})],
    "min": [("Min", ["x", "half"], {})],
    "leaky_relu": [("LeakyRelu", ["x"], {})],
    "prelu": [("PRelu", ["x", "half"], {})],
    "hard_sigmoid": [("HardSigmoid", ["x"], {})],
    "hard_sigmoid of MobileNetV3": [("HardSigmoid", ["x"], {"alpha": 1 / 6})],
    "hard_swish": [("HardSwish", ["x"], {})],
    "hard_swish of nodes": [
        ("Add", ["x", "three"], {}),
        ("Clip", ["_", "low", "high"], {}),
        ("Mul", ["x", "_"], {}),
        ("Div", ["_", "high"], {}),
    ],
    "sigmoid": [("Sigmoid", ["x"], {})],
    "silu": [("Sigmoid", ["x"], {}), ("Mul", ["x", "_"], {})],
    "tanh": [("Tanh", ["x"], {})],
    "erf": [("Erf", ["x"], {})],
    "elu": [("Elu", ["x"], {})],
    "softplus": [("Softplus", ["x"], {})],
    "softsign": [("Softsign", ["x"], {})],
    "sign": [("Sign", ["x"], {})],
    "thresholded_relu": [("ThresholdedRelu", ["x"], {})],
    "shrink": [("Shrink", ["x"], {})],
}


def nodes_of(name: str, data: str, result: str) -> list[onnx.NodeProto]:
    """Return the nodes of a function."""
    nodes: list[onnx.NodeProto] = []
    for op, inputs, attributes in FUNCTIONS[name]:
        last = f"{result}_{len(nodes) - 1}"
        renamed = [{"x": data, "_": last}.get(value, value) for value in inputs]
        nodes.append(helper.make_node(op, renamed, [f"{result}_{len(nodes)}"], **attributes))
    nodes[-1].output[0] = result
    return nodes


def weights(channels: int) -> dict[str, Array]:
    """Return the constants of the functions, and a convolution's weight."""
    weight = np.random.default_rng(0).standard_normal((channels, channels, 1, 1)) / 5
    numbers = {name: np.float32(number) for name, number in NUMBERS.items()}
    return {"weight": weight.astype(np.float32), **numbers}


def image(shape: tuple[int, ...], seed: int = 0) -> Array:
    """Return numbers, of which some are NaN or infinite, not only at the ends of vectors."""
    rng = np.random.default_rng(seed)
    data = rng.standard_normal(shape).astype(np.float32) * 4
    places = rng.permutation(shape[2] * shape[3])[:6]
    for place, value in zip(places, [np.nan, np.nan, np.inf, -np.inf] * 2, strict=False):
        channels = rng.permutation(shape[1])[: 1 if place % 2 else shape[1]]
        data.reshape(shape[1], -1)[channels, place] = value
    return data


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_alone_and_of_a_layer(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    convolution = helper.make_node("Conv", ["x", "weight"], ["sums"])
    nodes = [*nodes_of(name, "x", "alone"), convolution, *nodes_of(name, "sums", "layer")]
    model = graph(nodes, shape, ["alone", "layer"], **weights(shape[1]))
    agrees(model, tmp_path, image(shape))


@pytest.mark.parametrize("op", ["Max", "Min"])
def test_either_tensor_may_have_it(op: str, tmp_path: Path) -> None:
    shape = SHAPES[1]
    row = np.array([[[[1, np.nan, -1]]]], np.float32)
    operands = {"same": image(shape, 1), "row": row, "half": np.float32(0.5)}
    every = [["x", "same"], ["same", "x"], ["x", "row"], ["row", "x"], ["x", "half", "row", "same"]]
    names = [f"y{number}" for number in range(len(every))]
    nodes = [helper.make_node(op, inputs, [y]) for inputs, y in zip(every, names, strict=True)]
    agrees(graph(nodes, shape, names, **operands), tmp_path, image(shape))


def test_on_arm(board: Board, tmp_path: Path) -> None:
    shape = SHAPES[1]
    nodes = [helper.make_node("Conv", ["x", "weight"], ["sums"])]
    results = []
    for number, name in enumerate(FUNCTIONS):
        for data in ("x", "sums"):
            results.append(f"{data}{number}")
            nodes += nodes_of(name, data, results[-1])
    nodes.append(helper.make_node("Concat", results, ["y"], axis=0))
    model = graph(nodes, shape, **weights(shape[1]))
    data = image(shape)
    path = compile_model(model, "arm64", tmp_path / "model.so").path
    (found,) = run_on_board(board, path, data[None], tmp_path, "cortex-a72")
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": data})
    for name, ours, right in zip(results, found, expected, strict=True):
        np.testing.assert_allclose(ours, right, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("step", [Step("relu"), Step("clip", (0.0, 6.0)), Step("hard_swish")])
@pytest.mark.parametrize(
    ("target", "limits"), [("cortex-a72", {"fmax", "fmin"}), ("x86", {"vmaxps", "vminps"})]
)
def test_it_costs_no_instruction(step: Step, target: str, limits: set[str]) -> None:
    machine = PRESETS[target]

    def instructions(epilogue: tuple[Step, ...]) -> list[str]:
        workload: Workload = Pointwise(49, 32, 24, epilogue)
        func = registry.build(workload, registry.default(workload, machine), machine)
        blocks = [block for code in functions(assembly(func, machine)).values() for block in code]
        return [part.name for block in blocks for part in block.body]

    found = set(instructions((step,))) - set(instructions(()))
    assert found & limits
    assert not {name for name in found if name.startswith(("fcm", "bi", "bsl", "vcmp", "vblend"))}
