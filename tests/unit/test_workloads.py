"""Workloads: their text is their identity, and their types are in it where they are not float32."""

from __future__ import annotations

import pytest

from mobilenet_tvm.schedules.workloads import (
    FLOAT32,
    OPERATORS,
    Block,
    Convolution,
    Depthwise,
    DepthwisePointwise,
    GlobalPool,
    Pointwise,
    PointwiseDepthwise,
    Step,
    Types,
    Window,
    WindowPool,
    Workload,
    parse,
)

SAME = Window((3, 3), (1, 1), (1, 1, 1, 1))
BIAS = Step("add_channel")
INT8 = Types("uint8", "int8", "int32", "uint8")
DEPTHWISE = Depthwise(1, 8, 8, 16, SAME, (BIAS,))
HALVES = DepthwisePointwise(DEPTHWISE, 24, (BIAS, Step("add")))
LAYERS: list[Workload] = [
    Pointwise(64, 16, 24, (BIAS, Step("clip", (0.0, 6.0)))),
    Pointwise(64, 16, 24, (BIAS,), gates=2),
    DEPTHWISE,
    Convolution(1, 16, 16, 3, 16, Window((3, 3), (2, 2), (0, 0, 1, 1)), True, (BIAS,)),
    Convolution(2, 9, 8, 12, 24, Window((3, 5), (2, 1), (1, 2, 1, 2), (2, 2)), groups=3),
    Depthwise(1, 8, 8, 16, Window((3, 3), (1, 1), (2, 2, 2, 2), (2, 2)), (Step("silu"),)),
    GlobalPool(1, 49, 16),
    WindowPool("max", 1, 9, 8, 16, Window((3, 2), (2, 1), (1, 0, 1, 1)), (Step("relu"),)),
    WindowPool("mean_inside", 2, 9, 8, 16, Window((3, 3), (1, 1), (1, 1, 1, 1), (2, 2))),
    HALVES,
    PointwiseDepthwise(Pointwise(64, 4, 16, (BIAS,)), DEPTHWISE),
    Block(Convolution(1, 8, 8, 4, 16, Window((1, 1))), HALVES),
]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_text_reads_back(layer: Workload, dtype: str) -> None:
    workload = layer.in_type(dtype)
    assert parse(str(workload)) == workload
    assert (dtype in str(workload)) == (dtype != "float32")


@pytest.mark.parametrize(
    ("types", "text"),
    [
        (FLOAT32, "pointwise 4x8x16 relu"),
        (Types.of("float16"), "pointwise 4x8x16 float16 relu"),
        (
            Types("float16", "float16", "float32", "float32"),
            "pointwise 4x8x16 float16->float32 relu",
        ),
        (Types("float32", "float32", "float32", "float16"), "pointwise 4x8x16 ->float16 relu"),
        (INT8, "pointwise 4x8x16 uint8*int8+int32 relu"),
        (
            Types("uint8", "int8", "int32", "float32"),
            "pointwise 4x8x16 uint8*int8+int32->float32 relu",
        ),
    ],
)
def test_types_are_in_the_text_where_they_are_not_float32(types: Types, text: str) -> None:
    workload = Pointwise(4, 8, 16, (Step("relu"),), types)
    assert str(workload) == text
    assert parse(text) == workload


def test_halves_of_other_types_read_back() -> None:
    workload = DepthwisePointwise(DEPTHWISE.in_type("float16"), 24, (), INT8)
    assert parse(str(workload)) == workload


def test_a_stem_reads_a_float32_picture_in_a_float16_network() -> None:
    stem = LAYERS[3].in_type("float16")
    assert (stem.reads, stem.dtype, stem.types.result) == ("float32", "float16", "float16")


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (Pointwise(64, 16, 24, (Step("add"),), INT8), 64 * 16 + 16 * 24 + 64 * 24 * (1 + 1)),
        (Depthwise(1, 8, 8, 16, SAME, (), INT8), 16 * (64 + 9 + 64)),
        (GlobalPool(1, 49, 16, (), Types("uint8", "uint8", "int32", "float32")), 16 * (49 + 4)),
    ],
    ids=["pointwise", "depthwise", "global_pool"],
)
def test_bytes_follow_the_types(layer: Workload, size: int) -> None:
    assert layer.bytes == size


@pytest.mark.parametrize(
    ("parts", "operator"),
    [
        ([LAYERS[3]], None),
        ([DEPTHWISE, Pointwise(64, 16, 24)], "depthwise_pointwise"),
        ([DEPTHWISE, Pointwise(64, 16, 24, gates=1)], None),
        ([Pointwise(64, 4, 16), DEPTHWISE, Pointwise(64, 16, 24)], "block"),
        ([LAYERS[3], DEPTHWISE, Pointwise(64, 16, 24)], "block"),
        ([Pointwise(64, 4, 16), DEPTHWISE], "pointwise_depthwise"),
        ([Pointwise(64, 4, 16, gates=1), DEPTHWISE], None),
    ],
)
def test_layers_that_are_one(parts: list[Workload], operator: str | None) -> None:
    found = [fused for kind in OPERATORS.values() if (fused := kind.fuse(parts))]
    assert [fused.operator for fused in found] == ([operator] if operator else [])
    for fused in found:
        assert fused.flops == sum(part.flops for part in parts)
        assert parse(str(fused)) == fused


@pytest.mark.parametrize(
    "text",
    [
        "",
        "softmax 4x4",
        "pointwise 4x8",
        "pointwise 04x8x16",
        "pointwise 4x8x16  relu",
        "pointwise 4x8x16 float32",
        "pointwise 4x8x16 float64",
        "pointwise 4x8x16 int32",
        "pointwise 4x8x16 ->",
        "pointwise 4x8x16 float64*int8+int32",
        "pointwise 4x8x16 relu float16",
        "pointwise 5x8x16 gates(2)",
        "depthwise 1x2x2x16 k3x3 s1x1 p0,0,0,0",
        "depthwise 1x8x8x16 k3x3 s1x1 p0,0,0",
        "block conv2d 1x8x8x3->16 k3x3 s1x1 p0,0,0,0 nhwc",
        "pointwise_depthwise pointwise 64x4x16",
        "pointwise_depthwise pointwise 63x4x16 -> depthwise 1x8x8x16 k3x3 s1x1 p1,1,1,1",
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    refusals = "unknown|malformed|without an output|do not fit|multiple of its gates"
    with pytest.raises(ValueError, match=refusals):
        parse(text)
