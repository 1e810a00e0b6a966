"""The folder for what can be made again, and what is removed from it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mobilenet_tvm.runtime.cache import cache_folder, prune


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
