"""Hard-swish and hard-sigmoid are recognised in the arithmetic that exporters write."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from relax_helpers import module, normal, operators, run
from tvm import relax

from mobilenet_tvm.compile.passes.recognize_hard import HARD_SIGMOID, HARD_SWISH, RecognizeHard

op = relax.op


def number(value: float) -> Any:
    return relax.const(np.float32(value))


def emit(expr: Any) -> Any:
    return relax.BlockBuilder.current().emit(expr)


def relu6_of_x_plus_3(x: Any) -> Any:
    return emit(op.clip(emit(op.add(x, number(3))), 0.0, 6.0))


def onnx_hard_sigmoid(x: Any, alpha: float = 1 / 6, beta: float = 0.5) -> Any:
    return op.clip(op.add(op.multiply(number(alpha), x), number(beta)), 0.0, 1.0)


SHAPE = (1, 4, 3, 3)
SIGMOIDS = {
    "onnx": onnx_hard_sigmoid,
    "divide": lambda x: op.divide(relu6_of_x_plus_3(x), number(6)),
    "multiply": lambda x: op.multiply(relu6_of_x_plus_3(x), number(1 / 6)),
    "constant_first": lambda x: op.multiply(number(1 / 6), op.clip(op.add(number(3), x), 0.0, 6.0)),
}
SWISHES = {
    "of_hard_sigmoid": lambda x: op.multiply(emit(onnx_hard_sigmoid(x)), x),
    "gate_divided": lambda x: op.multiply(x, emit(op.divide(relu6_of_x_plus_3(x), number(6)))),
    "product_divided": lambda x: op.divide(emit(op.multiply(x, relu6_of_x_plus_3(x))), number(6)),
    "product_scaled": lambda x: op.multiply(
        emit(op.multiply(relu6_of_x_plus_3(x), x)), number(1 / 6)
    ),
}


def check(body: Any, expected: list[str]) -> None:
    mod = module(body, SHAPE)
    after = RecognizeHard(mod).run()
    assert operators(after) == expected
    data = 4 * normal(*SHAPE)
    np.testing.assert_allclose(run(after, data), run(mod, data), atol=2e-6)


@pytest.mark.parametrize("form", SIGMOIDS)
def test_hard_sigmoid(form: str) -> None:
    check(SIGMOIDS[form], [HARD_SIGMOID])


@pytest.mark.parametrize("form", SWISHES)
def test_hard_swish(form: str) -> None:
    check(SWISHES[form], [HARD_SWISH])


def test_onnx_defaults_are_another_function() -> None:
    check(lambda x: onnx_hard_sigmoid(x, 0.2), ["multiply", "add", "clip"])


def test_a_gate_of_another_value_is_no_swish() -> None:
    def body(x: Any) -> Any:
        return op.multiply(emit(onnx_hard_sigmoid(emit(op.nn.relu(x)))), x)

    check(body, ["nn.relu", HARD_SIGMOID, "multiply"])


def test_a_sum_of_two_tensors_is_no_shift() -> None:
    check(lambda x: op.divide(emit(op.clip(emit(op.add(x, x)), 0.0, 6.0)), number(6)),
          ["add", "clip", "divide"])  # fmt: skip
