"""Static tuning: traces of machine code, caches, estimates and the records that come of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from log_files import workloads, write_log

from mobilenet_tvm.compile.analysis.assembly import functions
from mobilenet_tvm.compile.analysis.llvm_mca import cycles
from mobilenet_tvm.compile.logs.log import Record, TuningLog
from mobilenet_tvm.compile.tuning.static.caches import Caches
from mobilenet_tvm.compile.tuning.static.candidates import candidates
from mobilenet_tvm.compile.tuning.static.estimate import assembly, estimate
from mobilenet_tvm.compile.tuning.static.rank import MIN_GAIN, rank, records, require_model
from mobilenet_tvm.compile.tuning.static.statements import LINE_BYTES, UnknownInstructionError
from mobilenet_tvm.compile.tuning.static.trace import address_of, trace
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.cpu import pointwise
from mobilenet_tvm.schedules.workloads import (
    Block,
    Convolution,
    Depthwise,
    DepthwisePointwise,
    GlobalPool,
    Pointwise,
    Step,
    Window,
    Workload,
)
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.presets import PRESETS, get_target
from mobilenet_tvm.targets.target import Target

A72, A53, X86 = PRESETS["cortex-a72"], PRESETS["cortex-a53"], PRESETS["x86"]
RELU6 = (Step("add_channel"), Step("clip", (0.0, 6.0)))
LAYER = Pointwise(784, 32, 192, RELU6)
DEPTHWISE = Depthwise(1, 14, 14, 32, Window((3, 3), (1, 1), (1, 1, 1, 1)), RELU6)
HALVES = DepthwisePointwise(DEPTHWISE, 16, (Step("add_channel"),))
EXPANSION = Convolution(1, 14, 14, 8, 32, Window((1, 1), (1, 1), (0, 0, 0, 0)), False, RELU6)
STEM = Convolution(1, 32, 32, 3, 16, Window((3, 3), (2, 2), (1, 1, 1, 1)), True, RELU6)
needs_mca = pytest.mark.skipif(
    shutil.which("llvm-mca") is None, reason="llvm-mca is missing: apt-get install llvm"
)


def count_multiply_adds(workload: Workload, target: Target) -> tuple[int, int]:
    """Return how many a layer does, and how many of them in its most frequent path."""
    func = registry.build(workload, registry.default(workload, target), target)
    text = assembly(func.with_attr("global_symbol", "main"), target)
    name = "fmla" if target.architecture == "aarch64" else "vfmadd"
    counts = {
        path: (runs, sum(part.name.startswith(name) for part in path))
        for path, runs in trace(text, target.architecture, len(func.params)).items()
    }
    hot = max(counts.values(), key=lambda pair: pair[0] * pair[1])
    return sum(runs * each for runs, each in counts.values()), hot[0]


@pytest.mark.parametrize(
    ("target", "unrolled"),
    # For the in-order core LLVM joins two iterations of its own.
    [(A72, 1), (A53, 2), (X86, 1)],
    ids=["cortex-a72", "cortex-a53", "x86"],
)
def test_a_pointwise_trace_holds_every_multiply_add(target: Target, unrolled: int) -> None:
    decision = pointwise.SCHEDULE.default(LAYER, target)
    found, hot = count_multiply_adds(LAYER, target)
    assert found * target.lanes_of("float32") == LAYER.flops / 2
    tiles = LAYER.pixels // decision.tile_m * LAYER.outputs // decision.tile_n
    # The first and the last iteration belong to other paths.
    assert hot == tiles * (LAYER.inputs // decision.unroll_k // unrolled - 2)


@pytest.mark.parametrize("target", [A72, X86], ids=lambda target: target.name)
def test_a_depthwise_trace_leaves_out_the_border(target: Target) -> None:
    found, _ = count_multiply_adds(DEPTHWISE, target)
    # Of the three rows and columns around an output, the border has two.
    inside = (3 * 14 - 2) ** 2
    first_taps = 14 * 14
    products = found * target.lanes_of("float32") / DEPTHWISE.channels
    # LLVM makes a plain product of some first taps.
    assert inside - first_taps <= products <= 9 * 14 * 14


def test_an_unknown_instruction_is_named() -> None:
    text = "\t.type\tmain_compute_,@function\nmain_compute_:\n\tcrc32b\tw0, w0, w1\n\tret\n"
    with pytest.raises(UnknownInstructionError, match="crc32b"):
        trace(text, "aarch64")


def test_a_loop_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobilenet_tvm.compile.tuning.static.trace._MAX_BLOCKS", 100)
    text = "\t.type\tmain_compute_,@function\nmain_compute_:\n.LBB0_1:\n\tb\t.LBB0_1\n"
    with pytest.raises(UnknownInstructionError, match="does not terminate"):
        trace(text, "aarch64")


@pytest.mark.parametrize(
    ("body", "runs"),
    [
        (["mov\tw8, #5", "L:", "subs\tw8, w8, #1", "b.ne\t.LBB0_1"], 5),
        (["mov\tx8, #-64", "L:", "adds\tx8, x8, #16", "b.ne\t.LBB0_1"], 4),
        (["mov\tw8, wzr", "L:", "add\tw8, w8, #3", "cmp\tw8, #10", "b.lt\t.LBB0_1"], 4),
        (["mov\tx8, #-2", "L:", "add\tx8, x8, #1", "cmn\tx8, #1", "b.le\t.LBB0_1"], 2),
    ],
)
def test_arm_loops_end_where_they_should(body: list[str], runs: int) -> None:
    lines = [".LBB0_1:" if line == "L:" else f"\t{line}" for line in body]
    head = "\t.type\tmain_compute_,@function\nmain_compute_:\n"
    text = head + "\n".join([*lines, "\tret"]) + "\n"
    found = trace(text, "aarch64")
    assert sum(found.values()) == runs
    assert [block.repeats for block in functions(text)["main_compute_"]].count(True) == 1


def test_the_trace_tells_each_line_of_the_tensors() -> None:
    layer = Pointwise(16, 8, 16)
    func = registry.build(layer, registry.default(layer, A72), A72)
    lines: set[int] = set()
    text = assembly(func.with_attr("global_symbol", "main"), A72)
    trace(text, "aarch64", len(func.params), lines.update)
    for number, size in enumerate((16 * 8, 8 * 16, 16 * 16)):
        first = address_of(number) // LINE_BYTES
        assert lines >= set(range(first, first + 4 * size // LINE_BYTES))


def fetched(lines: Sequence[int], target: Target) -> tuple[int, int]:
    caches = Caches(target)
    caches.touch(lines)
    return caches.from_l2, caches.from_memory


def test_caches_keep_what_fits_and_lose_the_oldest() -> None:
    small = replace(A72, l1d_bytes=8 * LINE_BYTES, l2_bytes=32 * LINE_BYTES, l1d_ways=2, l2_ways=4)
    assert fetched([*range(8), *range(8)], small) == (8, 8)
    assert fetched([*range(16), *range(16)], small) == (32, 16)
    assert fetched([*range(64), *range(64)], small) == (128, 128)
    # Of three lines in one set of two, none is found again.
    assert fetched([0, 4, 8] * 3, small) == (9, 3)


@needs_mca
@pytest.mark.parametrize("target", [A72, A53, X86], ids=lambda target: target.name)
def test_regions_are_judged_one_by_one(target: Target) -> None:
    arm = target.architecture == "aarch64"
    chain = ["\tfadd\tv0.4s, v0.4s, v1.4s" if arm else "\tvaddps\t%xmm1, %xmm0, %xmm0"]
    one, ten, again = cycles([chain, chain * 10, chain], target)
    assert one == again
    assert 9 * one < ten < 11 * one


@needs_mca
def test_a_bad_tile_is_slower_than_a_good_one() -> None:
    good, bad = (
        pointwise.Decision(4, tile_m, tile_n, 4, 1) for tile_m, tile_n in ((4, 16), (1, 4))
    )
    slow, fast = (estimate(LAYER, decision, A72) for decision in (bad, good))
    assert slow.seconds > 2 * fast.seconds
    # The core starts two multiply-adds a cycle.
    assert fast.cycles >= LAYER.flops / 2 / 8


@needs_mca
@pytest.mark.parametrize("target", [A72, A53, X86], ids=lambda target: target.name)
@pytest.mark.parametrize(
    "workload",
    [LAYER, DEPTHWISE, HALVES, Block(EXPANSION, HALVES), STEM, GlobalPool(1, 49, 64)],
    ids=lambda workload: str(workload).partition(" ")[0],
)
def test_every_kind_of_layer_has_an_estimate(workload: Workload, target: Target) -> None:
    found = estimate(workload, registry.default(workload, target), target)
    assert found.seconds * 1e9 * target.clock_ghz >= found.cycles > 0


def test_candidates_start_with_the_default_and_are_different() -> None:
    found = candidates(LAYER, A72, 12)
    assert found[0] == registry.default(LAYER, A72)
    assert len(set(found)) == 12
    assert candidates(LAYER, A72, 1) == found[:1]
    # More tiles than one.
    assert len({(decision.tile_m, decision.tile_n) for decision in found}) > 1


@needs_mca
def test_only_what_is_clearly_better_takes_the_defaults_place(tmp_path: Path) -> None:
    ranked = rank({LAYER: 1, DEPTHWISE: 2}, A72, trials=12)
    for task in ranked.tasks:
        best = task.times[task.best].seconds
        assert task.best == 0 or best <= (1 - MIN_GAIN) * task.default.seconds
    by_layer = {task.workload: task for task in ranked.tasks}
    assert len(by_layer[LAYER].outcomes) == 11
    assert len(by_layer[DEPTHWISE].outcomes) == 1
    log = TuningLog(tmp_path / "cortex-a72.jsonl", A72)
    assert {r.workload for r in records(ranked, log, A72)} <= {str(LAYER)}
    # An old estimate gives way, were it only to the default.
    old = write_log(log.path, A72, {LAYER: candidates(LAYER, A72, 2)[1]}, source="static")
    (new,) = records(ranked, old, A72)
    assert (new.source, new.device, new.spread) == ("static", "cortex-a72", 0.0)


def test_a_measured_record_goes_before_an_estimate(tmp_path: Path) -> None:
    slow, fast = candidates(LAYER, A72, 2)
    log = write_log(tmp_path / "cortex-a72.jsonl", A72, {LAYER: slow})
    estimated = {"microseconds": 0.5, "spread": 0.0, "threads": 1, "device": A72.core}
    log.settle([Record.of(LAYER, fast, A72, source="static", **estimated)])
    best = log.best(LAYER)
    assert best is not None
    assert (best.source, best.decision) == ("measured", vars(slow))


def test_without_llvm_mca_it_says_what_to_install(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mobilenet_tvm.compile.cli.main", "tune", "--static"]
    arguments = ["--model", "v3-small", "--resolution", "32", "--target", "cortex-a72"]
    result = subprocess.run(
        [*command, *arguments, "--log", str(tmp_path / "log.jsonl")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": str(tmp_path)},
    )
    assert result.returncode == 1
    assert result.stderr == (
        "error: llvm-mca is missing, which counts cycles; apt-get install llvm\n"
    )
    assert not (tmp_path / "log.jsonl").exists()


def test_a_target_that_is_no_one_core_is_refused() -> None:
    with pytest.raises(UserError, match="static tuning supports x86, cortex-a53"):
        require_model(get_target("arm64"))


@needs_mca
@pytest.mark.full
def test_the_command_writes_a_log_that_can_be_used(tmp_path: Path) -> None:
    # An old estimate, in whose place the new one goes.
    layer = workloads("v3-small", A72, resolution=32)[-1]
    path = tmp_path / "cortex-a72.jsonl"
    write_log(path, A72, {layer: registry.default(layer, A72)}, source="static")
    command = [sys.executable, "-m", "mobilenet_tvm.compile.cli.main", "tune", "--static"]
    arguments = ["--model", "v3-small", "--resolution", "32", "--layers", str(layer)]
    options = ["--target", "cortex-a72", "--trials", "9", "--log", str(path), "--json"]
    result = subprocess.run(
        [*command, *arguments, *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["core"] == "cortex-a72"
    assert sum(row["trials"] for row in found["layers"]) <= 9
    assert found["replaced"] >= 1
    assert A72.core in {record.device for record in TuningLog.read(path, A72).records}
