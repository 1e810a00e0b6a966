"""Batch norm, scales and shifts fold into convolutions, and only where that repeats no work."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from relax_helpers import module, normal, operators, run
from tvm import relax

from mobilenet_tvm.compile.passes.fold_scale import FoldScale


def conv(data, seed=0, outputs=6, inputs=4, groups=1):
    weight = relax.const(normal(outputs, inputs // groups, 3, 3, seed=seed))
    return relax.op.nn.conv2d(data, weight, padding=1, groups=groups)


def batch_norm(data, channels=6, seed=1):
    gamma, beta, mean = (relax.const(normal(channels, seed=seed + i)) for i in range(3))
    variance = relax.const(np.abs(normal(channels, seed=seed + 3)) + 0.5)
    return relax.TupleGetItem(
        relax.op.nn.batch_norm(data, gamma, beta, mean, variance, axis=1, training=False), 0
    )


def channel(channels=6, seed=5):
    return relax.const(normal(1, channels, 1, 1, seed=seed))


def folded_equals(mod: tvm.IRModule, expected: list[str], shape=(2, 4, 5, 7)) -> None:
    folded = FoldScale(mod).run()
    assert operators(folded) == expected
    data = normal(*shape, seed=9)
    before, after = run(mod, data), run(folded, data)
    np.testing.assert_allclose(after, before, atol=1e-5 * np.ptp(before))


def test_batch_norm_becomes_weights_and_a_bias():
    mod = module(lambda x: batch_norm(conv(x)), (2, 4, 5, 7))
    folded_equals(mod, ["nn.conv2d", "add"])


def test_batch_norm_after_a_bias_leaves_one_bias():
    mod = module(lambda x: batch_norm(relax.op.add(conv(x), channel())), (2, 4, 5, 7))
    folded_equals(mod, ["nn.conv2d", "add"])


def test_depthwise_weights_are_scaled_by_output_channel():
    mod = module(
        lambda x: batch_norm(conv(x, outputs=8, inputs=4, groups=4), channels=8), (2, 4, 5, 7)
    )
    folded_equals(mod, ["nn.conv2d", "add"])


@pytest.mark.parametrize("constant_first", [True, False])
def test_scale_and_shift_written_as_mul_and_add(constant_first):
    def body(x):
        product = (channel(), conv(x)) if constant_first else (conv(x), channel())
        total = (channel(seed=6), relax.op.multiply(*product))
        return relax.op.add(*(total if constant_first else reversed(total)))

    folded_equals(module(body, (2, 4, 5, 7)), ["nn.conv2d", "add"])


def test_division_and_subtraction():
    def body(x):
        return relax.op.divide(relax.op.subtract(conv(x), channel()), relax.const(np.float32(3.0)))

    folded_equals(module(body, (2, 4, 5, 7)), ["nn.conv2d", "subtract", "divide"])


def test_batch_norm_without_a_convolution_becomes_scale_and_shift():
    mod = module(lambda x: batch_norm(relax.op.nn.relu(x), channels=4), (2, 4, 5, 7))
    folded_equals(mod, ["nn.relu", "multiply", "add"])


def test_a_convolution_used_twice_is_not_computed_twice():
    def body(x):
        builder = relax.BlockBuilder.current()
        shared = builder.emit(conv(x))
        return relax.op.add(batch_norm(shared), shared)

    folded_equals(module(body, (2, 4, 5, 7)), ["nn.conv2d", "multiply", "add", "add"])


def test_a_constant_that_varies_over_the_picture_is_left_alone():
    picture = relax.const(normal(1, 1, 5, 7))
    mod = module(lambda x: relax.op.multiply(conv(x), picture), (2, 4, 5, 7))
    folded_equals(mod, ["nn.conv2d", "multiply"])


def test_weights_shared_by_two_convolutions_are_scaled_apart():
    weight = relax.const(normal(4, 4, 3, 3))

    def body(x):
        first = relax.op.nn.conv2d(x, weight, padding=1)
        second = relax.op.nn.conv2d(batch_norm(first, 4, seed=1), weight, padding=1)
        return batch_norm(second, 4, seed=20)

    folded_equals(module(body, (2, 4, 5, 7)), ["nn.conv2d", "add", "nn.conv2d", "add"])


def test_batch_norm_of_a_dense_layer_keeps_its_rank():
    weight = relax.const(normal(4, 6))
    mod = module(lambda x: batch_norm(relax.op.matmul(x, weight)), (3, 4))
    folded_equals(mod, ["matmul", "multiply", "add"], shape=(3, 4))
