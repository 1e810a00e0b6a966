"""Operators on constants are evaluated, quantised weights included."""

from __future__ import annotations

import numpy as np
import pytest
from relax_helpers import module, normal, operators, run
from tvm import relax

from mobilenet_tvm.compile.passes.fold_constants import FoldConstants

op = relax.op
A, B = relax.const(normal(2, 3, 4)), relax.const(normal(2, 3, 4, seed=1))
INT8 = relax.const(np.arange(-12, 12, dtype=np.int8).reshape(2, 3, 4))


@pytest.mark.parametrize(
    "value",
    [
        lambda: op.reshape(A, (4, 6)),
        lambda: op.permute_dims(A, (2, 0, 1)),
        lambda: op.permute_dims(A),
        lambda: op.divide(op.multiply(op.add(A, B), B), op.subtract(A, B)),
        lambda: op.sqrt(op.multiply(A, A)),
        lambda: op.squeeze(op.expand_dims(A, [0, 2]), [0]),
        lambda: op.astype(INT8, "float32"),
        lambda: op.dequantize(INT8, relax.const(np.float32(0.1)), relax.const(np.int8(3)), axis=0),
        lambda: op.dequantize(
            INT8,
            relax.const(np.array([0.1, 0.2, 0.3], "float32")),
            relax.const(np.array([1, -2, 3], "int8")),
            axis=1,
        ),
        lambda: op.dequantize(
            INT8,
            relax.const(np.array([0.1, 0.2, 0.3], "float32")),
            relax.const(np.int8(3)),
            axis=-2,
        ),
    ],
    ids=[
        "reshape", "permute", "reverse", "arithmetic", "sqrt", "squeeze", "astype",
        "dequantize_tensor", "dequantize_channel", "dequantize_one_zero_point",
    ],
)  # fmt: skip
def test_constant_calls_disappear_with_the_same_value(value):
    shape = module(lambda _: value(), (1,))["main"].ret_ty.shape
    mod = module(lambda x: op.add(x, value()), [int(e) for e in shape])
    folded = FoldConstants(mod).run()
    assert operators(folded) == ["add"]
    data = normal(*(int(e) for e in shape), seed=4)
    np.testing.assert_allclose(run(folded, data), run(mod, data), rtol=1e-6, atol=1e-6)


def test_calls_on_inputs_stay():
    mod = module(lambda x: op.multiply(op.reshape(x, (4, 6)), op.reshape(A, (4, 6))), (2, 3, 4))
    assert operators(FoldConstants(mod).run()) == ["reshape", "multiply"]
