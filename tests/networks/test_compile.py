"""The whole way: ONNX to a loaded `.so` whose answers are ONNX Runtime's."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import odd_models as odd
import onnx
import pytest
from log_files import workloads, write_log
from networks import EXPORTS, ODD, TOLERANCE, equals_onnxruntime, reference

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.analysis.verify import verify
from mobilenet_tvm.compile.models.named import NAMES
from mobilenet_tvm.runtime import Metadata, load
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.presets import PRESETS
from mobilenet_tvm.targets.target import Target

X86 = PRESETS["x86"]

#: One real export of each exporter, for the quick tier.
QUICK = (
    "dynamo_v3_small_opset21",
    "float16_v3_small_opset17",
    "qdq_v3_small_opset17",
    "qoperator_v2_opset13",
    "tf2onnx_v1_opset9",
    "tflite_v1_int8_opset16",
    "torchscript_v2_opset9_batchnorm",
)


def other_decision(workload: Workload, target: Target) -> Any:
    """Return a valid decision that is not the default one, where there is one."""
    schedule = registry.find(workload, target)
    assert schedule is not None
    parts = itertools.product(*schedule.space(workload, target).values())
    default = registry.default(workload, target)
    for choice in parts:
        values = [v for part in choice for v in (part if isinstance(part, tuple) else (part,))]
        named = dict(zip(vars(default), values, strict=True))
        with contextlib.suppress(ValueError):
            decision = registry.decision(workload, named, target)
            if decision != default:
                return decision
    return default


def calls_of_layers(metadata: Metadata) -> list[dict[str, Any]]:
    """Return the calls that have a decision; the others are TVM's own functions."""
    return [call for call in metadata.extra["calls"] if call["source"]]


@pytest.mark.parametrize(
    ("model", "resolution"), [("v3-small", 64), pytest.param("v2", 224, marks=pytest.mark.full)]
)
def test_a_model_of_other_decisions_from_a_log(model: str, resolution: int, tmp_path: Path) -> None:
    options = {"alpha": 0.35, "resolution": resolution}
    layers = workloads(model, X86, **options)
    chosen = {workload: other_decision(workload, X86) for workload in layers}
    log = write_log(tmp_path / "x86.jsonl", X86, chosen)
    artifact = compile_model(model, X86, tmp_path / "m.so", tuning_log=log.path, **options)
    metadata = artifact.metadata
    assert metadata.tuned_layers == metadata.layers == len(layers)
    for call, workload in zip(calls_of_layers(metadata), layers, strict=True):
        assert call["workload"] == str(workload)
        assert call["decision"] == vars(chosen[workload])
        assert (call["tuned"], call["source"]) == (True, "measured")
    others = [w for w in layers if chosen[w] != registry.default(w, X86)]
    assert len(others) > len(layers) / 2
    results = verify(load(artifact.path), reference(model, **options), 2)
    assert max(result.error for result in results) <= TOLERANCE


def test_layers_that_the_log_does_not_know_get_the_default(tmp_path: Path) -> None:
    options = {"alpha": 0.35, "resolution": 64}
    first, *others = workloads("v2", X86, **options)
    decisions = {first: registry.default(first, X86)}
    log = write_log(tmp_path / "x86.jsonl", X86, decisions, source="emulated")
    with log.path.open("a") as file:
        file.write("{torn")
    artifact = compile_model("v2", X86, tmp_path / "m.so", tuning_log=log.path, **options)
    calls = calls_of_layers(artifact.metadata)
    assert [call["source"] for call in calls] == ["emulated", *["default" for _ in others]]
    assert [call["tuned"] for call in calls] == [True, *[False for _ in others]]
    assert artifact.metadata.tuned_layers == 1
    assert [read.skipped_by_reason for read in artifact.logs] == [{"torn": 1}]


@pytest.mark.parametrize("name", ODD)
def test_odd_models(name: str, tmp_path: Path) -> None:
    equals_onnxruntime(ODD[name](), tmp_path)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=() if path.stem in QUICK else pytest.mark.full)
        for path in sorted(EXPORTS.glob("*.onnx"))
    ],
)
def test_real_exports(path: Path, tmp_path: Path) -> None:
    equals_onnxruntime(path, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.full) for name in NAMES if name != "v3-small"),
        "v3-small",
    ],
)
def test_named_models(name: str, tmp_path: Path) -> None:
    equals_onnxruntime(name, tmp_path, inputs=5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ssdlite-v3-large", {"alpha": 0.25, "resolution": 96, "classes": 5, "batch": 2}),
        ("lraspp-v3-large", {"alpha": 0.25, "resolution": 72, "classes": 3}),
    ],
    ids=str,
)
def test_several_outputs_and_maps_of_odd_sides(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    equals_with_options(name, options, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("v1", {"alpha": 0.25, "resolution": 160, "batch": 8}),
        ("v2", {"alpha": 0.35, "resolution": 96}),
        ("v2", {"alpha": 1.4, "resolution": 128, "classes": 7}),
        ("v3-large", {"alpha": 0.75, "resolution": 192, "batch": 2}),
        ("v3-small", {"alpha": 1.25, "resolution": 32}),
        ("v4-conv-small", {"alpha": 0.5, "resolution": 96, "batch": 3, "classes": 11}),
        ("v4-conv-medium", {"alpha": 0.35, "resolution": 160}),
        ("efficientnet-b0", {"alpha": 0.75, "resolution": 128, "batch": 2}),
        ("efficientnet-lite0", {"alpha": 1.25, "resolution": 96, "classes": 7}),
        ("ssdlite-v3-large", {"resolution": 224, "batch": 2, "classes": 3}),
        ("lraspp-v3-large", {"alpha": 0.5, "resolution": 264, "batch": 2}),
    ],
    ids=str,
)
def test_widths_resolutions_and_batches(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    equals_with_options(name, options, tmp_path)


def equals_with_options(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    artifact = compile_model(name, "x86", tmp_path / "model.so", **options)
    results = verify(load(artifact.path), reference(name, **options), 2)
    assert max(result.error for result in results) <= TOLERANCE


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (odd.custom_operator, "node 'Twist_1': operator Twist cannot be compiled (domain com.exam"),
        (odd.fused_conv, "node 'FusedConv_0': operator FusedConv cannot be compiled (domain com."),
        (lambda: odd.training_batch_norm(13), "(training mode; call model.eval(), export again)"),
        (odd.loop, "node 'Loop_1': operator Loop cannot be compiled"),
        (odd.condition, "node 'If_3': operator If cannot be compiled"),
        (odd.perceptron, "the model has no image input (4 axes)"),
        (odd.audio, "the model has no image input (4 axes)"),
        (odd.recurrent, "the model has no image input (4 axes)"),
        (odd.text, "'input' has the type string, which cannot be compiled"),
    ],
)  # fmt: skip
def test_what_cannot_be_compiled_is_named_and_leaves_nothing(
    model: Callable[[], onnx.ModelProto],
    message: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    with pytest.raises(UserError, match=re.escape(message)) as error:
        compile_model(tmp_path / "m.onnx", "x86", tmp_path / "out" / "m.so")
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["m.onnx"]
