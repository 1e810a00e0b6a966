"""The benchmark that compares any networks with ONNX Runtime, on small ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import odd_models as odd
import onnx
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "networks.py"


def run(*arguments: str | Path) -> str:
    command = [sys.executable, SCRIPT, *arguments, "--threads", "1", "--target", "x86"]
    command += ["--rounds", "1", "--repeats", "2", "--inputs", "1"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.full
def test_what_cannot_be_compiled_is_a_row_that_says_why(tmp_path: Path) -> None:
    onnx.save(odd.custom_operator(), tmp_path / "a_custom.onnx")
    onnx.save(odd.tiny_v2(batch="N"), tmp_path / "b_tiny.onnx")
    (tmp_path / "c_torn.onnx").write_bytes(b"torn")
    rows: list[dict[str, Any]] = json.loads(run(tmp_path, "nothing", "--json"))["rows"]
    custom, tiny, torn, nothing = rows
    assert "operator Twist cannot be compiled" in custom["failure"]
    assert "not an ONNX file, or truncated" in torn["failure"]
    assert "unknown model 'nothing'" in nothing["failure"]
    assert tiny["network"] == "b_tiny"
    assert tiny["right"]
    assert 0 <= tiny["difference"] < 1e-4
    assert 0 < tiny["peak_share"] < 1.5
    assert tiny["scheduled"] > 0
    for times in tiny["milliseconds"].values():
        assert 0 < times["least"] <= times["median"]


@pytest.mark.full
def test_shapes_of_dynamic_inputs_are_for_the_networks_that_have_them(tmp_path: Path) -> None:
    model = odd.tiny_v2(batch="N")
    name = model.graph.input[0].name
    onnx.save(model, tmp_path / "m.onnx")
    shape = [d.dim_value or 2 for d in model.graph.input[0].type.tensor_type.shape.dim]
    given = f"{name}={','.join(map(str, shape))}"
    text = run(tmp_path / "m.onnx", "--input-shape", given, "--input-shape", "other=1,3")
    assert "| m | 1 | yes |" in text
    assert "1 of 1 networks are right" in text
    assert "--input-shape other: no network that was compiled has this input" in text
    assert f"--input-shape {name}" not in text
