"""Networks in float16 by OpenCL against ONNX Runtime, and what is said where it cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import odd_models
import onnx
import pytest
from click.testing import CliRunner
from command_line import run
from intel_opencl import IntelOpenCL
from networks import MODELS, ODD, ROOT, compiled

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.analysis.verify import TOLERANCES, Comparison, verify
from mobilenet_tvm.compile.cli.main import cli
from mobilenet_tvm.compile.models.source import ModelOptions, resolve
from mobilenet_tvm.runtime import load
from mobilenet_tvm.runtime.metadata import read_metadata
from mobilenet_tvm.targets.errors import UserError, WrongUseError
from mobilenet_tvm.targets.presets import ALIASES

OnIntel = Callable[..., Any]

SMALL: dict[str, Any] = {"alpha": 0.25, "resolution": 32, "classes": 100}


def compare(path: Path, reference: onnx.ModelProto) -> list[Comparison]:
    return verify(load(path), reference, 2)


def check(on_intel: OnIntel, model: Any, path: Path, **options: Any) -> None:
    reference = resolve(model, ModelOptions(**options)).model
    file = path / "model.so"
    compile_model(model, "mali:x86", file, tuning_log="none", dtype="float16", **options)
    for result in on_intel(compare, file, reference):
        # A float32 network within this would be one.
        assert TOLERANCES["float32"] < result.error < TOLERANCES["float16"]


@pytest.mark.parametrize("name", ["v1", "v2", "v3-large", "v3-small"])
def test_networks_are_near_onnx_runtime(on_intel: OnIntel, name: str, tmp_path: Path) -> None:
    check(on_intel, name, tmp_path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("v2", {"alpha": 0.25, "resolution": 32, "batch": 2, "classes": 11}),
        ("v3-small", {"alpha": 0.35, "resolution": 96, "batch": 3}),
    ],
)
def test_other_sizes(on_intel: OnIntel, name: str, options: dict[str, Any], tmp_path: Path) -> None:
    check(on_intel, name, tmp_path, **options)


@pytest.mark.parametrize(
    "name",
    [
        "channels_odd",
        "channel_multiplier",  # what follows has no schedule of its own
        "grouped_conv",
        "head_average_pool",
        "pad_value",
        "pixels_uint8",
        "tensorflow_v1",
    ],
)
def test_odd_models(on_intel: OnIntel, name: str, tmp_path: Path) -> None:
    check(on_intel, ODD[name](), tmp_path)


def called(*arguments: str) -> str:
    """Return what a command prints."""
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_model_that_takes_and_returns_float16(on_intel: OnIntel, tmp_path: Path) -> None:
    check(on_intel, odd_models.half(), tmp_path)


@pytest.mark.skipif(not MODELS.is_dir(), reason=f"the pretrained networks are not at {MODELS}")
@pytest.mark.usefixtures("on_intel")
def test_a_pretrained_network_sees_a_cat(tmp_path: Path) -> None:
    model = MODELS / "mobilenet_v1_0.5_128.onnx"
    path = compile_model(model, "mali:x86", tmp_path / "v1.so", dtype="float16").path
    options = ["--labels", MODELS / "labels_imagenet.txt", "--scaling", "tensorflow"]
    app = ROOT / "examples" / "classify.py"
    command = [sys.executable, app, path, MODELS / "chelsea.png", *options]
    environment = os.environ | IntelOpenCL().environment()
    result = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[0].endswith("Egyptian cat")


def test_verify_says_that_it_allows_more(on_intel: OnIntel) -> None:
    path = compiled("v1", "mali:x86", dtype="float16", **SMALL)
    output = on_intel(called, "verify", str(path))
    assert "equals ONNX Runtime" in output
    assert output.rstrip().endswith("allowed 5e-02 of float16")
    found = json.loads(on_intel(called, "verify", str(path), "--json"))
    assert (found["agrees"], found["tolerance"]) == (True, TOLERANCES["float16"])


@pytest.mark.usefixtures("pocl")
def test_a_driver_without_float16_is_one_line() -> None:
    path = compiled("v1", "mali:x86", dtype="float16", **SMALL)
    with pytest.raises(UserError, match=r"float16.*--dtype float32") as error:
        load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.full
def test_an_artifact_says_its_type_and_is_half_as_large(tmp_path: Path) -> None:
    sizes = {}
    for dtype in ("float32", "float16"):
        artifact = compile_model("v2", "mali", tmp_path / "v2.so", dtype=dtype, resolution=32)
        sizes[dtype] = artifact.size_bytes
        found = read_metadata(artifact.path)
        assert found.extra["dtype"] == dtype
        assert {info.dtype for info in (*found.inputs, *found.outputs)} == {"float32"}
    assert sizes["float16"] < 0.56 * sizes["float32"]


def test_both_types_have_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = ["--model", "v1", "--alpha", "0.25", "--resolution", "32"]
    status, output, _ = run(capfd, "compile", "--target", "mali", "--dtype", "float16", *model)
    assert status == 0
    assert [path.name for path in (tmp_path / "build").iterdir()] == [
        "mobilenet_v1_0.25_32-mali-float16.so"
    ]
    assert ", float16" in output


@pytest.mark.parametrize("target", ["x86-avx512", "arm64", "cortex-a53", "rpi4"])
def test_a_cpu_without_float16_keeps_float32(
    target: str, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["compile", "--target", target, "--model", "v1", "--dtype", "float16"]
    status, _, error = run(capfd, *command)
    assert status == 2
    name = ALIASES.get(target, target)
    assert f"{name} does not multiply float16; leave --dtype out, or compile for a GPU" in error
    assert error.rstrip().endswith("a CPU that does: arm64-fp16, cortex-a55, cortex-a76")
    assert len(error.splitlines()) == 1


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(WrongUseError, match="unknown dtype 'int8'; known: float32, float16"):
        compile_model("v1", "mali", dtype="int8")
