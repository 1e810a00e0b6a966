"""The command `tune`, as users call it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from io import StringIO
from pathlib import Path

import pytest

from mobilenet_tvm.compile import (
    ModelOptions,
    TuneOptions,
    TuneResult,
    plan_tuning,
    tune_models,
)
from mobilenet_tvm.compile.logs.log import TuningLog
from mobilenet_tvm.compile.tuning.layers import find_layers, select
from mobilenet_tvm.compile.tuning.measure import Failure, Measurement
from mobilenet_tvm.compile.tuning.space import Space
from mobilenet_tvm.compile.tuning.task import Task
from mobilenet_tvm.schedules.workloads import GlobalPool, Pointwise, Workload
from mobilenet_tvm.targets.errors import WrongUseError
from mobilenet_tvm.targets.presets import PRESETS, native

COMMAND = [sys.executable, "-m", "mobilenet_tvm.compile.cli.main", "tune", "--model", "v3-small"]
POOL, DENSE = GlobalPool(1, 49, 96), Pointwise(1, 96, 1000)
SMALL = ["--resolution", "32", "--alpha", "0.5"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_tune_prints_a_row_per_layer_and_progress_elsewhere() -> None:
    result = run(*SMALL, "--layers", "global_pool", "--trials", "4", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["trials"] == 4
    assert {row["workload"].split()[0] for row in found["layers"]} == {"global_pool"}
    assert found["best_seconds"] <= found["default_seconds"]
    status = Counter(row["status"] for row in found["layers"])
    assert status == {"tuned": 4, "untried": len(found["layers"]) - 4}
    assert "4/4 trials" in result.stderr
    assert "of peak" in result.stderr


@pytest.mark.full
def test_tune_prints_a_table_with_sums_and_shares() -> None:
    result = run(*SMALL, "--layers", "global_pool", "--trials", "2")
    assert result.returncode == 0, result.stderr
    head, *rows, sums, shares, log = result.stdout.splitlines()
    assert head.split()[:3] == ["calls", "default", "us"]
    assert sum(" not tried " in row for row in rows) == len(rows) - 2 > 0
    assert not any("failed" in row for row in rows)
    assert re.search(r"by default, .* tuned, in \d+ of \d+ calls$", sums)
    assert "building" in shares
    assert "measuring" in shares
    assert log.startswith("log: ")


@pytest.mark.full
def test_models_are_tuned_from_python_too(tmp_path: Path) -> None:
    small = ModelOptions(resolution=32, alpha=0.5)
    log = tmp_path / "log.jsonl"
    options = TuneOptions(trials=2, layers=["global_pool"], log=log, model_options=small)
    plan = plan_tuning("v3-small", "native", options)
    progress = StringIO()
    result = tune_models("v3-small", "native", options, progress)
    layers = {layer.workload for layer in plan.layers}
    assert {task.workload for task in result.tuned.tasks} == layers
    assert (result.tuned.trials, result.tuned.over, result.replaced) == (2, "", None)
    assert "2/2 trials" in progress.getvalue()
    assert len(result.log.records) == len(TuningLog.read(log).records) == 2


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        ({}, "untried"),
        ({0: Failure("build", "no")}, "failed"),
        ({0: Failure("hung", "no"), 1: Measurement(1.0, 1.0, 0.0, 3)}, "failed"),
        ({0: Measurement(1.0, 1.0, 0.0, 3), 1: Failure("wrong", "no")}, "tuned"),
    ],
)
def test_a_layer_is_failed_only_if_its_default_was_tried(
    outcomes: dict[int, Measurement | Failure], status: str
) -> None:
    task = Task(Space(POOL, PRESETS["x86"]), 1)
    task.outcomes = outcomes
    assert TuneResult.status(task) == status


def test_a_dry_run_measures_nothing_and_tells_the_spaces() -> None:
    result = run(*SMALL, "--dry-run", "--json")
    found = json.loads(result.stdout)
    assert result.stderr == ""
    assert all(row["decisions"] > 0 for row in found["layers"])
    assert found["seconds_at_most"] > 0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--layers", "conv9d"], 2, "no layer's name contains 'conv9d'"),
        (["--trials", "0"], 2, "--trials"),
        (["--target", "toaster"], 2, "unknown target 'toaster'"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], status: int, message: str) -> None:
    result = run(*SMALL, *arguments)
    assert result.returncode == status
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_leaves_no_process(number: int, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, *SMALL, "--trials", "10000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stderr is not None
    assert "trials" in process.stderr.readline()
    # As a terminal does: the whole process group gets it.
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.splitlines()[-1] == "error: interrupted"
    assert "Traceback" not in errors
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert not list(tmp_path.glob("mobilenet-tvm-*"))


@pytest.mark.full
def test_a_killed_run_loses_nothing_and_the_next_goes_on(tmp_path: Path) -> None:
    log, trials = tmp_path / "log.jsonl", tmp_path / "log.trials.jsonl"
    process = subprocess.Popen(
        [*COMMAND, *SMALL, "--trials", "10000", "--log", str(log)],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    while not trials.exists() or trials.read_text().count("\n") < 12:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    measured = TuningLog.read(trials)
    assert len(measured.records) >= 12
    assert not measured.skipped
    for record in measured.records:
        best = TuningLog.read(log).best(record.workload)
        assert best is not None
        assert best.microseconds <= record.microseconds
    plan = json.loads(run(*SMALL, "--dry-run", "--json", "--log", str(log)).stdout)
    assert sum(row["known"] for row in plan["layers"]) == len(measured.records)
    again = run(*SMALL, "--trials", "5", "--log", str(log))
    assert again.returncode == 0, again.stderr


@pytest.mark.full
def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run(*SMALL, "--layers", "global_pool", "--log", str(tmp_path / "file" / "log.jsonl"))
    assert result.returncode == 1
    assert "cannot be written" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.full
def test_compile_uses_what_was_tuned(tmp_path: Path) -> None:
    log, output = tmp_path / "log.jsonl", tmp_path / "small.so"
    tuned = run(*SMALL, "--layers", "global_pool", "--trials", "6", "--log", str(log))
    assert f"log: {log}, " in tuned.stdout
    command = [*COMMAND[:3], "compile", "--target", "native", *COMMAND[4:], *SMALL]
    compiled = subprocess.run(
        [*command, "--tuning-log", str(log), "-o", str(output), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(compiled.stdout)
    assert 0 < found["tuned_layers"] < found["layers"]


def test_layers_of_several_models_are_counted_together() -> None:
    options = ModelOptions(resolution=32, alpha=0.5)
    once = find_layers(["v1"], native(), options)
    assert find_layers(["v1", "v1"], native(), options) == Counter(
        {layer: 2 * count for layer, count in once.items()}
    )


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        ([], [POOL, DENSE]),
        (["pool"], [POOL]),
        (["1x*x1000", "pool"], [POOL, DENSE]),
        (["pointwise 1x96"], [DENSE]),
    ],
)
def test_patterns_choose_layers(patterns: list[str], chosen: list[Workload]) -> None:
    assert list(select(Counter({POOL: 1, DENSE: 2}), patterns)) == chosen


def test_a_pattern_without_layers_is_refused() -> None:
    with pytest.raises(WrongUseError, match="one is 'global_pool 1x49x96'"):
        select(Counter({POOL: 1}), ["conv"])
