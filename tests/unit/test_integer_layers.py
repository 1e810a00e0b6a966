"""Quantised networks are computed in integers, in every form that files hold."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest
from networks import steps_from_onnxruntime
from quantized_models import FORMS

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.pipeline import lower
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.host import cpu_features
from mobilenet_tvm.targets.presets import PRESETS

#: What only moves bytes, or makes them of floats and floats of them.
MOVES = re.compile(r"(?:^|_)(?:fused|transpose|reshape|(?:de)?quantize|bitwise_xor|cast)\d*(?=_|$)")

POINTWISE = "pointwise uint8*int8 add_channel requantize"
DEPTHWISE = "depthwise uint8*int8 add_channel requantize"
LOOKUP = f"{POINTWISE} lookup"
GENERAL_PADDED = ("pad", "conv2d_add", "requantize")
SUMS = "pointwise uint8*int8->int32"
FLOAT = "pointwise float32*float32 add_channel"
MEAN = ("sum", "add_requantize")

#: The functions of a network other than moves, and the forms that have them.
EXPECTED: dict[tuple[str, ...], list[str]] = {
    (POINTWISE,): [
        "uint8", "int8", "scalars_as_vectors", "power_of_two_scales", "zero_point_left_out",
        "weights_per_tensor", "weights_without_zero_point", "bias_other", "bias_float", "bias_none",
        "relu", "relu_above_zero_point", "relu6", "relu6_below_scale", "relu6_of_tensorflow",
        "huge_scale", "moves", "output_uint8", "output_int8", "gemm", "gemm_transposed", "matmul",
        "matmul_add", "gemm_axis_left_out", "matmul_per_tensor",
    ],
    ("pointwise uint8*int16 add_channel requantize",): [
        "weights_unsigned", "weights_unsigned_per_channel",
    ],
    (DEPTHWISE,): [
        "depthwise", "depthwise_5x5_stride_2", "depthwise_batch", "depthwise_uneven",
        "padded_bytes", "padded_bytes_uneven", "pad_zero", "pad_step",
    ],
    ("conv2d float32*int8 add_channel requantize",): [
        "stem", "stem_int8", "pointwise_stride_2", "dense_window",
    ],
    ("pad", "conv2d uint8*int8 add_channel requantize"): ["image_uint8", "image_int8"],
    ("conv2d float32*int8->float32 add_channel dequantize", "tir_exp"): ["stem_and_float"],
    # No schedule of its own, but integers.
    GENERAL_PADDED: ["depthwise_dilated", "grouped", "grouped_unsigned_weights"],
    (POINTWISE, *GENERAL_PADDED): ["unsigned_and_signed"],
    (POINTWISE, f"{POINTWISE} add_quantized"): ["add", "add_int8", "add_relu"],
    (f"{POINTWISE} add_quantized",): ["add_input", "add_input_relu"],
    (POINTWISE, POINTWISE, "multiply_quantized"): ["multiply"],
    (*MEAN, POINTWISE, LOOKUP, "multiply_quantized"): ["gates"],
    (POINTWISE, POINTWISE, f"{DEPTHWISE} add_quantized"): ["shared"],
    (LOOKUP, LOOKUP, "concatenate"): ["concat"],
    (POINTWISE, POINTWISE, "concatenate"): ["concat_one_scale"],
    ("max_pool2d", "lookup"): ["max_pool"],
    ("take_take1", "lookup"): ["resize_nearest"],
    ("lookup",): ["add_itself", "requantized"],
    MEAN: ["average_pool_of_all", "global_average_pool", "reduce_mean", "reduce_mean_flat"],
    (*MEAN, POINTWISE): ["squeeze"],
    (LOOKUP,): [
        "hard_swish", "hard_swish_by_hard_sigmoid", "hard_swish_of_tensorflow", "hard_sigmoid",
        "sigmoid", "silu", "leaky_relu", "tanh", "elu", "softplus",
    ],
    (SUMS, "add_requantize", "add_requantize1"): ["quantized_twice"],
    # Float, as the file says.
    (POINTWISE, "sum", "add_multiply", FLOAT): ["float_head"],
    (POINTWISE, FLOAT, POINTWISE): ["float_island"],
    ("pad", "depthwise float32*float32 add_channel"): ["pad_between_steps"],
    ("window_pool float32*float32",): ["average_pool"],
    ("pointwise uint8*int8->float32 add_channel dequantize",): ["tiny_scale"],
    (SUMS, "add_multiply_add_multiply_clip_divide_multiply1"): ["function_before_quantization"],
}  # fmt: skip

#: Where ONNX Runtime is not exact, or rounds what the file says at another place: one step.
#: It adds and averages in its own ways, with ties here; and a bias in steps that are not those of
#: the sums is rounded to them, by its optimiser too where it is float, but to others.
ONE_STEP = {"add", "add_int8", "add_relu", "add_input", "add_input_relu", "shared", "average_pool"}
ONE_STEP |= {"bias_other"}
#: Where ONNX Runtime's optimiser changes the network: it quantises float weights, and leaves out
#: quantisations.
PLAIN = {"float_island", "requantized"}
#: Float outputs, which are not equal to the bit.
FLOATS = {"float_head", "stem_and_float"}

QUICK = {"int8", "bias_float", "tiny_scale", "stem_and_float", "add_relu", "gates", "image_int8"}


def described(workload: Workload) -> str:
    """Return a layer without its sizes."""
    types = workload.types
    result = "" if types.result == "uint8" or not types.integer else f"->{types.result}"
    words = [workload.operator, f"{types.data}*{types.weights}{result}"]
    return " ".join([*words, *map(str, workload.epilogue)])


def functions(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the functions that compute a network, other than those that only move bytes."""
    calls = lower(model, PRESETS["x86"]).calls
    found = [
        described(call.layer.workload)
        if call.layer
        else MOVES.sub("", call.function).removeprefix("_")
        for call in calls
    ]
    return tuple(name for name in found if name)


def test_every_form_is_expected_to_be_something() -> None:
    forms = [form for group in EXPECTED.values() for form in group]
    assert sorted(forms) == sorted(FORMS)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        pytest.param(form, expected, id=form)
        for expected, group in EXPECTED.items()
        for form in group
    ],
)
def test_the_layers_of_a_form(form: str, expected: tuple[str, ...]) -> None:
    assert functions(FORMS[form]()) == expected


@pytest.mark.parametrize(
    ("target", "form"),
    [
        pytest.param(
            target,
            form,
            id=f"{target}-{form}",
            marks=() if form in QUICK and target == "x86" else pytest.mark.full,
        )
        for target in ("x86", "x86-vnni")
        for form in FORMS
    ],
)
def test_results_are_onnxruntimes(form: str, target: str, tmp_path: Path) -> None:
    if missing := {*PRESETS[target].required_features} - cpu_features():
        pytest.skip(f"this CPU lacks {', '.join(sorted(missing))}")
    model = FORMS[form]()
    onnx.save(model, tmp_path / "m.onnx")
    artifact = compile_model(tmp_path / "m.onnx", target, tmp_path / "m.so")
    steps = steps_from_onnxruntime(model, artifact.path, optimised=form not in PLAIN)
    # The float numbers of a step are not exact.
    assert steps <= (1.001 if form in ONE_STEP else 1e-5)
