"""The type that a network's values get: which are of which, and what refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from relax_helpers import bias, calls, conv, emit, module, normal
from tvm import relax
from tvm.relax import op

from mobilenet_tvm.compile.codegen.tvm_target import tvm_target
from mobilenet_tvm.compile.passes.lower_layers import LowerLayers
from mobilenet_tvm.compile.passes.set_dtype import SetDtype
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.presets import get_target

MALI = get_target("mali:x86")


def converted(body: Callable[..., Any], *shapes: tuple[int, ...]) -> tvm.IRModule:
    return SetDtype(module(body, *shapes), "float16").run()


def dtypes(mod: tvm.IRModule, name: str) -> list[str]:
    """Return the result's type of each call of an operator."""
    return [str(call.ty.dtype) for call in calls(mod, name)]


def workloads(mod: tvm.IRModule) -> list[str]:
    with tvm_target(MALI):
        lowering = LowerLayers(mod, MALI, registry.default)
        lowering.run()
    return [str(layer.workload) for layer in lowering.calls]


def stem(x: Any) -> Any:
    return conv(emit(op.permute_dims(x, (0, 2, 3, 1))), 3, 8, 3)


def test_a_network_takes_and_returns_float32() -> None:
    mod = converted(lambda x: op.nn.relu(bias(stem(x), 8)), (1, 3, 6, 6))
    assert str(mod["main"].params[0].ty.dtype) == "float32"
    assert str(mod["main"].ret_ty.dtype) == "float32"
    assert dtypes(mod, "nn.conv2d") == dtypes(mod, "add") == dtypes(mod, "nn.relu") == ["float16"]


def test_both_ends_are_cast_in_the_layers() -> None:
    mod = converted(lambda x: conv(emit(op.nn.relu(stem(x))), 8, 16), (1, 3, 6, 6))
    assert workloads(mod) == [
        "conv2d 1x6x6x3->8 k3x3 s1x1 p1,1,1,1 nchw float16 relu",
        "pointwise 36x8x16 float16->float32",
    ]


def test_a_value_that_is_also_returned_is_cast_by_itself() -> None:
    def body(x: Any) -> Any:
        inner = stem(x)
        return relax.Tuple([inner, conv(inner, 8, 16)])

    mod = converted(body, (1, 3, 6, 6))
    assert [str(field.dtype) for field in mod["main"].ret_ty.fields] == ["float32"] * 2
    assert workloads(mod) == [
        "conv2d 1x6x6x3->8 k3x3 s1x1 p1,1,1,1 nchw float16",
        "pointwise 36x8x16 float16->float32",
    ]


def test_what_comes_before_the_first_layer_stays_float32() -> None:
    mean = relax.const(np.float32(127.5))
    mod = converted(lambda x: stem(emit(op.subtract(x, mean))), (1, 3, 6, 6))
    assert dtypes(mod, "subtract") == ["float32"]


@pytest.mark.parametrize("name", ["nn.softmax", "exp", "square", "sigmoid"])
def test_sums_and_what_grows_fast_compute_in_float32(name: str) -> None:
    function = op.nn.softmax if name == "nn.softmax" else getattr(op, name)
    mod = converted(lambda x: function(conv(x, 8, 16)), (1, 6, 6, 8))
    assert dtypes(mod, name) == ["float32"]


def test_values_that_stay_float16_are_cast_once() -> None:
    def body(x: Any) -> Any:
        inner = conv(x, 8, 16)
        twice = emit(op.add(emit(op.exp(inner)), emit(op.exp(emit(op.negative(inner))))))
        return conv(twice, 16, 8)

    mod = converted(body, (1, 6, 6, 8))
    assert dtypes(mod, "exp") == ["float32"] * 2
    # In, out of the first layer twice, into the second, out of it.
    assert dtypes(mod, "astype") == ["float16", "float32", "float32", "float16", "float32"]


def test_a_constant_beyond_float16_is_refused() -> None:
    def body(x: Any) -> Any:
        return op.add(conv(x, 8, 16), relax.const(np.full((1, 1, 1, 16), 1e5, np.float32)))

    with pytest.raises(UserError, match=r"a constant of 100000, .*--dtype float32"):
        converted(body, (1, 6, 6, 8))


def test_an_infinite_constant_stays() -> None:
    def body(x: Any) -> Any:
        return op.maximum(conv(x, 8, 16), relax.const(np.full((1,), -np.inf, np.float32)))

    (call,) = calls(converted(body, (1, 6, 6, 8)), "maximum")
    assert np.isneginf(call.args[1].value.numpy()).all()


def test_weights_are_halved() -> None:
    (call,) = calls(converted(lambda x: conv(x, 8, 16), (1, 6, 6, 8)), "nn.conv2d")
    weight = call.args[1].value.numpy()
    np.testing.assert_array_equal(weight, normal(1, 1, 8, 16, seed=16).astype(np.float16))


def test_a_network_of_float16_computes_in_float32_where_that_is_asked_for() -> None:
    def body(x: Any) -> Any:
        weight = relax.const(normal(1, 1, 8, 16).astype(np.float16))
        layouts = {"data_layout": "NHWC", "kernel_layout": "HWIO"}
        product = emit(op.nn.conv2d(x, weight, **layouts))
        ahead = emit(op.astype(product, "float32"))
        return op.astype(emit(op.nn.relu(ahead)), "float16")

    mod = SetDtype(module(body, (1, 6, 6, 8), dtype="float16"), "float32").run()
    assert dtypes(mod, "nn.conv2d") == dtypes(mod, "nn.relu") == ["float32"]
    # The model's own cast after the layer has nothing to do.
    assert dtypes(mod, "astype") == ["float32", "float16"]
    assert str(mod["main"].ret_ty.dtype) == "float16"


def test_a_network_of_float32_stays_as_it_is() -> None:
    mod = module(lambda x: op.nn.relu(bias(stem(x), 8)), (1, 3, 6, 6))
    tvm.ir.assert_structural_equal(SetDtype(mod, "float32").run()["main"], mod["main"])
