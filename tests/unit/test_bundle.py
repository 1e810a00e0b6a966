"""Tests of runtime/bundle.py: a bundle is complete, small, runs alone, and destroys nothing."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from artifacts import ADD, write_add
from board import Board
from pocl import Pocl
from remote_boards import running

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.runtime.bundle import board_folder, bundle, runtime_library
from mobilenet_tvm.runtime.device import open_device
from mobilenet_tvm.runtime.elf import read_elf
from mobilenet_tvm.runtime.library import find_runtime_library
from mobilenet_tvm.runtime.remote.errors import BoardError
from mobilenet_tvm.runtime.remote.session import Session
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.host import architecture

VERSION = importlib.metadata.version("apache-tvm")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_add(tmp_path_factory.mktemp("bundle") / "add.so")


@pytest.fixture(scope="module")
def arm_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_add(tmp_path_factory.mktemp("bundle") / "add-arm.so", "aarch64")


@pytest.fixture(scope="module")
def folder(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(artifact, tmp_path_factory.mktemp("bundle") / "made")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with what an app installs, and nothing else."""
    folder = tmp_path_factory.mktemp("packages")
    for pattern in ("numpy*", "tvm_ffi", "apache_tvm_ffi-*", "typing_extensions*"):
        for path in Path(np.__file__).parents[1].glob(pattern):
            (folder / path.name).symlink_to(path)
    return folder


