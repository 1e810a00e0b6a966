"""Tests of emulated arm64 boards at a real tracker, from the folder that `bundle --board` makes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifacts import scale_and_add, write_add
from board import Board
from click.testing import CliRunner
from remote_boards import CLI, Server, running, wait_until, write_call

from mobilenet_tvm.compile.cli.main import cli
from mobilenet_tvm.runtime import connect
from mobilenet_tvm.runtime.remote.devices import list_boards
from mobilenet_tvm.runtime.remote.errors import BoardCrashed
from mobilenet_tvm.targets.errors import UserError

#: Of the folder for a board, with the runtime library's 3.6 MB.
MOST_BYTES = 5_000_000


@pytest.fixture(scope="module")
def served(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert board.runtime_library.exists()
    output = tmp_path_factory.mktemp("bundle") / "board"
    made = CliRunner().invoke(cli, ["bundle", "--board", "cortex-a72", "-o", str(output)])
    assert made.exit_code == 0, made.output
    return output


@pytest.fixture(scope="module")
def queue(board: Board, served: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a tracker with an emulated Cortex-A72 and a Cortex-A53."""
    folder = tmp_path_factory.mktemp("arm64")
    with running([*CLI, "tracker", "--port", "0"], folder / "tracker.log") as tracker:

        def emulated(cpu: str, key: str) -> Any:
            command = [board.python_wrapper(cpu), served / "serve.py", "--port", "0"]
            register = ["--name", cpu, "--tracker", tracker.address, "--key", key]
            env = {"PATH": os.defpath, "XDG_CACHE_HOME": str(folder)}
            return running([*command, *register], folder / f"{cpu}.log", env)

        with emulated("cortex-a72", "a72"), emulated("cortex-a53", "a53"):
            # They listen before they register.
            wait_until(lambda: len(list_boards(tracker.address)) == 2)
            yield tracker


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_add(tmp_path_factory.mktemp("arm64") / "add.so", "aarch64")


def test_a_boards_folder_is_small_and_replaces_only_its_like(served: Path, tmp_path: Path) -> None:
    sizes = [path.stat().st_size for path in served.rglob("*") if path.is_file()]
    assert sum(sizes) < MOST_BYTES
    again = CliRunner().invoke(cli, ["bundle", "--board", "rpi4", "-o", str(served)])
    assert again.exit_code == 0, again.output
    (tmp_path / "notes.txt").touch()
    refused = CliRunner().invoke(cli, ["bundle", "--board", "rpi4", "-o", str(tmp_path)])
    assert isinstance(refused.exception, UserError)


@pytest.mark.parametrize("options", [[], ["model.so", "--board", "rpi4"]])
def test_a_bundle_is_of_a_model_or_of_a_board(options: list[str], tmp_path: Path) -> None:
    refused = CliRunner().invoke(cli, ["bundle", *options, "-o", str(tmp_path / "made")])
    assert isinstance(refused.exception, UserError)
    assert "--board" in str(refused.exception)


def test_boards_tell_what_they_are(queue: Server) -> None:
    a53, a72 = list_boards(queue.address)
    assert (a53.info.name, a72.info.name) == ("cortex-a53", "cortex-a72")
    assert (a53.key, a72.key) == ("a53", "a72")
    for found in (a53, a72):
        assert found.info.architecture == "aarch64"
        assert found.info.features is not None
        assert {"asimd", "crc32"} <= found.info.features
        assert "asimddp" not in found.info.features
        assert found.info.cores > 0
        assert found.info.memory_bytes > 0


def test_a_cross_compiled_model_runs_on_both_boards_at_once(queue: Server, artifact: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, 4, 16, 16), np.float32)
    offset = rng.standard_normal((1, 4, 1, 1), np.float32)
    with (
        connect(f"tracker://{queue.address}/a72") as first,
        connect(f"tracker://{queue.address}/a53") as second,
    ):
        for session in (first, second):
            answers = session.load(artifact, threads=2)(image, offset)
            for name, expected in scale_and_add(image, offset).items():
                np.testing.assert_allclose(answers[name], expected, atol=1e-6)


def test_a_module_for_a_later_cpu_is_refused_before_it_runs(queue: Server, tmp_path: Path) -> None:
    path = write_add(tmp_path / "later.so", "aarch64", required_features=("asimd", "asimddp"))
    with (
        connect(f"tracker://{queue.address}/a72") as session,
        pytest.raises(UserError, match="needs asimddp, which the CPU of board cortex-a72 lacks"),
    ):
        session.load(path)


def test_a_module_that_crashes_ends_its_session_only(queue: Server, tmp_path: Path) -> None:
    library = write_call(tmp_path / "crash.so", "raise", 11, "arm64")
    with connect(f"tracker://{queue.address}/a72") as session:
        name = session.upload(library)
        with pytest.raises(BoardCrashed, match="SIGSEGV"):
            session.call("mobilenet_tvm.board.time", name, '[[[1], "float32"]]', 1, "llvm")
    with connect(f"tracker://{queue.address}/a72") as session:
        assert session.board.name == "cortex-a72"


def test_commands_reach_an_emulated_board(queue: Server, artifact: Path) -> None:
    device = ["--device", f"tracker://{queue.address}/a72"]
    bench = CliRunner().invoke(cli, ["bench", str(artifact), *device, "--rounds", "3"])
    assert bench.exit_code == 0, bench.output
    assert re.search(r"^board +cortex-a72 \(", bench.output, re.MULTILINE)
    devices = CliRunner().invoke(cli, ["devices", "--tracker", queue.address, "--check"])
    assert devices.exit_code == 0, devices.output
    assert devices.output.count("works") == 2
