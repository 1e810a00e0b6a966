"""Tuning for GPUs, by OpenCL on this machine's driver for CPUs, here and on a board."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from intel_opencl import IntelOpenCL
from networks import compiled
from remote_boards import SERVE, Server, running
from tvm import te, tirx

from mobilenet_tvm.compile.logs.log import TuningLog
from mobilenet_tvm.compile.tuning.local.runner import require_native
from mobilenet_tvm.compile.tuning.measure import place_of
from mobilenet_tvm.compile.tuning.tune import tune
from mobilenet_tvm.runtime.device import open_device
from mobilenet_tvm.runtime.measure import Measurement, Place
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.fallback import gpu as rules
from mobilenet_tvm.schedules.workloads import (
    Convolution,
    Depthwise,
    GlobalPool,
    Pointwise,
    Step,
    Window,
    Workload,
)
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.host import architecture
from mobilenet_tvm.targets.presets import get_target
from mobilenet_tvm.targets.target import Target

MALI = get_target("mali:x86")
BIAS = Step("add_channel")
POOL = GlobalPool(1, 49, 96)
LAYERS: dict[Workload, int] = {
    POOL: 1,
    Pointwise(49, 24, 40, (BIAS, Step("add"))): 2,
    Depthwise(1, 7, 7, 24, Window((3, 3), (2, 2), (0, 0, 1, 1)), (BIAS,)): 1,
    Convolution(1, 16, 16, 3, 16, Window((3, 3), (2, 2), (0, 0, 1, 1)), True, (BIAS,)): 1,
}
without_cuda = pytest.mark.skipif(
    Path("/proc/driver/nvidia").exists(), reason="this machine has an NVIDIA GPU"
)
COMMAND = [sys.executable, "-m", "mobilenet_tvm.compile.cli.main"]
SMALL = ["--model", "v1", "--alpha", "0.25", "--resolution", "32", "--classes", "3"]


def run(*arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.usefixtures("pocl")
def test_every_layer_gets_a_decision_that_is_no_slower_than_the_default() -> None:
    tuned = tune(LAYERS, MALI, trials=24)
    assert tuned.trials == 24
    for task in tuned.tasks:
        assert not task.failures
        assert task.default is not None
        assert task.times[task.best].seconds <= task.default.seconds


def on_the_host(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Return a function of the same parameters that binds no threads: the CPU writes."""
    shapes = [tuple(int(extent) for extent in p.ty.shape) for p in func.params]
    inputs = [te.placeholder(shape) for shape in shapes[:-1]]
    constant = te.compute(shapes[-1], lambda *_: tirx.const(0.25, "float32"), name="constant")
    return te.create_prim_func([*inputs, constant])


def unequal(func: tirx.PrimFunc) -> tirx.PrimFunc:
    return rules.apply(on_the_host(func), MALI).mod["main"]


@pytest.mark.usefixtures("pocl")
def test_broken_candidates_are_counted_and_the_others_measured() -> None:
    decisions = registry.decisions(POOL, MALI)
    breakages = dict(zip(decisions[1:], [unequal, on_the_host], strict=False))
    assert len(decisions) > len(breakages) + 1

    def build(workload: Workload, decision: Any, target: Target) -> tirx.PrimFunc:
        func = registry.build(workload, decision, target)
        return breakages[decision](func) if decision in breakages else func

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        tuned = tune({POOL: 1}, MALI, trials=len(decisions), build=build)
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    (task,) = tuned.tasks
    assert task.failures == {"wrong": 1, "crashed": 1}
    measured = [o for o in task.outcomes.values() if isinstance(o, Measurement)]
    assert len(measured) == len(decisions) - 2


def test_weights_are_cold_where_a_network_does_not_fit_the_caches() -> None:
    assert place_of(get_target("mali")) == Place("opencl", 2 << 20)
    assert place_of(get_target("cuda:sm_90")) == Place("cuda", 0)
    assert place_of(get_target("x86")) == Place("llvm", 0)


def test_a_gpu_that_is_not_there_is_one_line() -> None:
    other = get_target("mali" if architecture() == "x86_64" else "mali:x86")
    with pytest.raises(UserError, match=r"cannot run code for 'mali.*on a board by --device"):
        require_native(other)


@without_cuda
def test_a_machine_without_cuda_says_so_at_once() -> None:
    result = run("tune", "--target", "cuda", *SMALL)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch("error: .*CUDA.*; .*\n", result.stderr)


