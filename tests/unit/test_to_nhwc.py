"""After ToNHWC no layout change is left inside a network, whatever came with the export."""

from __future__ import annotations

import numpy as np
import pytest
from relax_helpers import calls, module, normal, operators, run
from tvm import relax

from mobilenet_tvm.compile.passes.fold_constants import FoldConstants
from mobilenet_tvm.compile.passes.to_nhwc import TO_NCHW, TO_NHWC, ToNHWC

op = relax.op


def conv(data, outputs=8, inputs=8, kernel=1, groups=1, seed=0, **attributes):
    weight = relax.const(normal(outputs, inputs // groups, kernel, kernel, seed=seed))
    return op.nn.conv2d(data, weight, groups=groups, **attributes)


def converted(body, *shapes):
    """Convert, check that the numbers are the same, and return the new module."""
    mod = module(body, *shapes)
    after = FoldConstants(ToNHWC(mod).run()).run()
    data = [normal(*shape, seed=index) for index, shape in enumerate(shapes)]
    np.testing.assert_allclose(run(after, *data), run(mod, *data), atol=1e-4)
    for call in calls(after, "nn.conv2d"):
        assert (call.attrs.data_layout, call.attrs.kernel_layout) == ("NHWC", "HWIO")
    return after


def test_inverted_residual_keeps_two_layout_changes_at_its_ends():
    def body(x):
        x = relax.BlockBuilder.current().emit(x)
        expanded = op.clip(conv(x, outputs=12, inputs=8), 0.0, 6.0)
        filtered = conv(expanded, 12, 12, 3, groups=12, padding=[1, 1, 1, 1])
        bias = relax.const(normal(1, 8, 1, 1))
        return op.add(op.add(conv(op.nn.relu(filtered), 8, 12), bias), x)

    names = operators(converted(body, (2, 8, 5, 7)))
    assert names.count("permute_dims") == 2
    assert (names[0], names[-1]) == ("permute_dims", "permute_dims")


def test_squeeze_and_excitation_stays_in_nhwc():
    def body(x):
        x = relax.BlockBuilder.current().emit(conv(x))
        gate = conv(op.mean(x, [2, 3], keepdims=True))
        gate = op.clip(op.add(gate, relax.const(np.float32(3))), 0.0, 6.0)
        return op.mean(op.multiply(x, op.divide(gate, relax.const(np.float32(6)))), [2, 3])

    assert operators(converted(body, (1, 8, 5, 7))).count("permute_dims") == 1


def test_transposes_of_an_nhwc_exporter_cancel():
    def body(x):
        return op.permute_dims(conv(op.permute_dims(x, TO_NCHW), kernel=3), TO_NHWC)

    assert operators(converted(body, (1, 6, 7, 8))) == ["nn.conv2d"]


@pytest.mark.parametrize("flatten", ["reshape", "squeeze"])
def test_one_pixel_is_flattened_without_a_layout_change(flatten):
    def body(x):
        pooled = op.nn.avg_pool2d(conv(x), pool_size=[5, 5])
        return op.reshape(pooled, (2, 8)) if flatten == "reshape" else op.squeeze(pooled, [2, 3])

    assert operators(converted(body, (2, 8, 5, 5))).count("permute_dims") == 1


def test_flattening_a_whole_picture_keeps_the_order_of_nchw():
    names = operators(converted(lambda x: op.reshape(conv(x), (2, 120)), (2, 8, 3, 5)))
    assert names.count("permute_dims") == 2


@pytest.mark.parametrize(
    "operator",
    [
        lambda x: op.nn.max_pool2d(x, [2, 3], strides=[2, 1], padding=[0, 1, 1, 1]),
        lambda x: op.nn.avg_pool2d(x, [3, 3], [2, 2], [1, 0, 0, 1], count_include_pad=True),
        lambda x: op.nn.pad(x, [0, 0, 1, 2, 0, 1, 2, 0]),
        lambda x: op.concat([x, x], axis=1),
        lambda x: op.mean(x, [1], keepdims=True),
        lambda x: op.multiply(x, relax.const(normal(8, 1, 1))),
        lambda x: op.multiply(x, relax.const(normal(7))),
        lambda x: op.nn.softmax(x, axis=1),
        lambda x: op.strided_slice(x, [3, 2], [1, 0], [6, 5]),
    ],
    ids=[
        "max_pool",
        "avg_pool",
        "pad",
        "concat",
        "mean_c",
        "mul_c11",
        "mul_w",
        "unknown_op",
        "slice",
    ],
)
def test_each_operator_between_two_convolutions(operator):
    def body(x):
        y = operator(relax.BlockBuilder.current().emit(conv(x)))
        y = relax.BlockBuilder.current().normalize(y)
        channels = int(y.ty.shape[1])
        return conv(y, 4, channels, seed=3)

    converted(body, (2, 8, 6, 7))


def rearranged(x, split, order, merged):
    """Return `x` with its channels split into several axes, permuted, and merged to four."""
    full = op.reshape(x, (2, *split, 6, 7))
    return op.reshape(op.permute_dims(full, order), merged)


@pytest.mark.parametrize(
    ("split", "order", "merged"),
    [
        (
            (2, 2, 2),
            (0, 3, 4, 1, 5, 2),
            (2, 2, 12, 14),
        ),  # DepthToSpace, and transposed convolutions
        ((2, 2, 2), (0, 1, 4, 2, 5, 3), (2, 2, 12, 14)),
        ((4, 2, 1), (0, 3, 4, 1, 5, 2), (2, 1, 24, 14)),
        ((2, 4), (0, 2, 1, 3, 4), (2, 8, 6, 7)),  # a channel shuffle
    ],
)
def test_channels_are_rearranged_in_nhwc(split, order, merged):
    def body(x):
        y = rearranged(relax.BlockBuilder.current().emit(conv(x)), split, order, merged)
        return conv(relax.BlockBuilder.current().emit(y), 4, merged[1], seed=3)

    names = operators(converted(body, (2, 8, 6, 7)))
    # The permutation itself, and those of the input and of the output.
    assert names.count("permute_dims") == 3


@pytest.mark.parametrize(
    ("split", "order", "merged"),
    [
        ((2, 4), (1, 2, 0, 3, 4), (2, 8, 6, 7)),  # the batch moves
        ((2, 4), (0, 2, 1, 3, 4), (4, 4, 6, 7)),
        ((2, 4), (0, 1, 3, 2, 4), (2, 2, 24, 7)),
    ],
)
def test_other_rearrangements_are_right(split, order, merged):
    def body(x):
        y = rearranged(relax.BlockBuilder.current().emit(conv(x)), split, order, merged)
        return conv(relax.BlockBuilder.current().emit(y), 4, merged[1], seed=3)

    converted(body, (2, 8, 6, 7))


@pytest.mark.parametrize(
    ("batch", "parts", "order", "slices"),
    [
        (1, [6, 4], (1, 0, 2), 4),  # ShuffleNet: each part is divided for itself
        (1, [8], (1, 0, 2), 2),
        (1, [5, 3], (1, 0, 2), 2),  # parts of odd sizes are divided together
        (2, [6, 4], (1, 0, 2), 0),  # pictures and channels are one axis
        (1, [6, 4], (2, 1, 0), 0),  # rows and channels are exchanged
    ],
    ids=str,
)
def test_every_second_channel_stays_in_nhwc(batch, parts, order, slices):
    channels = sum(parts)

    def body(x):
        emit = relax.BlockBuilder.current().emit
        images = [emit(conv(x, outputs=part, seed=part)) for part in parts]
        joined = emit(op.concat(images, 1)) if len(parts) > 1 else images[0]
        split = emit(op.reshape(joined, (batch * channels // 2, 2, 30)))
        moved = emit(op.permute_dims(split, order))
        halves = emit(op.reshape(moved, (2, batch, channels // 2, 5, 6)))
        first, second = (
            emit(op.take(halves, relax.const(i, "int64"), 0, mode="clip")) for i in range(2)
        )
        half = conv(first, 4, channels // 2)
        return op.concat([half, conv(second, 4, channels // 2, seed=1)], 1)

    names = operators(converted(body, (batch, 8, 5, 6)))
    assert names.count("strided_slice") == slices
    assert (names.count("permute_dims") == 2) == (slices > 0)
