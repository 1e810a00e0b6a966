"""The user's folders, what is removed from a cache, and files that are replaced in one step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mobilenet_tvm.runtime.atomic import replacing
from mobilenet_tvm.runtime.folders import cache_folder, data_folder, prune
from mobilenet_tvm.targets.errors import UserError


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "older", "oldest")):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    prune(tmp_path, 300)
    assert len(list(tmp_path.iterdir())) == 3
    prune(tmp_path, 299)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "older"}
    prune(tmp_path, 0)
    assert not list(tmp_path.iterdir())


def test_a_relative_cache_folder_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert cache_folder() == Path.home() / ".cache" / "mobilenet-tvm"
    monkeypatch.setenv("XDG_CACHE_HOME", "/there")
    assert cache_folder() == Path("/there/mobilenet-tvm")


def test_a_relative_data_folder_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "here")
    assert data_folder() == Path.home() / ".local" / "share" / "mobilenet-tvm"
    monkeypatch.setenv("XDG_DATA_HOME", "/there")
    assert data_folder() == Path("/there/mobilenet-tvm")


def test_without_a_home_folder_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    for folder, variable in ((cache_folder, "XDG_CACHE_HOME"), (data_folder, "XDG_DATA_HOME")):
        monkeypatch.delenv(variable, raising=False)
        with pytest.raises(UserError, match=f"^no home folder; set {variable} to"):
            folder()


def test_what_a_killed_process_left_is_pruned(tmp_path: Path) -> None:
    left = tmp_path / ".mobilenet-tvm-left"
    left.mkdir()
    (left / "half").write_bytes(bytes(100))
    os.utime(left / "half", (1000, 1000))
    (tmp_path / "whole").write_bytes(bytes(100))
    prune(tmp_path, 150)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["whole"]


def test_a_file_is_replaced_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for text in ("first", "second"):
        with replacing(path) as scratch:
            scratch.write_text(text)
            scratch.with_name("beside").touch()
            assert path.exists() == (text == "second")
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_file_is_as_it_was_after_an_error(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as scratch:
            scratch.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
