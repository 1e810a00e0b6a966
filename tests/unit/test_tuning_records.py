"""What a run of the tuner keeps: every trial, and each layer's best in the log."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mobilenet_tvm.compile.logs.log import TuningLog
from mobilenet_tvm.compile.tuning.measure import Measurement
from mobilenet_tvm.compile.tuning.records import Records
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.workloads import GlobalPool, Pointwise, Step, Workload
from mobilenet_tvm.targets.presets import PRESETS

X86, AVX512 = PRESETS["x86"], PRESETS["x86-avx512"]
LAYERS: list[Workload] = [
    Pointwise(196, 96, 576, (Step("add_channel"), Step("clip", (0.0, 6.0)))),
    GlobalPool(1, 49, 96),
]
FIRST, SECOND = registry.decisions(LAYERS[0], X86)[:2]


def took(microseconds: float) -> Measurement:
    return Measurement(1e-6 * microseconds, 1e-6 * microseconds, 0.01, 100)


def records(folder: Path, threads: int = 1, device: str = "a CPU") -> Records:
    return Records(folder / "x86.jsonl", X86, threads, device)


def logged(folder: Path) -> dict[str, float]:
    log = TuningLog.read(folder / "x86.jsonl", X86)
    return {record.workload: record.microseconds for record in log.records}


def test_a_killed_run_leaves_its_trials_and_bests(tmp_path: Path) -> None:
    run = records(tmp_path)
    run.add(LAYERS[0], FIRST, took(9))
    run.add(LAYERS[0], SECOND, took(7))
    # Nothing more: the process was killed here.
    best = TuningLog.read(tmp_path / "x86.jsonl", X86).best(LAYERS[0])
    assert best is not None
    assert (best.microseconds, best.decision) == (7, vars(SECOND))
    assert records(tmp_path).known == {LAYERS[0]: [(FIRST, 9e-6), (SECOND, 7e-6)]}


def test_the_last_word_beats_a_lucky_time(tmp_path: Path) -> None:
    run = records(tmp_path)
    run.add(LAYERS[0], FIRST, took(5))
    run.settle()
    run = records(tmp_path)
    run.add(LAYERS[0], SECOND, took(6))
    run.add(LAYERS[1], registry.default(LAYERS[1], X86), took(1))
    run.settle({LAYERS[0]: (SECOND, took(8))})
    assert logged(tmp_path) == {str(LAYERS[0]): 8, str(LAYERS[1]): 1}


def test_other_layers_devices_and_threads_keep_their_records(tmp_path: Path) -> None:
    for number, run in enumerate((records(tmp_path, 2), records(tmp_path, device="another CPU"))):
        run.add(LAYERS[0], FIRST, took(3 + number))
        run.settle()
    run = records(tmp_path)
    run.add(LAYERS[1], registry.default(LAYERS[1], X86), took(1))
    run.settle()
    assert len(TuningLog.read(tmp_path / "x86.jsonl").records) == 3


@pytest.mark.parametrize(("threads", "device"), [(2, "a CPU"), (1, "another CPU")])
def test_trials_elsewhere_are_not_known_but_learnt_from(
    tmp_path: Path, threads: int, device: str
) -> None:
    records(tmp_path, threads, device).add(LAYERS[0], FIRST, took(3))
    run = records(tmp_path)
    assert run.known == {}
    assert (FIRST, 3e-6) in run.earlier[X86][LAYERS[0]]


def test_trials_for_another_target_are_learnt_from(tmp_path: Path) -> None:
    decision = registry.default(LAYERS[0], AVX512)
    other = Records(tmp_path / "x86-avx512.jsonl", AVX512, 1, "a CPU")
    other.add(LAYERS[0], decision, took(3))
    assert (decision, 3e-6) in records(tmp_path).earlier[AVX512][LAYERS[0]]


def test_shipped_trials_are_learnt_from(tmp_path: Path) -> None:
    run = records(tmp_path)
    assert run.known == {}
    assert {X86, AVX512} <= set(run.earlier)
    assert all(len(layers) > 50 for layers in run.earlier.values() if layers)


def test_a_torn_trial_is_skipped(tmp_path: Path) -> None:
    run = records(tmp_path)
    run.add(LAYERS[0], FIRST, took(3))
    trials = tmp_path / "x86.trials.jsonl"
    trials.write_text(trials.read_text()[:-40])
    again = records(tmp_path)
    assert again.known == {}
    assert len(again.trials.skipped) == 1


def test_a_board_leaves_its_name_and_what_it_is(tmp_path: Path) -> None:
    run = records(tmp_path, device="Pi 4")
    run.add(LAYERS[0], FIRST, replace(took(9), board="shelf-2", device="Pi 4"))
    run.add(LAYERS[0], SECOND, replace(took(7), board="shelf-3", device="Pi 5"))
    found = TuningLog.read(tmp_path / "x86.trials.jsonl", X86).records
    assert [(r.board, r.device) for r in found] == [("shelf-2", "Pi 4"), ("shelf-3", "Pi 5")]
    # Of boards that are alike all is known, whichever has measured it.
    assert records(tmp_path, device="Pi 4").known == {LAYERS[0]: [(FIRST, 9e-6)]}
