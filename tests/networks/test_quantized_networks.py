"""Real quantised networks equal ONNX Runtime, which computes them in integers too."""

from __future__ import annotations

from pathlib import Path

import pytest
from networks import EXPORTS, MODELS, output_step, steps_from_onnxruntime

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.models.source import ModelOptions, resolve
from mobilenet_tvm.targets.host import cpu_features
from mobilenet_tvm.targets.presets import PRESETS

PEERS = MODELS.parent / "peers"
QUICK = "qdq_v3_small_opset17"
FILES = [
    *(path for kind in ("qdq", "qoperator", "tflite") for path in EXPORTS.glob(f"{kind}_*.onnx")),
    *MODELS.glob("*_int8.onnx"),
    *PEERS.glob("*_int8.onnx"),
]


@pytest.mark.parametrize("target", ["x86", pytest.param("x86-vnni", marks=pytest.mark.full)])
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=() if path.stem == QUICK else pytest.mark.full)
        for path in sorted(FILES)
    ],
)
def test_quantized_networks_equal_onnxruntimes(path: Path, target: str, tmp_path: Path) -> None:
    if missing := {*PRESETS[target].required_features} - cpu_features():
        pytest.skip(f"this CPU lacks {', '.join(sorted(missing))}")
    model = resolve(path, ModelOptions()).model
    artifact = compile_model(path, target, tmp_path / "m.so")
    assert output_step(model) > 0
    # The float numbers of a step are not exact.
    assert steps_from_onnxruntime(model, artifact.path, inputs=5) <= 1e-3
