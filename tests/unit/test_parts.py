"""Networks compiled in parts: the same artifact for any number of cores, and clear errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from networks import EXPORTS, ODD

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.codegen import parts


def test_the_artifact_does_not_depend_on_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = EXPORTS / "qdq_v3_small_opset17.onnx"
    artifacts = []
    for cores in (1, 2):
        monkeypatch.setattr(parts, "core_count", lambda cores=cores: cores)
        path = tmp_path / str(cores) / "m.so"
        compile_model(model, "x86", path)
        artifacts.append(path.read_bytes())
    assert artifacts[0] == artifacts[1]


def test_an_error_in_a_part_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("no such intrinsic")

    monkeypatch.setattr(parts.tvm, "compile", fail)
    with pytest.raises(RuntimeError, match="no such intrinsic"):
        compile_model(ODD["batch_2"](), "x86", tmp_path / "m.so")
    assert not list(tmp_path.iterdir())
