"""Layers are lowered with what follows them: which operators go inside, and which must not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from relax_helpers import bias, conv, emit, module, normal, operators, run
from tvm import relax

from mobilenet_tvm.compile.codegen.pass_context import PASS_CONFIG
from mobilenet_tvm.compile.codegen.tvm_target import llvm_target
from mobilenet_tvm.compile.passes.lower_layers import LowerLayers
from mobilenet_tvm.compile.pipeline import fusion_passes
from mobilenet_tvm.schedules import registry as schedules
from mobilenet_tvm.targets.presets import PRESETS

X86 = PRESETS["x86"]
op = relax.op


def lowered(body: Callable[..., Any], *shapes: tuple[int, ...]) -> list[str]:
    """Lower, check the numbers against the unlowered module, and return the workloads."""
    mod = module(body, *shapes)
    data = [normal(*shape, seed=index) for index, shape in enumerate(shapes)]
    expected = run(mod, *data)
    lowering = LowerLayers(mod, X86, schedules.default)
    mod = lowering.run()
    with llvm_target(X86):
        for step in fusion_passes():
            mod = step(mod)
    for layer in lowering.layers:
        mod[layer.name] = layer.func
    with tvm.transform.PassContext(opt_level=3, config=PASS_CONFIG):
        np.testing.assert_allclose(run(mod, *data), expected, atol=1e-5 * np.ptp(expected))
    return [str(layer.workload) for layer in lowering.calls]


def gated(x: Any, swapped: bool = False) -> Any:
    """Multiply pictures of 16 channels by gates that depend on them."""
    gate = emit(op.sigmoid(conv(emit(op.mean(x, [1, 2], keepdims=True)), 16, 16)))
    return emit(op.multiply(gate, x) if swapped else op.multiply(x, gate))


def lowered_for_mali(body: Callable[..., Any], *shapes: tuple[int, ...]) -> list[str]:
    """Return the workloads of the layers that gates may go into."""
    lowering = LowerLayers(module(body, *shapes), PRESETS["mali"], schedules.default)
    lowering.run()
    return [str(layer.workload) for layer in lowering.calls if "16x24" in str(layer.workload)]


@pytest.mark.parametrize("swapped", [False, True])
def test_gates_go_into_the_pointwise_after_them_on_a_gpu(swapped: bool) -> None:
    def body(x: Any) -> Any:
        return op.nn.relu(bias(conv(gated(x, swapped), 16, 24), 24))

    shape = (2, 6, 5, 16)
    assert lowered_for_mali(body, shape) == ["pointwise 60x16x24 gates(2) add_channel relu"]
    assert "pointwise 60x16x24 add_channel relu" in lowered(body, shape)  # on a CPU


@pytest.mark.parametrize(
    "body",
    [
        lambda x: op.add(conv(product := gated(x), 16, 24), conv(product, 16, 24)),
        lambda x: op.concat([conv(product := gated(x), 16, 24), product], 3),
    ],
    ids=["two", "result"],
)
def test_gates_whose_product_is_read_twice_stay_apart(body: Callable[[Any], Any]) -> None:
    assert {"gates" in name for name in lowered_for_mali(body, (1, 6, 6, 16))} == {False}


def test_a_product_with_what_is_no_gate_is_stored() -> None:
    def body(x: Any, y: Any) -> Any:
        return conv(emit(op.multiply(x, y)), 16, 24)

    plain = ["pointwise 36x16x24"]
    assert lowered_for_mali(body, (1, 6, 6, 16), (1, 6, 6, 1)) == plain
    assert lowered_for_mali(body, (1, 6, 6, 16), (1, 1, 6, 16)) == plain
    assert lowered_for_mali(body, (1, 1, 1, 16), (1, 6, 6, 16)) == ["pointwise 36x16x24 gates(1)"]


def test_pictures_of_one_pixel_are_multiplied_once() -> None:
    def body(x: Any) -> Any:
        first = conv(x, 8, 16)
        gate = emit(op.sigmoid(conv(first, 16, 16)))
        return conv(emit(op.multiply(first, gate)), 16, 24)

    assert lowered_for_mali(body, (1, 1, 1, 8)) == ["pointwise 1x16x24"]


def test_inverted_residual_is_three_functions() -> None:
    def body(x: Any) -> Any:
        expanded = op.clip(bias(conv(x, 8, 24), 24), 0.0, 6.0)
        filtered = op.clip(bias(conv(emit(expanded), 24, 24, 3, 24), 24), 0.0, 6.0)
        return op.add(bias(conv(emit(filtered), 24, 8), 8), x)

    assert lowered(body, (1, 6, 6, 8)) == [
        "pointwise 36x8x24 add_channel clip(0,6)",
        "depthwise 1x6x6x24 k3x3 s1x1 p1,1,1,1 add_channel clip(0,6)",
        "pointwise 36x24x8 add_channel add",
    ]


def test_a_large_depthwise_goes_into_the_pointwise_after_it() -> None:
    def body(x: Any) -> Any:
        return bias(conv(emit(op.nn.relu(bias(conv(x, 64, 64, 3, 64), 64))), 64, 8), 8)

    assert lowered(body, (1, 48, 48, 64)) == [
        "depthwise_pointwise depthwise 1x48x48x64 k3x3 s1x1 p1,1,1,1 add_channel relu -> 8 "
        "add_channel"
    ]


def test_a_large_inverted_residual_is_one_function() -> None:
    def body(x: Any) -> Any:
        expanded = op.clip(bias(conv(x, 8, 48), 48), 0.0, 6.0)
        filtered = op.clip(bias(conv(emit(expanded), 48, 48, 3, 48), 48), 0.0, 6.0)
        return op.add(bias(conv(emit(filtered), 48, 8), 8), x)

    assert lowered(body, (1, 56, 56, 8)) == [
        "block conv2d 1x56x56x8->48 k1x1 s1x1 p0,0,0,0 nhwc add_channel clip(0,6) -> "
        "depthwise_pointwise depthwise 1x56x56x48 k3x3 s1x1 p1,1,1,1 add_channel clip(0,6) -> "
        "8 add_channel add"
    ]


def test_a_stem_and_what_follows_are_one_function() -> None:
    def body(x: Any) -> Any:
        first = emit(op.nn.relu(conv(emit(op.permute_dims(x, [0, 2, 3, 1])), 3, 64, 3)))
        second = emit(op.nn.relu(conv(first, 64, 64, 3, 64)))
        third = conv(second, 64, 8)
        # The next depthwise layer finds its producer taken.
        return conv(conv(third, 8, 8, 3, 8), 8, 8)

    assert lowered(body, (1, 3, 48, 48)) == [
        "block conv2d 1x48x48x3->64 k3x3 s1x1 p1,1,1,1 nchw relu -> "
        "depthwise_pointwise depthwise 1x48x48x64 k3x3 s1x1 p1,1,1,1 relu -> 8",
        "depthwise 1x48x48x8 k3x3 s1x1 p1,1,1,1",
        "pointwise 2304x8x8",
    ]


def test_a_large_depthwise_that_is_read_twice_stays_apart() -> None:
    def body(x: Any) -> Any:
        filtered = conv(x, 64, 64, 3, 64)
        return op.add(conv(filtered, 64, 64), filtered)

    assert lowered(body, (1, 48, 48, 64)) == [
        "depthwise 1x48x48x64 k3x3 s1x1 p1,1,1,1",
        "pointwise 2304x64x64 add",
    ]


def test_a_sum_of_two_convolutions_goes_into_the_first() -> None:
    def body(x: Any) -> Any:
        return op.nn.relu(emit(op.add(conv(x, 8, 16), conv(x, 8, 16, 3))))

    names = lowered(body, (1, 5, 5, 8))
    assert sorted(names) == [
        "conv2d 1x5x5x8->16 k3x3 s1x1 p1,1,1,1 nhwc",
        "pointwise 25x8x16 add relu",
    ]


def test_a_value_that_is_also_a_result_is_stored() -> None:
    def body(x: Any) -> Any:
        first = conv(x, 8, 16)
        return op.add(emit(op.nn.relu(first)), emit(op.sigmoid(first)))

    assert lowered(body, (1, 5, 5, 8)) == ["pointwise 25x8x16"]


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (lambda y: op.subtract(y, relax.const(np.float32(0.5))), "add_channel"),
        (lambda y: op.divide(y, relax.const(np.float32(4))), "mul_channel"),
        (lambda y: op.sigmoid(y), "sigmoid"),
        (lambda y: op.nn.silu(y), "silu"),
        (lambda y: op.nn.gelu(y), "gelu"),
        (lambda y: op.tanh(y), "tanh"),
        (lambda y: op.nn.leakyrelu(y, 0.1), "leaky_relu(0.1)"),
        (lambda y: op.nn.prelu(y, relax.const(normal(16)), axis=3), "prelu"),
        (lambda y: op.multiply(relax.const(normal(16)), y), "mul_channel"),
        (lambda y: op.subtract(relax.const(np.float32(0.5)), y), ""),  # not y - 0.5
        (lambda y: op.add(y, relax.const(normal(1, 5, 5, 1))), ""),  # one value per pixel
        (lambda y: op.exp(y), ""),
    ],
    ids=[
        "subtract",
        "divide",
        "sigmoid",
        "silu",
        "gelu",
        "tanh",
        "leaky",
        "prelu",
        "scale",
        "from_constant",
        "per_pixel",
        "unknown",
    ],
)
def test_what_goes_into_an_epilogue(step: Callable[[Any], Any], text: str) -> None:
    names = lowered(lambda x: step(conv(x, 8, 16)), (1, 5, 5, 8))
    assert names == [f"pointwise 25x8x16 {text}".strip()]


def test_a_tensor_added_to_itself_is_not_a_residual() -> None:
    def body(x: Any) -> Any:
        first = conv(x, 8, 16)
        return op.add(first, first)

    assert lowered(body, (1, 5, 5, 8)) == ["pointwise 25x8x16"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (lambda x: conv(x, 8, 16, 3, dilation=[2, 2]), "8->16 k3x3 s1x1 p1,1,1,1 d2x2 nhwc"),
        (lambda x: conv(x, 8, 16, 3, groups=2), "8->16 k3x3 s1x1 p1,1,1,1 g2 nhwc"),
        (lambda x: conv(x, 8, 16, 3, groups=8), "8->16 k3x3 s1x1 p1,1,1,1 g8 nhwc"),
        (
            lambda x: conv(emit(op.concat([x, x], axis=3)), 16, 8, 3),
            "16->8 k3x3 s1x1 p1,1,1,1 nhwc",
        ),
    ],
    ids=["dilated", "grouped", "channel_multiplier", "many_channels"],
)
def test_convolutions_of_all_kinds(body: Callable[[Any], Any], text: str) -> None:
    assert lowered(body, (1, 6, 6, 8)) == [f"conv2d 1x6x6x{text}"]


def test_equal_layers_share_a_function() -> None:
    mod = module(lambda x: conv(conv(x, 8, 8), 8, 8), (1, 5, 5, 8))
    lowering = LowerLayers(mod, X86, schedules.default)
    assert operators(lowering.run()).count("call_dps_packed") == 2
    assert (len(lowering.layers), len(lowering.calls)) == (1, 2)


@pytest.mark.parametrize(
    "body",
    [
        lambda x: op.mean(x, [1], keepdims=True),
        lambda x: op.matmul(x, relax.const(normal(8, 4))),
    ],
    ids=["mean_of_rows", "product_of_images"],
)
def test_what_has_no_schedule_of_its_own_is_left(body: Callable[[Any], Any]) -> None:
    assert lowered(body, (1, 6, 6, 8)) == []


def test_dense_and_pooling_are_layers_of_their_own() -> None:
    def body(x: Any) -> Any:
        pooled = emit(op.mean(x, [1, 2]))
        dense = emit(op.matmul(pooled, relax.const(normal(8, 10))))
        return op.add(dense, relax.const(normal(10)))

    assert lowered(body, (2, 5, 5, 8)) == ["global_pool 2x25x8", "pointwise 2x8x10 add_channel"]
