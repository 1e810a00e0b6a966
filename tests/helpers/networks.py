"""Networks for tests, and where they are: odd ones, real exports, pretrained ones."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import odd_models as odd
import onnx

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.analysis.verify import verify
from mobilenet_tvm.compile.models.source import ModelOptions, resolve
from mobilenet_tvm.runtime import load

ROOT = Path(__file__).parents[2]
EXPORTS = ROOT / "tests" / "data" / "exports"
#: Pretrained networks and pictures, where this machine has them.
MODELS = ROOT.parent / "shared" / "models"

#: Share of an output's range by which it may differ from ONNX Runtime's.
TOLERANCE = 1e-4

ODD: dict[str, Callable[[], onnx.ModelProto]] = {
    "batch_2": lambda: odd.tiny_v2(batch=2),
    "batch_dynamic": lambda: odd.tiny_v2(batch="N"),
    "resolution_17_ends_at_1x1": lambda: odd.tiny_v2(resolution=17),
    "resolution_112_ends_at_7x7": lambda: odd.tiny_v2(resolution=112, widths=(4, 8, 12, 20)),
    "channels_odd": lambda: odd.tiny_v2(widths=(5, 7, 13), classes=11),
    "channels_prime_5x5_kernel": lambda: odd.tiny_v2(widths=(3, 11), kernel=5, expand=1),
    "one_class": lambda: odd.tiny_v2(classes=1),
    **{
        f"relu6_{form}": lambda form=form: odd.relu6(form)
        for form in ("clip_attributes", "clip_vectors", "relu_clip_max", "relu_min", "max_min")
    },
    "relu6_min_max": lambda: odd.relu6("min_max"),
    "clip_one_sided": lambda: odd.clip(None, 0.5),
    "clip_two_sided": lambda: odd.clip(-0.3, 0.7),
    "clip_crossed": lambda: odd.clip(0.7, -0.3),
    **{
        f"hard_swish_{form}": lambda form=form: odd.hard_swish(form)
        for form in ("operator", "hard_sigmoid", "relu6_div", "relu6_mul")
    },
    **{
        f"se_{form}": lambda form=form: odd.squeeze_excitation(form)
        for form in ("conv", "dense", "sigmoid", "swapped")
    },
    **{
        f"head_{form}": lambda form=form: odd.head(form)
        for form in (
            "flatten", "flatten_axis_minus_3", "reshape", "reshape_zero", "shape_gather",
            "squeeze", "squeeze_attribute", "reduce_mean", "average_pool", "conv", "matmul", "gemm",
        )
    },
    **{
        f"auto_pad_{mode}_{size}": lambda mode=mode, size=size: odd.auto_pad(mode, resolution=size)
        for mode in ("SAME_UPPER", "SAME_LOWER", "VALID")
        for size in (16, 17)
    },
    "uneven_pads": odd.uneven_pads,
    "pad_zero": odd.pad_before_conv,
    "pad_value": lambda: odd.pad_before_conv(value=1.5),
    "tensorflow_v1": odd.tensorflow_v1,
    "channel_multiplier": odd.channel_multiplier,
    "grouped_conv": lambda: odd.channel_multiplier(2, 2),
    **{
        f"batch_norm_{form}": lambda form=form: odd.batch_norm_apart(form)
        for form in (
            "first", "shared_conv", "shared_weight", "after_add", "after_relu",
            "before_padded_conv", "after_dense",
        )
    },
    "half_weights": odd.half_weights,
    "pixels_uint8": odd.pixels,
    "two_outputs": odd.two_outputs,
    "two_inputs": odd.two_inputs,
    "unused_input": odd.unused_input,
    "weights_as_inputs": odd.weights_as_inputs,
    "constants_of_every_kind": odd.constants_of_every_kind,
    "computed_pads": odd.computed_pads,
    "no_ops": odd.no_ops,
    "strange_names": odd.strange_names,
    "input_as_output": odd.input_as_output,
    "constant_output": odd.constant_output,
    "same_output_twice": odd.same_output_twice,
    "local_function": odd.local_function,
    "unsorted": odd.unsorted,
    "computed_clip": odd.computed_clip,
    "training_batch_norm": odd.training_batch_norm,
    "qoperators": odd.qoperators,
    "qoperators_opset_11": lambda: odd.qoperators(11),
}  # fmt: skip


@functools.cache
def reference(model: str, **options: Any) -> onnx.ModelProto:
    """Return a named model as ONNX; tests share it, and none changes it."""
    return resolve(model, ModelOptions(**options)).model


@functools.cache
def compiled(model: str, target: str, **options: Any) -> Path:
    """Return a named model's artifact; tests share it, and none changes it."""
    return compile_model(model, target, Path(mkdtemp(dir=_folder().name)) / "m.so", **options).path


@functools.cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="mobilenet-tvm-tests-")


def equals_onnxruntime(
    model: str | Path | onnx.ModelProto,
    folder: Path,
    target: str = "x86",
    inputs: int = 2,
    tolerance: float = TOLERANCE,
) -> None:
    """Compile a model, run it on random inputs, and compare it with ONNX Runtime."""
    if isinstance(model, onnx.ModelProto):
        onnx.save(model, folder / "model.onnx")
        model = folder / "model.onnx"
    artifact = compile_model(model, target, folder / "model.so")
    source = reference(model) if isinstance(model, str) else resolve(model, ModelOptions()).model
    results = verify(load(artifact.path), source, inputs)
    assert len(results) == inputs * len(artifact.metadata.outputs)
    assert max(result.error for result in results) <= tolerance
