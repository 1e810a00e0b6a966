"""The user's folders, what is removed from a cache, and files that are replaced in one step."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mobilenet_tvm.runtime import folders
from mobilenet_tvm.runtime.atomic import replacing
from mobilenet_tvm.runtime.folders import cache_folder, data_folder, prune
from mobilenet_tvm.runtime.scratch import scratch_folder
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


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Take the home folder away; return the folder for temporary files."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for variable in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    folders._temporary_cache.cache_clear()
    yield tmp_path
    folders._temporary_cache.cache_clear()


@pytest.mark.usefixtures("homeless")
def test_without_a_home_folder_the_variable_is_named() -> None:
    with pytest.raises(UserError, match="no home folder that can be written; set XDG_DATA_HOME"):
        data_folder()


@pytest.mark.parametrize("home", ["/dev/null", "relative"])
def test_a_home_that_is_no_folder_is_none(home: str, tmp_path: Path) -> None:
    code = (
        "from mobilenet_tvm.runtime.folders import *\n"
        "print(cache_folder())\n"
        "try: print(data_folder())\n"
        "except UserError as error: print(error)"
    )
    environment = {"PATH": os.defpath, "TMPDIR": str(tmp_path), "HOME": home}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    finished = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert finished.stdout.splitlines() == [
        str(tmp_path / f"mobilenet-tvm-{os.getuid()}"),
        "no home folder that can be written; set XDG_DATA_HOME to a folder's absolute path",
    ]
    assert finished.stderr.startswith("warning: no home folder that can be written; files are")


def test_without_a_home_folder_the_cache_is_a_private_temporary_folder(
    homeless: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = cache_folder()
    assert folder.parent == homeless
    assert folder.stat().st_mode & 0o777 == 0o700
    assert cache_folder() == folder
    assert caplog.text.count("no home folder that can be written") == 1


@pytest.mark.usefixtures("homeless")
def test_a_temporary_cache_that_others_can_write_is_not_used() -> None:
    cache_folder().chmod(0o777)
    folders._temporary_cache.cache_clear()
    with pytest.raises(UserError, match="open to other users; set XDG_CACHE_HOME"):
        cache_folder()


def test_one_large_file_does_not_push_out_the_others(tmp_path: Path) -> None:
    for age, size in enumerate((290, 100, 50, 1)):
        (tmp_path / str(size)).write_bytes(bytes(size))
        os.utime(tmp_path / str(size), (1000 - age, 1000 - age))
    prune(tmp_path, 300)
    assert {path.name for path in tmp_path.iterdir()} == {"100", "50", "1"}


def test_scratch_folders_of_killed_processes_are_removed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path;"
        "from mobilenet_tvm.runtime.scratch import scratch_folder;"
        "made = scratch_folder('of-', Path(sys.argv[1])); made.__enter__();"
        "print(flush=True); os.read(0, 1)"
    )
    old = (0, 0)
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (left,) = tmp_path.iterdir()
        (left / "file").touch()
        os.utime(left, old)
        with scratch_folder("of-", tmp_path):
            assert left.exists()  # its process runs
        process.kill()
    with scratch_folder("of-", tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert not list(tmp_path.iterdir())


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
