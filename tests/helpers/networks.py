"""Networks for tests, and where they are: odd ones, real exports, pretrained ones."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import numpy as np
import odd_models as odd
import onnx
import onnxruntime
from onnx import TensorProto

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.analysis.verify import verify
from mobilenet_tvm.compile.models.source import ModelOptions, resolve
from mobilenet_tvm.runtime import load
from mobilenet_tvm.targets.host import cpu_features

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
    "pad_reflect": lambda: odd.pad_before_conv("reflect"),
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


def session(model: onnx.ModelProto, *, optimised: bool = True) -> onnxruntime.InferenceSession:
    """Return ONNX Runtime's session for a quantised network.

    Optimised, it computes quantised layers in integers, and what it rounds is what is right: sums,
    times one scale. Without VNNI, it is told not to use instructions whose sums saturate.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if not cpu_features() & {"avx512_vnni", "avx_vnni"}:
        # With it, some files fail: two layers that share their weights.
        options.add_session_config_entry("session.x64quantprecision", "1")
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def output_step(model: onnx.ModelProto) -> float:
    """Return the step of a quantised network's output: 1 if it has bytes, 0 if it is float."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = {name: node for node in model.graph.node for name in node.output}
    output = model.graph.output[0]
    if output.type.tensor_type.elem_type in (TensorProto.UINT8, TensorProto.INT8):
        return 1.0
    last = nodes[output.name]
    while last.op_type in ("Flatten", "Reshape", "Squeeze"):
        last = nodes[last.input[0]]
    if last.op_type != "DequantizeLinear":
        return 0.0
    return float(onnx.numpy_helper.to_array(constants[last.input[1]]).reshape(()))


def quantized_feeds(model: onnx.ModelProto, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return seeded inputs; those of bytes are of all values."""
    made = odd.feeds(model, seed)
    rng = np.random.default_rng(seed)
    for name, array in made.items():
        if array.dtype in (np.uint8, np.int8):
            limits = np.iinfo(array.dtype)
            values = rng.integers(limits.min, limits.max, array.shape, endpoint=True)
            made[name] = values.astype(array.dtype)
    return made


def steps_from_onnxruntime(
    model: onnx.ModelProto, artifact: Path, *, inputs: int = 3, optimised: bool = True
) -> float:
    """Return how far the first output of a quantised network is from ONNX Runtime's, in steps.

    A float output, of which the largest magnitude counts as a step, is compared relative to that.
    """
    reference, compiled = session(model, optimised=optimised), load(artifact, threads=1)
    worst, step = 0.0, output_step(model)
    for seed in range(inputs):
        feeds = quantized_feeds(model, seed)
        theirs = np.asarray(reference.run(None, feeds)[0])
        result = compiled(*feeds.values())
        ours = next(iter(result.values())) if isinstance(result, dict) else result
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max()
        worst = max(worst, float(difference / (step or np.abs(theirs).max())))
    return worst
