"""Layout changes are moved before a resize, where there are fewer numbers."""

from __future__ import annotations

import numpy as np
import pytest
from relax_helpers import calls, emit, module, normal, operators, run
from tvm import relax

from mobilenet_tvm.compile.passes.hoist_layout import HoistLayout
from mobilenet_tvm.compile.passes.to_nhwc import TO_NCHW
from mobilenet_tvm.compile.passes.values import shape_of

op = relax.op


def longer(data, axis, size=12):
    """Return twice interpolated data: a linear resize of an axis."""
    before = shape_of(data)[axis]
    places = np.arange(size) * before // size
    shape = [1] * 4
    shape[axis] = size
    first, second = (
        op.multiply(
            emit(op.take(data, relax.const(np.minimum(places + i, before - 1)), axis, "clip")),
            relax.const(normal(*shape, seed=i)),
        )
        for i in (0, 1)
    )
    return emit(op.add(emit(first), emit(second)))


def hoisted(body, *shapes):
    mod = module(body, *shapes)
    after = HoistLayout(mod).run()
    data = [normal(*shape, seed=index) for index, shape in enumerate(shapes)]
    np.testing.assert_allclose(run(after, *data), run(mod, *data), atol=1e-6)
    return after


def test_a_picture_is_resized_in_the_layout_of_the_output():
    after = hoisted(lambda x: op.permute_dims(longer(longer(x, 2), 1), TO_NCHW), (1, 4, 5, 3))
    (change,) = calls(after, "permute_dims")
    assert shape_of(change) == (1, 3, 4, 5)
    assert [int(call.attrs.axis) for call in calls(after, "take")] == [3, 3, 2, 2]


def test_what_else_is_between_moves_too():
    def body(x, y):
        resized = op.add(longer(emit(op.nn.relu(x)), 1), y)
        return op.permute_dims(emit(op.nn.relu(emit(resized))), TO_NCHW)

    after = hoisted(body, (1, 4, 5, 3), (1, 12, 5, 3))
    assert [shape_of(call) for call in calls(after, "permute_dims")] == [
        (1, 3, 4, 5),
        (1, 3, 12, 5),
    ]


@pytest.mark.parametrize(
    "body",
    [
        lambda x: op.permute_dims(longer(x, 1, 3), TO_NCHW),
        lambda x: op.permute_dims(emit(op.nn.relu(emit(x))), TO_NCHW),
    ],
    ids=["smaller", "no resize"],
)
def test_others_stay(body):
    assert operators(hoisted(body, (1, 4, 5, 3)))[-1] == "permute_dims"


def test_a_picture_that_is_read_twice_stays():
    def body(x):
        resized = longer(x, 1)
        mean = op.mean(resized, [1, 2, 3], keepdims=True)
        return op.multiply(emit(op.permute_dims(resized, TO_NCHW)), emit(mean))

    (change,) = calls(hoisted(body, (1, 4, 5, 3)), "permute_dims")
    assert shape_of(change) == (1, 3, 12, 5)
