"""ReLU6 is recognised in every form in which exporters write it."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from relax_helpers import module, normal, operators, run
from tvm import relax

from mobilenet_tvm.compile.passes.recover_clip import RecoverClip

SIX = relax.const(np.float32(6))
SIX_4D = relax.const(np.full((1, 1, 1, 1), 6, np.float32))
ZERO = relax.const(np.float32(0))
RELU6 = module(lambda x: relax.op.clip(x, 0.0, 6.0), (1, 4, 3, 3))


@pytest.mark.parametrize(
    "body",
    [
        lambda x: relax.op.minimum(relax.op.nn.relu(x), SIX),
        lambda x: relax.op.minimum(SIX, relax.op.nn.relu(x)),
        lambda x: relax.op.minimum(relax.op.maximum(x, ZERO), SIX),
        lambda x: relax.op.maximum(ZERO, relax.op.minimum(x, SIX)),
        lambda x: relax.op.clip(relax.op.nn.relu(x), -np.inf, 6.0),
        lambda x: relax.op.clip(relax.op.clip(x, 0.0, 6.0), -1.0, 7.0),
        lambda x: relax.op.minimum(relax.op.nn.relu(x), SIX_4D),
    ],
    ids=["relu_min", "min_relu", "max_min", "min_max", "relu_clip", "clip_clip", "min_4d"],
)  # fmt: skip
def test_relu6_in_disguise(body):
    tvm.ir.assert_structural_equal(RecoverClip(module(body, (1, 4, 3, 3))).run(), RELU6)


def test_a_lower_bound_of_zero_alone_is_relu():
    mod = RecoverClip(module(lambda x: relax.op.clip(x, 0.0, np.inf), (1, 4, 3, 3))).run()
    assert operators(mod) == ["nn.relu"]


def test_bounds_that_cross_are_not_merged():
    mod = module(lambda x: relax.op.maximum(relax.op.minimum(x, ZERO), SIX), (1, 4, 3, 3))
    recovered = RecoverClip(mod).run()
    data = 10 * normal(1, 4, 3, 3)
    np.testing.assert_array_equal(run(recovered, data), run(mod, data))
    assert np.all(run(recovered, data) == 6.0)


def test_bounds_per_channel_are_left_alone():
    bound = relax.const(normal(1, 4, 1, 1))
    mod = module(lambda x: relax.op.minimum(x, bound), (1, 4, 3, 3))
    assert operators(RecoverClip(mod).run()) == ["minimum"]


def test_a_bound_used_elsewhere_keeps_its_value():
    def body(x):
        relu = relax.BlockBuilder.current().emit(relax.op.nn.relu(x))
        return relax.op.add(relax.op.minimum(relu, SIX), relu)

    mod = module(body, (1, 4, 3, 3))
    data = 10 * normal(1, 4, 3, 3)
    np.testing.assert_array_equal(run(RecoverClip(mod).run(), data), run(mod, data))