@pytest.mark.usefixtures("pocl")
def test_what_is_for_cpus_is_one_line() -> None:
    result = run("tune", "--target", "mali:x86", *SMALL, "--threads", "2")
    message = "--threads is for CPUs, and 'mali-x86' is a GPU; leave it out"
    assert (result.returncode, result.stderr) == (2, f"error: {message}\n")


@pytest.mark.usefixtures("pocl")
def test_a_tuned_log_is_used_and_reported(tmp_path: Path) -> None:
    log, library, page = tmp_path / "log.jsonl", tmp_path / "v1.so", tmp_path / "report.html"
    mali = ("--target", "mali:x86", *SMALL)
    tuned = run("tune", *mali, "--layers", "*conv2d*", "--trials", "12", "--log", log)
    assert tuned.returncode == 0, tuned.stderr
    records = TuningLog.read(log, MALI).records
    assert {record.device for record in records} == {open_device("opencl").name}
    assert "of peak" in tuned.stderr
    compiled = run("compile", *mali, "--tuning-log", log, "-o", library, "--json")
    assert compiled.returncode == 0, compiled.stderr
    assert json.loads(compiled.stdout)["tuned_layers"] == len(records)
    profile = run("profile", library, "--rounds", "3", "--json")
    (tmp_path / "profile.json").write_text(profile.stdout)
    report = run("report", "--log", log, "--profile", tmp_path / "profile.json", "-o", page)
    assert report.returncode == 0, report.stderr
    assert open_device("opencl").name in page.read_text()


def test_float16_is_tuned_here_and_on_a_board(intel: IntelOpenCL, tmp_path: Path) -> None:
    log, library, there = tmp_path / "log.jsonl", tmp_path / "v1.so", intel.environment()
    # Three random answers may all be close to each other.
    many = ("--model", "v1", "--alpha", "0.25", "--resolution", "32", "--classes", "100")
    given = ("--target", "mali:x86", "--dtype", "float16", *many)
    here = run("tune", *given, "--trials", "12", "--log", log, **there)
    assert here.returncode == 0, here.stderr
    assert "failed" not in here.stdout
    serve = [*SERVE, "--port", "0", "--name", "half-board"]
    with running(serve, tmp_path / "serve.log", env=os.environ | there) as server:
        device = ("--device", f"rpc://{server.address}")
        elsewhere = run("tune", *given, *device, "--trials", "20", "--log", log)
        assert elsewhere.returncode == 0, elsewhere.stderr
        assert "measured on half-board" in elsewhere.stdout
        assert "failed" not in elsewhere.stdout
        records = TuningLog.read(tmp_path / "log.trials.jsonl", MALI).records
        assert {(r.dtype, r.board) for r in records} == {
            ("float16", ""),
            ("float16", "half-board"),
        }
        compiled = run("compile", *given, "--tuning-log", log, "-o", library)
        assert compiled.returncode == 0, compiled.stderr
        verify = run("verify", library, *many, *device)
        assert verify.returncode == 0, verify.stdout


@pytest.fixture(scope="module")
def gpu_board(pocl: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    # Only for its environment.
    del pocl
    log = tmp_path_factory.mktemp("board") / "serve.log"
    with running([*SERVE, "--port", "0", "--name", "gpu-board"], log) as server:
        yield server


def test_a_board_measures_on_its_gpu(gpu_board: Server, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    device = f"rpc://{gpu_board.address}"
    given = ("--target", "mali:x86", *SMALL, "--device", device, "--log", log)
    result = run("tune", *given, "--layers", "*conv2d*", "--layers", "global*", "--trials", "8")
    assert result.returncode == 0, result.stderr
    assert "measured on gpu-board 8" in result.stdout
    records = TuningLog.read(log, MALI).records
    assert {(r.board, r.device) for r in records} == {("gpu-board", open_device("opencl").name)}


def test_a_board_runs_artifacts_on_its_gpu(gpu_board: Server) -> None:
    options = {"alpha": 0.25, "resolution": 32, "classes": 3}
    path = compiled("v1", "mali:x86", **options)
    device = ("--device", f"rpc://{gpu_board.address}")
    verify = run("verify", path, *SMALL, *device)
    assert verify.returncode == 0, verify.stderr
    bench = run("bench", path, *device, "--rounds", "3")
    assert "gpu-board" in bench.stdout
    profile = run("profile", path, *device, "--rounds", "3")
    assert profile.stdout.startswith("peak of the GPU of gpu-board: ")


@without_cuda
def test_a_board_without_such_a_gpu_says_so_at_once(gpu_board: Server) -> None:
    device = f"rpc://{gpu_board.address}"
    result = run("tune", "--target", "cuda", *SMALL, "--device", device)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch("error: board gpu-board: .*CUDA.*; .*\n", result.stderr)
