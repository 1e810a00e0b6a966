"""An explicit Pad disappears into the convolution after it, asymmetric ones included."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from relax_helpers import module, normal, operators, run
from tvm import relax

from mobilenet_tvm.compile.passes.fold_pad import FoldPad

WEIGHT = relax.const(normal(4, 4, 3, 3))


def padded_conv(widths, value=0.0, padding=(0, 0, 0, 0)):
    return lambda x: relax.op.nn.conv2d(
        relax.op.nn.pad(x, widths, "constant", value), WEIGHT, strides=2, padding=padding
    )


@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 0, 0, 1)])
def test_asymmetric_pad_before_stride_2(padding):
    before = module(padded_conv([0, 0, 0, 0, 0, 1, 2, 3], padding=padding), (1, 4, 7, 9))
    top, left, bottom, right = padding
    expected = module(
        lambda x: relax.op.nn.conv2d(
            x, WEIGHT, strides=2, padding=[top, 2 + left, 1 + bottom, 3 + right]
        ),
        (1, 4, 7, 9),
    )
    after = FoldPad(before).run()
    tvm.ir.assert_structural_equal(after, expected)
    data = normal(1, 4, 7, 9)
    np.testing.assert_allclose(run(after, data), run(before, data), atol=1e-5)


@pytest.mark.parametrize(
    ("widths", "value"),
    [([0, 0, 0, 0, 1, 1, 1, 1], 0.5), ([0, 0, 0, 0, 1, 1, 1, 1], -np.inf)],
    ids=["pad_value_half", "pad_value_minus_inf"],
)
def test_pads_that_are_not_zeros_stay(widths, value):
    mod = module(padded_conv(widths, value), (1, 4, 7, 9))
    assert operators(FoldPad(mod).run()) == ["nn.pad", "nn.conv2d"]


def test_padded_channels_stay():
    mod = module(
        lambda x: relax.op.nn.conv2d(relax.op.nn.pad(x, [0, 0, 1, 0, 1, 1, 1, 1]), WEIGHT),
        (1, 3, 7, 9),
    )
    assert operators(FoldPad(mod).run()) == ["nn.pad", "nn.conv2d"]


@pytest.mark.parametrize(("padding", "counted"), [(0, False), (1, True)])
def test_pad_before_a_mean_that_counts_its_padding(padding, counted):
    def pooled(x):
        full = relax.op.nn.pad(x, [0, 0, 0, 0, 0, 1, 2, 3])
        return relax.op.nn.avg_pool2d(
            full, 3, strides=2, padding=padding, count_include_pad=counted
        )

    before = module(pooled, (1, 4, 7, 9))
    after = FoldPad(before).run()
    assert operators(after) == ["nn.avg_pool2d"]
    data = normal(1, 4, 7, 9)
    np.testing.assert_allclose(run(after, data), run(before, data), atol=1e-6)


def test_pad_before_a_mean_of_what_is_inside_stays():
    def pooled(x):
        full = relax.op.nn.pad(x, [0, 0, 0, 0, 1, 1, 1, 1])
        return relax.op.nn.avg_pool2d(full, 3, padding=1, count_include_pad=False)

    assert operators(FoldPad(module(pooled, (1, 4, 7, 9))).run()) == ["nn.pad", "nn.avg_pool2d"]
