"""Tuning by emulation: estimates, what goes into logs, and candidates that are really counted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from arm_emulator import Emulator as CountingBoard
from command_line import run
from log_files import workloads, write_log

from mobilenet_tvm.compile import TuneOptions, tune_models
from mobilenet_tvm.compile.logs.log import Record, TuningLog
from mobilenet_tvm.compile.tuning.emulated import emulator as emulators
from mobilenet_tvm.compile.tuning.emulated import ports, program
from mobilenet_tvm.compile.tuning.emulated.counts import Block, Counts, count
from mobilenet_tvm.compile.tuning.emulated.emulator import Emulator, EmulatorError
from mobilenet_tvm.compile.tuning.emulated.judge import seconds
from mobilenet_tvm.compile.tuning.emulated.program import arguments, compile_program, restored
from mobilenet_tvm.compile.tuning.emulated.results import MIN_GAIN, device_name, replaced, settle
from mobilenet_tvm.compile.tuning.measure import Measurement
from mobilenet_tvm.compile.tuning.space import Space
from mobilenet_tvm.compile.tuning.task import Task
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.cpu import pointwise
from mobilenet_tvm.schedules.workloads import Block as FusedBlock
from mobilenet_tvm.schedules.workloads import (
    Convolution,
    Depthwise,
    DepthwisePointwise,
    GlobalPool,
    Pointwise,
    Step,
    Window,
    Workload,
    parse,
)
from mobilenet_tvm.targets.errors import UserError, WrongUseError
from mobilenet_tvm.targets.presets import PRESETS
from mobilenet_tvm.targets.target import Target

A72, A55, A76 = PRESETS["cortex-a72"], PRESETS["cortex-a55"], PRESETS["cortex-a76"]
RELU6 = (Step("add_channel"), Step("clip", (0.0, 6.0)))
LAYER = Pointwise(196, 32, 48, RELU6)
DEPTHWISE = Depthwise(1, 14, 14, 32, Window((3, 3), (1, 1), (1, 1, 1, 1)), RELU6)
HALVES = DepthwisePointwise(DEPTHWISE, 16, (Step("add_channel"),))
EXPANSION = Convolution(1, 14, 14, 8, 32, Window((1, 1), (1, 1), (0, 0, 0, 0)), False, RELU6)
STEM = Convolution(1, 32, 32, 3, 16, Window((3, 3), (2, 2), (1, 1, 1, 1)), True, RELU6)
SMALL = ("--model", "v3-small", "--resolution", "32", "--target", "cortex-a72")

FMLA, LDR_Q, ADD = 0x4FA21020, 0x3DC00420, 0x91000420


def counted(workload: Workload, decision: Decision, target: Target, folder: Path) -> Counts:
    """Compile a candidate and count it."""
    path = folder / "candidate"
    compiled = compile_program(registry.build, workload, decision, target, str(path))
    sections = Emulator().run([path, *arguments(compiled.parameters)], target, folder)
    return count(restored(sections[1], path), target.preset)


def test_a_core_that_reorders_overlaps_its_ports_and_caches() -> None:
    found = count([Block(0, 1000, 0, 0, (FMLA, FMLA, LDR_Q, ADD))], "cortex-a72")
    # 2 V, 1 L, half an I, and four instructions of three a cycle.
    cycles = 1000 * (2**2 + 1**2 + 0.5**2 + (4 / 3) ** 2) ** 0.5
    assert seconds(found, replace(A72, clock_ghz=1.0)) == pytest.approx(1e-9 * cycles)
    # Three cycles for each line of the second-level cache.
    found.l2_bytes, three = 1000 * 64, replace(A72, clock_ghz=1.0, l2_bytes_per_cycle=64 / 3)
    assert seconds(found, three) == pytest.approx(1e-9 * (cycles**2 + 3000**2) ** 0.5)


def test_a_core_in_order_waits_for_its_caches() -> None:
    found = count([Block(0, 1000, 100, 10, (FMLA, FMLA, LDR_Q, ADD))], "cortex-a55")
    # A multiply-add a cycle, and two for the load.
    expected = 4000 + 6400 / A55.l2_bytes_per_cycle + 640 * A55.clock_ghz / A55.memory_gb_per_s
    assert seconds(found, A55) == pytest.approx(1e-9 * expected / A55.clock_ghz)


def test_data_is_in_the_caches_and_weights_are_not() -> None:
    parameters = [
        ("data", (196, 32), "float32"),
        ("weight", (12, 32, 4), "int8"),
        ("add_channel_0", (48,), "int32"),
        ("add_1", (196, 48), "uint8"),
        ("result", (196, 48), "float16"),
    ]
    assert arguments(parameters) == [
        "+2,32,196,32",
        "0,8,12,32,4",
        "0,32,48",
        "+1,8,196,48",
        "+2,16,196,48",
    ]


def task_of(times: Sequence[float]) -> Task:
    task = Task(Space(LAYER, A72), 1)
    task.outcomes = {n: Measurement(s, s, 0.0, 1) for n, s in enumerate(times)}
    return task


def estimates_of(task: Task) -> dict[Workload, dict[Decision, Measurement]]:
    return {LAYER: {task.space.decisions[number]: time for number, time in task.times.items()}}


def test_only_what_is_clearly_better_takes_the_defaults_place(tmp_path: Path) -> None:
    log = TuningLog(tmp_path / "cortex-a72.jsonl", A72)
    better, hardly = task_of([1.0, 0.999 - MIN_GAIN]), task_of([1.0, 1.001 - MIN_GAIN])
    for task in (better, hardly):
        settle(task)
    assert (better.best, hardly.best) == (1, 0)
    assert replaced(estimates_of(better), log, A72) == {
        LAYER: (better.space.decisions[1], better.outcomes[1])
    }
    assert replaced(estimates_of(hardly), log, A72) == {}
    # An old estimate gives way, were it only to the default.
    old = write_log(log.path, A72, {LAYER: hardly.space.decisions[1]}, source="emulated")
    assert replaced(estimates_of(hardly), old, A72) == {
        LAYER: (hardly.space.decisions[0], hardly.outcomes[0])
    }
    # A run that was interrupted before the default knows nothing.
    assert replaced({LAYER: {better.space.decisions[1]: better.outcomes[1]}}, old, A72) == {}


def test_a_measured_record_goes_before_an_estimate(tmp_path: Path) -> None:
    slow, fast = registry.decisions(LAYER, A72)[:2]
    log = write_log(tmp_path / "cortex-a72.jsonl", A72, {LAYER: slow})
    estimated = {"microseconds": 0.5, "spread": 0.0, "threads": 1, "device": device_name(A72)}
    log.settle([Record.of(LAYER, fast, A72, source="emulated", **estimated)])
    best = log.best(LAYER)
    assert best is not None
    assert (best.source, best.decision) == ("measured", vars(slow))


def test_what_cannot_be_emulated_is_refused() -> None:
    options = TuneOptions(device="emulated")
    with pytest.raises(
        UserError, match="'arm64' is no core that can be emulated; choose from: cor"
    ):
        tune_models("v3-small", "arm64", options)
    with pytest.raises(WrongUseError, match="one thread is emulated; leave --threads out"):
        tune_models("v3-small", "rpi4", replace(options, threads=2))


def test_without_apt_it_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    log = tmp_path / "log.jsonl"
    status, _, error = run(capfd, "tune", "--device", "emulated", *SMALL, "--log", log)
    assert status == 1
    assert error.splitlines()[-1] == ("error: dpkg is missing: this needs Linux with apt and dpkg")
    assert not log.exists()


def test_c_that_cannot_be_compiled_is_a_line(tmp_path: Path) -> None:
    source = tmp_path / "broken.c"
    source.write_text("int broken(")
    with pytest.raises(UserError, match=r"ziglang cc .* failed"):
        emulators.compile_c(["-c", "-o", tmp_path / "broken.o", source])


@pytest.mark.usefixtures("counting_board")
@pytest.mark.parametrize("target", [A72, A55, A76], ids=lambda target: target.name)
@pytest.mark.parametrize(
    "workload",
    [
        LAYER,
        DEPTHWISE,
        HALVES,
        FusedBlock(EXPANSION, HALVES),
        STEM,
        GlobalPool(1, 49, 64),
        parse("pointwise 49x64x96 int8 add_channel requantize"),
        parse("depthwise 1x14x14x32 k3x3 s1x1 p1,1,1,1 int8 add_channel requantize"),
    ],
    ids=lambda workload: str(workload).partition(" add")[0],
)
def test_every_kind_of_layer_is_counted(workload: Workload, target: Target, tmp_path: Path) -> None:
    found = counted(workload, registry.default(workload, target), target, tmp_path)
    # The border of a depthwise layer is left out.
    macs = 0.8 * workload.flops / 2
    # SDOT multiplies 16 pairs, SMULL 8, FMLA 4.
    most = 16 if workload.types.integer else 4
    assert macs / most <= found.classes["vector arithmetic"] < macs
    assert found.cycles > 0
    assert seconds(found, target) > 0


@pytest.mark.usefixtures("counting_board")
def test_counts_are_those_of_the_code_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decision = registry.default(DEPTHWISE, A72)
    quick = counted(DEPTHWISE, decision, A72, tmp_path)
    monkeypatch.setattr(program, "_FLOAT", None)
    whole = counted(DEPTHWISE, decision, A72, tmp_path)
    assert (quick.classes, quick.l2_bytes) == (whole.classes, whole.l2_bytes)
    # qemu may cut blocks elsewhere.
    assert seconds(quick, A72) == pytest.approx(seconds(whole, A72), rel=0.01)


def test_sums_that_go_on_wait_for_each_other() -> None:
    other = FMLA + 1  # to another register
    load = LDR_Q  # of the first one
    assert ports.chain("cortex-a72", [FMLA, FMLA, other]) == 6
    assert ports.chain("cortex-a76", [FMLA, other, FMLA, other]) == 4
    assert ports.chain("cortex-a72", [load, FMLA, FMLA, other]) == 3
    assert ports.chain("cortex-a72", [load, ADD]) == 0
    found = count([Block(0, 1000, 0, 0, (FMLA, FMLA, FMLA))], "cortex-a72")
    assert seconds(found, replace(A72, clock_ghz=1.0)) == pytest.approx(1e-9 * 9000)


@pytest.mark.usefixtures("counting_board")
def test_a_bad_tile_is_slower_than_a_good_one(tmp_path: Path) -> None:
    # One sum at a time, in a loop over the inputs, which waits for each multiply-add.
    layer = Pointwise(16, 256, 48, RELU6)
    bad, good = (
        seconds(counted(layer, pointwise.Decision(4, m, n, 4, 1), A72, tmp_path), A72)
        for m, n in ((1, 4), (4, 16))
    )
    assert bad > 2 * good


def test_a_program_that_fails_is_a_line_that_says_why(
    counting_board: CountingBoard, tmp_path: Path
) -> None:
    path = tmp_path / "candidate"
    compile_program(registry.build, LAYER, registry.default(LAYER, A72), A72, str(path))
    with pytest.raises(EmulatorError, match="emulated cortex-a72: exit status 2"):
        counting_board.counting.run([path], A72, tmp_path)
    with pytest.raises(EmulatorError, match=r"emulated cortex-a72: not done in 0\.001 s"):
        counting_board.counting.run([path], A72, tmp_path, timeout=0.001)


@pytest.mark.usefixtures("counting_board")
def test_the_command_writes_a_log_and_goes_on_where_it_ended(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # An old estimate, in whose place the new one goes.
    layer = workloads("v3-small", A72, resolution=32)[-1]
    path = tmp_path / "cortex-a72.jsonl"
    old = registry.decisions(layer, A72)[-1]
    write_log(path, A72, {layer: old}, source="emulated")
    command = ("tune", "--device", "emulated", *SMALL, "--layers", layer, "--log", path, "--json")
    for trials, known in ((4, 0), (6, 4)):
        status, output, error = run(capfd, *command, "--trials", trials)
        assert status == 0, error
        found = json.loads(output)
        assert (found["core"], found["trials"]) == ("cortex-a72", trials)
        (row,) = found["layers"]
        assert row["default"]["seconds"] >= row["best"]["seconds"] > 0
        kept = TuningLog.read(tmp_path / "cortex-a72.trials.jsonl", A72).records
        assert {record.source for record in kept} == {"emulated"}
        assert len({json.dumps(record.decision) for record in kept}) > known
    assert device_name(A72) in {record.device for record in TuningLog.read(path, A72).records}