def run_alone(
    packages: Path, *arguments: str | Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python where nothing but an app's packages is installed."""
    return subprocess.run(
        [sys.executable, "-S", *map(str, arguments)],
        env={"PATH": os.defpath, "PYTHONPATH": str(packages)} | environment,
        cwd=packages,
        capture_output=True,
        text=True,
    )


def refusal(artifact: Path, output: Path) -> str:
    with pytest.raises(UserError) as error:
        bundle(artifact, output)
    assert "\n" not in str(error.value)
    return str(error.value)


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_holds_the_model_the_loader_and_nothing_else(folder: Path) -> None:
    names = {name for name in contents(folder) if "__pycache__" not in name}
    loader = {name for name in names if name.startswith("mobilenet_tvm/")}
    assert names - loader == {"add.so", "run.py", "README.txt"}
    assert {name.split("/")[1] for name in loader} == {"runtime", "targets"}
    assert not {name for name in loader if name.endswith(("bundle.py", "run.py"))}
    assert not {name for name in loader if "presets" in name}
    beside = sum((folder / name).stat().st_size for name in names - {"add.so"})
    assert beside < 10e6


def test_a_bundles_files_are_readable_by_all_that_umask_allows(folder: Path) -> None:
    os.umask(mask := os.umask(0))
    for path in [folder, *folder.rglob("*")]:
        assert path.stat().st_mode & 0o444 == 0o444 & ~mask, path


def test_run_py_needs_only_numpy_and_tvm_ffi(folder: Path, packages: Path) -> None:
    finished = run_alone(packages, folder / "run.py", "--threads", "1")
    assert finished.returncode == 0, finished.stderr
    assert "output sum float32[1,4,16,16]: " in finished.stdout
    assert re.search(r"latency, threads: 1: [\d.]+ ms median", finished.stdout)


def test_run_py_runs_on_given_arrays(folder: Path, packages: Path, tmp_path: Path) -> None:
    files = []
    for info in ADD.inputs:
        files.append(tmp_path / f"{info.name}.npy")
        np.save(files[-1], np.full(info.shape, 7, info.dtype))
    finished = run_alone(packages, folder / "run.py", *files)
    assert finished.returncode == 0, finished.stderr
    assert "output positive.1 int32[1,4,16,16]: 1 to 1" in finished.stdout


def test_run_py_says_in_one_line_what_is_wrong(
    folder: Path, packages: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.npy"
    text.write_text("no array")
    wrong = tmp_path / "wrong.npy"
    np.save(wrong, np.zeros((3, 3)))
    for arguments, message in [
        ([text], "1 files given, the model has 2 inputs"),
        ([text, text], f"{text}: not an array in .npy format"),
        ([tmp_path / "none.npy"] * 2, "not an array in .npy format"),
        ([wrong, wrong], "the model takes image float32[1,4,16,16], but was given float64[3,3]"),
    ]:
        finished = run_alone(packages, folder / "run.py", *arguments)
        assert finished.returncode == 1
        assert message in finished.stderr
        assert finished.stderr.startswith("error: ")
        assert finished.stderr.count("\n") == 1


def test_the_readme_says_how_an_app_runs_the_model(folder: Path, packages: Path) -> None:
    readme = (folder / "README.txt").read_text()
    code = readme[readme.index("    from mobilenet_tvm") : readme.index("input   image")]
    program = f"""
import os, sys
sys.path.insert(0, {str(folder)!r})
os.chdir(sys.path[0])
import numpy as np
image, offset_1 = np.ones((1, 4, 16, 16), "float32"), np.ones((1, 4, 1, 1), "float32")
{textwrap.dedent(code)}
print(*outputs_by_name)
print({{line.split()[-1] for line in open("/proc/self/maps") if "libtvm_runtime" in line}})
"""
    finished = run_alone(packages, "-c", program)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines() == [
        "sum positive.1",
        str({f"{folder}/mobilenet_tvm/runtime/libtvm_runtime.so"}),
    ]
    assert "pip install 'apache-tvm-ffi>=" in readme


def test_an_app_without_tvm_ffi_is_told_what_to_install(
    folder: Path, packages: Path, tmp_path: Path
) -> None:
    for entry in packages.iterdir():
        if "tvm_ffi" not in entry.name:
            (tmp_path / entry.name).symlink_to(entry.resolve())
    finished = run_alone(tmp_path, folder / "run.py")
    assert finished.stderr.startswith("error: tvm-ffi is not installed; run: pip install '")


def test_the_bundle_of_another_architecture_runs_there(
    board: Board, arm_artifact: Path, tmp_path: Path
) -> None:
    folder = bundle(arm_artifact, tmp_path / "bundle")
    assert read_elf(folder / "mobilenet_tvm/runtime/libtvm_runtime.so").architecture == "aarch64"
    finished = board.run([str(folder / "run.py"), "--threads", "2"])
    assert finished.returncode == 0, finished.stderr
    assert "output sum float32[1,4,16,16]: " in finished.stdout


def test_a_board_refuses_code_that_its_cpu_cannot_run(board: Board, tmp_path: Path) -> None:
    artifact = write_add(tmp_path / "add.so", "aarch64", required_features=("asimd", "asimddp"))
    folder = bundle(artifact, tmp_path / "bundle")
    old, new = (board.run([str(folder / "run.py")], cpu=f"cortex-a{n}") for n in (72, 76))
    assert "needs asimddp, which this CPU lacks; compile with --target arm64" in old.stderr
    assert new.returncode == 0, new.stderr


def test_a_board_refuses_another_architecture(board: Board, artifact: Path, tmp_path: Path) -> None:
    folder = bundle(artifact, tmp_path / "bundle")
    finished = board.run([str(folder / "run.py")])
    assert "compiled for x86_64, this machine is aarch64" in finished.stderr


def test_an_empty_folder_and_an_older_bundle_are_replaced(artifact: Path, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    output.mkdir()
    bundle(artifact, output)
    names = contents(output)
    (output / "add.so").rename(output / "older.so")
    (output / "mobilenet_tvm" / "__pycache__").mkdir()
    (output / "run.py").write_text("older")
    bundle(artifact, output)
    assert contents(output) == names
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize(
    "names",
    [
        ["photo.jpg"],
        ["v1.so", "v2.so"],
        ["model.so"],
        ["run.py", "README.txt", "mobilenet_tvm/runtime/__init__.py"],
        ["run.py", "README.txt", "mobilenet_tvm/runtime/__init__.py", "a.so", "b.so"],
        ["run.py", "README.txt", "mobilenet_tvm/runtime/__init__.py", "a.so", "notes"],
    ],
)
def test_a_folder_with_anything_else_is_left_alone(
    artifact: Path, tmp_path: Path, names: list[str]
) -> None:
    output = tmp_path / "mine"
    for name in names:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_text("mine")
    assert "something other than a bundle" in refusal(artifact, output)
    assert contents(output) == set(names)
    assert {(output / name).read_text() for name in names} == {"mine"}


def test_a_file_in_the_place_of_the_folder_is_left_alone(artifact: Path, tmp_path: Path) -> None:
    output = tmp_path / "file"
    output.write_text("mine")
    assert "is a file" in refusal(artifact, output)
    assert output.read_text() == "mine"


def test_a_place_that_cannot_be_written_is_refused(artifact: Path) -> None:
    assert "cannot be written" in refusal(artifact, Path("/proc/bundle"))


def test_a_library_of_another_project_is_refused(tmp_path: Path) -> None:
    assert "not made by" in refusal(find_runtime_library(), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_a_model_of_another_name_is_found_by_run_py(
    artifact: Path, packages: Path, tmp_path: Path
) -> None:
    renamed = tmp_path / "model.v2"
    shutil.copyfile(artifact, renamed)
    finished = run_alone(packages, bundle(renamed, tmp_path / "bundle") / "run.py")
    assert finished.returncode == 0, finished.stderr


def test_this_machines_runtime_is_the_installed_one() -> None:
    assert runtime_library(architecture()) == find_runtime_library()


def test_another_architectures_runtime_is_fetched_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = tmp_path / "mobilenet-tvm" / "runtime" / VERSION / "other" / "libtvm_runtime.so"
    kept.parent.mkdir(parents=True)
    kept.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert runtime_library("other") == kept


def test_a_runtime_that_cannot_be_fetched_leaves_nothing(
    arm_artifact: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    message = refusal(arm_artifact, tmp_path / "bundle")
    kept = tmp_path / "cache/mobilenet-tvm/runtime" / VERSION / "aarch64/libtvm_runtime.so"
    assert f"TVM {VERSION} for aarch64 cannot be fetched" in message
    assert str(kept) in message
    assert not (tmp_path / "bundle").exists()
    assert not contents(tmp_path)


def test_a_bundle_for_opencl_runs_alone_and_needs_no_compiler(
    pocl: Pocl, packages: Path, tmp_path: Path
) -> None:
    artifact = write_add(tmp_path / "add.so", kind="opencl")
    folder = bundle(artifact, tmp_path / "made")
    assert "must have an OpenCL driver.\n" in (folder / "README.txt").read_text()
    for source in ("built", "rebuilt"):
        environment = pocl.environment() | {"XDG_CACHE_HOME": str(tmp_path / source)}
        if source == "built":
            # Only the linker, which PoCL starts itself.
            (tmp_path / "bin").mkdir()
            (tmp_path / "bin/ld").symlink_to(str(shutil.which("ld")))
            environment["PATH"] = str(tmp_path / "bin")
        else:
            (folder / "mobilenet_tvm/runtime/opencl/plug-in.so").unlink()
        finished = run_alone(packages, folder / "run.py", **environment)
        assert finished.returncode == 0, finished.stderr
        assert "output sum float32[1,4,16,16]: " in finished.stdout
        plugins = list((tmp_path / source).rglob("plug-in-*.so"))
        assert bool(plugins) == (source == "rebuilt")


@pytest.mark.full  # fetches TVM's runtime for the board, 95 MB, unless it is there
def test_a_bundle_for_an_opencl_board_has_what_the_board_builds_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    artifact = write_add(tmp_path / "add.so", "aarch64", kind="opencl")
    folder = bundle(artifact, tmp_path / "made")
    opencl = folder / "mobilenet_tvm/runtime/opencl"
    assert {path.suffix for path in opencl.iterdir()} == {".py", ".cc", ".h", ""}
    assert (opencl / "include/tvm/runtime/device_api.h").is_file()
    assert "apt install g++" in (folder / "README.txt").read_text()
    assert sum(path.stat().st_size for path in opencl.rglob("*")) < 300_000


def test_the_folder_of_an_opencl_board_measures_on_its_gpu(
    pocl: Pocl, packages: Path, tmp_path: Path
) -> None:
    folder = board_folder(architecture(), tmp_path / "board", "opencl")
    assert "must have an OpenCL driver" in (folder / "README.txt").read_text()
    environment = {"PATH": os.defpath, "PYTHONPATH": str(packages), **pocl.environment()}
    serve = [sys.executable, "-S", folder / "serve.py", "--port", "0"]
    with (
        running(serve, tmp_path / "log", env=environment) as server,
        Session.open(f"rpc://{server.address}") as session,
    ):
        assert session.gpu("opencl") == open_device("opencl").name
        with pytest.raises(BoardError, match="upgrade it"):
            session.gpu("metal")


@pytest.mark.skipif(architecture() != "x86_64", reason="CUDA's artifacts are for x86-64")
def test_a_bundle_for_cuda_has_its_runtime_and_says_what_the_device_lacks(
    packages: Path, tmp_path: Path
) -> None:
    options = {"alpha": 0.25, "resolution": 32, "classes": 3}
    artifact = compile_model("v1", "cuda", tmp_path / "v1.so", **options).path
    folder = bundle(artifact, tmp_path / "made")
    assert (folder / "mobilenet_tvm/runtime/libtvm_runtime_cuda.so").is_file()
    assert "pip install 'nvidia-cuda-runtime" in (folder / "README.txt").read_text()
    finished = run_alone(packages, folder / "run.py")
    assert finished.returncode == 1
    message = r"error: .*this machine has no lib(cuda|cudart)\.so\.\d+, which CUDA needs; .*\n"
    assert re.fullmatch(message, finished.stderr)
