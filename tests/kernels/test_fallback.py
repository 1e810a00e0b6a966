"""What has no schedule of its own: vectors, stages that are stored, windows over padded rows."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import s_tir, te, topi

from mobilenet_tvm.schedules.fallback import elementwise, reduction, softmax
from mobilenet_tvm.targets.presets import PRESETS

X86 = PRESETS["x86"]
Array = np.ndarray[Any, Any]


def image(*shape: int) -> te.Tensor:
    return te.placeholder(shape, "float32", name="image")


def results(sch: s_tir.Schedule, *arguments: Array) -> Array:
    """Return what a scheduled function computes in its last argument."""
    tensors = [tvm.runtime.tensor(array) for array in arguments]
    tvm.compile(sch.mod, target="llvm")["main"](*tensors)
    return np.asarray(tensors[-1].numpy())


def vectors(sch: s_tir.Schedule) -> set[int]:
    """Return the lengths of the vectors that a function's loops store."""
    text = re.sub(r"T\.int64\((\d+)\)", r"\1", sch.mod.script())
    loops = re.findall(r"in T\.vectorized\((?:(\d+), )?(\d+)\)", text)
    return {int(end) - int(start or 0) for start, end in loops}


@pytest.mark.parametrize(
    ("parts", "lanes"),
    [
        ((24, 24), 8),
        ((32, 64), 16),
        ((8, 40), 8),
        ((20, 4), 4),
        ((3, 9), 12),
        ((5, 7), 1),
        ((12,) * 10, 12),  # too many parts for a loop each
    ],
    ids=str,
)
def test_a_vector_meets_no_boundary_of_a_concatenation(parts: tuple[int, ...], lanes: int) -> None:
    images = [image(2, 3, part) for part in parts]
    joined = topi.concatenate(images, axis=2)
    sch = elementwise.apply(te.create_prim_func([*images, joined]), X86)
    assert sch is not None
    assert vectors(sch) == {lanes}
    data = [np.random.default_rng(0).normal(size=(2, 3, part)).astype("float32") for part in parts]
    result = results(sch, *data, np.empty((2, 3, sum(parts)), "float32"))
    np.testing.assert_array_equal(result, np.concatenate(data, axis=2))


@pytest.mark.parametrize("parts", [(24,), (24, 16)], ids=str)
def test_every_second_channel_is_left_to_llvm(parts: tuple[int, ...]) -> None:
    images = [image(2, 3, part) for part in parts]
    halves = [topi.strided_slice(x, [1], [int(x.shape[2])], [2], axes=[2]) for x in images]
    joined = topi.concatenate(halves, axis=2) if len(parts) > 1 else halves[0]
    sch = elementwise.apply(te.create_prim_func([*images, joined]), X86)
    assert sch is not None
    assert vectors(sch) == set()
    data = [np.random.default_rng(0).normal(size=(2, 3, n)).astype("float32") for n in parts]
    expected = np.concatenate([part[..., 1::2] for part in data], axis=2)
    np.testing.assert_array_equal(results(sch, *data, np.empty_like(expected)), expected)


@pytest.mark.parametrize(("rows", "stored"), [(96, 1), (8, 0)], ids=["many readers", "few"])
def test_what_many_elements_read_is_stored(rows: int, stored: int) -> None:
    data = image(8, 640)
    double = te.compute((8, 640), lambda y, x: data[y, x] * 2.0, name="double")
    larger = te.compute((rows, 640), lambda y, x: double[y % 8, x] + 1.0, name="larger")
    sch = elementwise.apply(te.create_prim_func([data, larger]), X86)
    assert sch is not None
    assert len(sch.get_child_blocks(sch.get_sblock("root"))) == 1 + stored
    values = np.random.default_rng(0).normal(size=(8, 640)).astype("float32")
    result = results(sch, values, np.empty((rows, 640), "float32"))
    np.testing.assert_allclose(result, values[np.arange(rows) % 8] * 2 + 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "lanes"),
    [
        (130, {8, 2}),
        (513, {8, 1}),
        (143, {8, 7}),
        (200, {8}),
        (130 - 4, {14}),
        (24, {12}),
        (7, {7}),
    ],
    ids=lambda value: str(value),
)
def test_rows_that_no_vector_divides_end_in_a_shorter_one(size: int, lanes: set[int]) -> None:
    data = image(5, 3, size)
    double = te.compute((5, 3, size), lambda n, y, x: data[n, y, x] * 2.0, name="double")
    sch = elementwise.apply(te.create_prim_func([data, double]), X86)
    assert sch is not None
    assert vectors(sch) == lanes
    values = np.random.default_rng(0).normal(size=(5, 3, size)).astype("float32")
    result = results(sch, values, np.empty_like(values))
    np.testing.assert_array_equal(result, values * 2)


def test_rows_of_a_reshaped_value_keep_vectors_that_divide_both() -> None:
    data = image(3, 2 * 130)
    rows = topi.reshape(data, (6, 130))
    sch = elementwise.apply(te.create_prim_func([data, rows]), X86)
    assert sch is not None
    assert vectors(sch) == {13}


@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (0, 0, 1, 2), (0, 0, 0, 0)], ids=str)
def test_a_window_slides_over_padded_rows(kind: str, padding: tuple[int, ...]) -> None:
    data = image(2, 9, 11, 20)
    pooled = topi.nn.pool2d(
        data, [3, 3], [2, 2], [1, 1], list(padding), kind, layout="NHWC", count_include_pad=True
    )
    sch = reduction.apply(te.create_prim_func([data, pooled]), X86)
    text = sch.mod.script()
    # Conditions are where rows are copied, not at each tap.
    assert text.count("if_then_else") == (1 if any(padding) else 0)
    values = np.random.default_rng(0).normal(size=(2, 9, 11, 20)).astype("float32")
    shape = tuple(map(int, pooled.shape))
    top, left, bottom, right = padding
    widths = ((0, 0), (top, bottom), (left, right), (0, 0))
    full = np.pad(values, widths, constant_values=-np.inf if kind == "max" else 0)
    taps = [
        full[:, y : y + 2 * shape[1] - 1 : 2, x : x + 2 * shape[2] - 1 : 2]
        for y in range(3)
        for x in range(3)
    ]
    expected = np.max(taps, axis=0) if kind == "max" else np.mean(taps, axis=0)
    result = results(sch, values, np.empty(shape, "float32"))
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "axis", "lanes"),
    [
        ((3, 7, 80), -1, {8}),
        ((1, 1000), 1, {8}),
        ((5, 12), 1, {6}),
        ((4, 8), 1, {8}),
        ((6, 91), 1, {7}),
        ((6, 89), 1, set()),  # no vector divides it
        ((300, 2), 1, set()),
        ((2, 16, 5), 1, None),  # not the last axis
        ((16,), 0, None),
    ],
    ids=str,
)
def test_rows_of_a_softmax_are_vectors(
    shape: tuple[int, ...], axis: int, lanes: set[int] | None
) -> None:
    data = image(*shape)
    func = te.create_prim_func([data, topi.nn.softmax(data, axis=axis)])
    sch = softmax.apply(func, X86)
    if lanes is None:
        assert sch is None
        return
    assert sch is not None
    assert vectors(sch) == lanes
    values = 5 * np.random.default_rng(0).normal(size=shape).astype("float32")
    powers = np.exp(values.astype(float) - values.max(axis, keepdims=True))
    expected = powers / powers.sum(axis, keepdims=True)
    result = results(sch, values, np.empty_like(values))
    np.testing.assert_allclose(result, expected, rtol=2e-6, atol=1e-9)
