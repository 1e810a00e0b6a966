"""The command `tune` with boards, as users call it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from farm_parts import ServedBoard, Tracker
from remote_boards import wait_until

from mobilenet_tvm.compile.logs.log import TuningLog

COMMAND = [sys.executable, "-m", "mobilenet_tvm.compile.cli.main", "tune", "--model", "v3-small"]
NAMES = ("one", "two")

pytestmark = pytest.mark.full
SMALL = ["--resolution", "32", "--alpha", "0.5"]


@pytest.fixture(scope="module")
def tracker() -> Iterator[Tracker]:
    part = Tracker()
    yield part
    part.end()


@pytest.fixture(scope="module")
def device(tracker: Tracker) -> Iterator[str]:
    boards = [ServedBoard(tracker, "x86", name, core=core) for core, name in enumerate(NAMES)]
    tracker.wait_for("x86", 2)
    yield tracker.address("x86")
    for board in boards:
        board.end()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *SMALL, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_log_tells_which_board_has_measured_what(device: str, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    result = run("--device", device, "--layers", "global_pool", "--trials", "6", "--log", str(log))
    assert result.returncode == 0, result.stderr
    assert "measured on " in result.stdout
    assert f"log: {log}, " in result.stdout
    records = TuningLog.read(tmp_path / "log.trials.jsonl").records
    assert {record.board for record in records} <= set(NAMES)
    again = run("--device", device, "--layers", "global_pool", "--dry-run", "--json")
    assert again.returncode == 0, again.stderr
    dry = run("--device", device, "--dry-run", "--json", "--log", str(log))
    known = sum(row["known"] for row in json.loads(dry.stdout)["layers"])
    assert known == len({(r.workload, tuple(r.decision.items())) for r in records})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_ends_early_loses_nothing_and_frees_its_boards(
    number: int, device: str, tracker: Tracker, tmp_path: Path
) -> None:
    log, trials = tmp_path / "log.jsonl", tmp_path / "log.trials.jsonl"
    process = subprocess.Popen(
        [*COMMAND, *SMALL, "--trials", "10000", "--log", str(log), "--device", device],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    wait_until(lambda: trials.exists() and trials.read_text().count("\n") >= 12, 60)
    wait_until(lambda: tracker.state("x86") == (2, 0), 60)
    os.kill(process.pid, number) if number == signal.SIGKILL else os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=30)
    if number == signal.SIGINT:
        assert errors.splitlines()[-1] == "error: interrupted"
        assert "Traceback" not in errors
    tracker.wait_for("x86", 2)
    measured = TuningLog.read(trials)
    assert len(measured.records) >= 12
    assert not measured.skipped
    for record in measured.records:
        best = TuningLog.read(log).best(record.workload)
        assert best is not None
        assert best.microseconds <= record.microseconds


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--device", "tracker://127.0.0.1:1/x86"], 1, "no tracker answers"),
        (["--device", "tracker://HERE/other"], 1, "no board at"),
        (["--device", "board"], 2, "unknown address 'board'"),
        (["--device", "tracker://HERE/x86", "--target", "OTHER"], 1, "cannot run code for"),
        (["--boards", "0"], 2, "--boards"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: list[str], status: int, message: str, device: str
) -> None:
    here = device.removeprefix("tracker://").partition("/")[0]
    other = "cortex-a72" if os.uname().machine == "x86_64" else "x86"
    given = [text.replace("HERE", here).replace("OTHER", other) for text in arguments]
    result = run(*given)
    assert result.returncode == status
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
