"""The tuning logs that ship: every line is of use, and the named models are covered."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobilenet_tvm.compile.logs.log import TuningLog, shipped_log
from mobilenet_tvm.compile.models.source import ModelOptions
from mobilenet_tvm.compile.tuning.layers import find_layers
from mobilenet_tvm.targets.presets import PRESETS

FILES = sorted(shipped_log(PRESETS["x86"]).parent.glob("*.jsonl"))
LOGS = [path for path in FILES if not path.name.endswith(".trials.jsonl")]
TRIALS = [path for path in FILES if path not in LOGS]


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_every_line_can_be_used_and_is_in_order(path: Path, tmp_path: Path) -> None:
    target = PRESETS[path.stem]
    log = TuningLog.read(path, target)
    assert log.records
    assert not log.skipped
    copy = tmp_path / path.name
    copy.write_text(path.read_text())
    assert not TuningLog(copy, target).prune()
    assert copy.read_text() == path.read_text()


@pytest.mark.parametrize("path", TRIALS, ids=lambda path: path.stem)
def test_every_trial_can_be_used(path: Path) -> None:
    trials = TuningLog.read(path, PRESETS[path.name.partition(".")[0]])
    assert len(trials.records) > 500
    assert not trials.skipped


@pytest.mark.parametrize("target", ["x86", pytest.param("x86-avx512", marks=pytest.mark.full)])
@pytest.mark.parametrize("model", ["v1", "v2", "v3-large", "v3-small"])
def test_named_models_are_tuned(model: str, target: str) -> None:
    machine = PRESETS[target]
    log = TuningLog.read(shipped_log(machine), machine)
    for workload in find_layers([model], machine, ModelOptions()):
        record = log.best(workload)
        assert record is not None, workload
        assert record.source == "measured"


@pytest.mark.full
@pytest.mark.parametrize("options", [{"alpha": 0.5}, {"resolution": 192}, {"resolution": 160}])
def test_other_sizes_of_v2_are_tuned(options: dict[str, float]) -> None:
    machine = PRESETS["x86"]
    log = TuningLog.read(shipped_log(machine), machine)
    layers = find_layers(["v2"], machine, ModelOptions(**options))  # type: ignore[arg-type]
    assert all(log.best(workload) for workload in layers)
