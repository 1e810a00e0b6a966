"""What a command may write: ordinary files of any name, and nothing that it reads."""

from __future__ import annotations

import os
from pathlib import Path

import odd_models as odd
import onnx
import pytest

from mobilenet_tvm.compile import compile_model, quantize_model, tune_models
from mobilenet_tvm.compile.logs.log import TuningLog
from mobilenet_tvm.compile.output_file import prepare_output
from mobilenet_tvm.compile.tuning import session
from mobilenet_tvm.compile.tuning.session import TuneOptions
from mobilenet_tvm.runtime.metadata import read_metadata
from mobilenet_tvm.targets.errors import UserError, WrongUseError


def test_only_ordinary_files_are_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "broken").symlink_to("nothing")
    before = sorted(tmp_path.iterdir())
    for name, kind in {
        "pipe": "a device or a pipe",
        "link": "a link",
        "broken": "a link",
        ".": "a folder",
        "file/v2.so": "File exists",
        "no/\0/v2.so": "null",
        "/proc/new/v2.so": "No such file",
        "\0": "null",
    }.items():
        with pytest.raises(UserError, match=f"cannot be written.*{kind}"):
            prepare_output(tmp_path / name)
    prepare_output(tmp_path / "file")
    prepare_output(tmp_path / "new")
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "file").read_bytes() == b"old"


def test_what_is_read_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(odd.tiny_v2(), path)
    contents = path.read_bytes()
    (tmp_path / "same.onnx").hardlink_to(path)
    for output in (path, tmp_path / "same.onnx"):
        with pytest.raises(WrongUseError, match="is read too"):
            compile_model(path, "x86", output)
        with pytest.raises(WrongUseError, match="is read too"):
            quantize_model(path, tmp_path, output)
    assert path.read_bytes() == contents


def test_names_that_begin_with_a_dash_are_no_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    net = odd.Net([1, 3, 8, 8])
    onnx.save(net.model(net.node("Relu", "input"), shapes=[[1, 3, 8, 8]]), "-m.onnx")
    compile_model("-m.onnx", "x86", "--help/-x.so", tuning_log="none")
    assert read_metadata("--help/-x.so").model == "-m"


def test_quantize_says_before_its_work_that_it_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        quantize_model(odd.tiny_v2(), tmp_path / "no pictures", tmp_path)


def test_tune_says_before_it_measures_that_it_cannot_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_measure", lambda *_: pytest.fail("it has measured"))
    (tmp_path / "file").touch()
    net = odd.Net([1, 16, 8, 8])
    model = net.model(net.conv("input", 16, 16), shapes=[[1, 16, 8, 8]])
    onnx.save(model, tmp_path / "m.onnx")
    for log in (tmp_path / "file" / "x86.jsonl", tmp_path):
        with pytest.raises(UserError, match="cannot be written"):
            tune_models(tmp_path / "m.onnx", "native", TuneOptions(log=log))


def test_a_log_is_tried_without_a_change(tmp_path: Path) -> None:
    log = TuningLog(tmp_path / "new" / "x86.jsonl")
    log.prepare()
    assert not log.path.exists()
    log.path.write_text("old")
    log.prepare()
    assert log.path.read_text() == "old"
    log.path.unlink()
    os.mkfifo(log.path)
    with pytest.raises(UserError, match="a device or a pipe"):
        log.prepare()
