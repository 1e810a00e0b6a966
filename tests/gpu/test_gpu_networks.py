"""Whole networks by OpenCL against ONNX Runtime: each kernel of the four, in their own shapes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from networks import MODELS, ODD, ROOT, compiled, equals_onnxruntime, reference

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.analysis.verify import verify
from mobilenet_tvm.compile.cli.main import cli
from mobilenet_tvm.runtime import load

pytestmark = pytest.mark.usefixtures("pocl")


def check(model: str, path: Path, **options: Any) -> None:
    artifact = compile_model(model, "mali:x86", path / "model.so", tuning_log="none", **options)
    results = verify(load(artifact.path), reference(model, **options), 2)
    for result in results:
        assert result.error < 1e-4
        assert result.same_top


@pytest.mark.parametrize("name", ["v1", "v2", "v3-large", "v3-small"])
def test_networks_equal_onnx_runtime(name: str, tmp_path: Path) -> None:
    check(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("v2", {"alpha": 0.25, "resolution": 32, "batch": 2, "classes": 11}),
        ("v3-small", {"alpha": 0.35, "resolution": 96, "batch": 3}),
        ("v1", {"alpha": 0.25, "resolution": 32, "classes": 1}),
    ],
)
def test_other_sizes_equal_onnx_runtime(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    check(name, tmp_path, **options)


@pytest.mark.parametrize(
    "name",
    [
        "batch_dynamic",
        "channels_odd",
        "channel_multiplier",  # what follows has no schedule of its own
        "grouped_conv",
        "head_average_pool",
        "pad_value",
        "pixels_uint8",
        "se_conv",
        "se_swapped",
        "constant_output",
        "tensorflow_v1",
    ],
)
def test_odd_models_equal_onnx_runtime(name: str, tmp_path: Path) -> None:
    equals_onnxruntime(ODD[name](), tmp_path, "mali:x86")


@pytest.mark.skipif(not MODELS.is_dir(), reason=f"the pretrained networks are not at {MODELS}")
def test_a_pretrained_network_sees_a_cat(tmp_path: Path) -> None:
    path = compile_model(MODELS / "mobilenet_v1_0.5_128.onnx", "mali:x86", tmp_path / "v1.so").path
    app = [ROOT / "examples" / "classify.py", path, MODELS / "chelsea.png"]
    options = ["--labels", MODELS / "labels_imagenet.txt", "--scaling", "tensorflow"]
    command = [sys.executable, *map(str, app), *map(str, options)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[0].endswith("Egyptian cat")


def test_a_profile_knows_what_the_device_can_do() -> None:
    small = {"alpha": 0.25, "resolution": 32, "classes": 3}
    path = compiled("v1", "mali:x86", **small)
    result = CliRunner().invoke(cli, ["profile", str(path), "--rounds", "2", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["peak"]["gflops"] > 0 < found["peak"]["gbytes"]
    for call in found["calls"]:
        assert call["peak"] == pytest.approx(call["gflops"] / found["peak"]["gflops"])
    assert sum(call["flops"] for call in found["calls"]) > 0
