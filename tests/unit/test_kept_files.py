"""Files that tests keep for the next run: made once, few enough, and no matter where."""

from __future__ import annotations

import os
from pathlib import Path

import kept_files
import pytest
from kept_files import kept


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "mobilenet-tvm" / "tests"


def keep(*sources: str) -> Path:
    def make(path: Path) -> None:
        path.write_text(" ".join(sources))

    return kept(sources, ".txt", make)


def test_a_file_is_made_once_for_the_same_sources(folder: Path) -> None:
    path = keep("one", "two")
    path.write_text("changed")
    assert keep("one", "two") == path
    assert path.read_text() == "changed"
    assert keep("one two").read_text() == "one two"
    assert keep("two").suffix == ".txt"
    assert {path.parent for path in folder.iterdir()} == {folder}
    assert len(list(folder.iterdir())) == 3


def test_what_fails_leaves_nothing(folder: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        kept(["one"], ".txt", fail)
    assert not list(folder.iterdir())


def test_those_not_used_for_longest_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_files, "MAX_FILES", 10)
    paths = [keep(str(number)) for number in range(10)]
    for age, path in enumerate(reversed(paths)):
        os.utime(path, (1e9 - age, 1e9 - age))
    keep("0")
    keep("more")
    assert not paths[1].exists()
    assert paths[0].exists()
    assert len(list(folder.iterdir())) == 10


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    path = keep("one")
    assert path.read_text() == "one"
    assert keep("one") == path
