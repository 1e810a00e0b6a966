"""The command line: results on standard output, one line per error, the right exit status."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import odd_models as odd
import onnx
import pytest
from command_line import run
from log_files import workloads, write_log

import mobilenet_tvm.compile as api
from mobilenet_tvm.compile.cli.main import main
from mobilenet_tvm.compile.logs.log import user_log
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.targets.host import core_count
from mobilenet_tvm.targets.presets import PRESETS

X86 = PRESETS["x86"]
SMALL = ["--model", "v3-small", "--alpha", "0.35", "--resolution", "32"]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "model.so"
    with pytest.raises(SystemExit) as exit_:
        main(["compile", "--target", "x86", *SMALL, "-o", str(path)])
    assert exit_.value.code == 0
    return path


def test_compile_writes_where_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status, output, error = run(capfd, "compile", "--target", "rpi4", *SMALL)
    assert status == 0
    assert [path.name for path in (tmp_path / "build").iterdir()] == [
        "mobilenet_v3_small_0.35_32-cortex-a72.so"
    ]
    assert "wrote    build/mobilenet_v3_small_0.35_32-cortex-a72.so" in output
    assert error.startswith("warning: the weights are random (seed 0)")


def test_compile_prints_one_json_object(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output_file = tmp_path / "m.so"
    status, output, _ = run(
        capfd, "compile", "--target", "x86", *SMALL, "-o", output_file, "--json", "--batch", 2
    )
    result: dict[str, Any] = json.loads(output)
    assert status == 0
    assert result["file"] == str(output_file)
    assert result["size_bytes"] == output_file.stat().st_size
    assert result["inputs"] == [{"name": "input", "shape": [2, 3, 32, 32], "dtype": "float32"}]
    assert result["weights"] == "random (seed 0)"


def test_dump_shows_the_network_after_each_phase(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = ["-o", tmp_path / "m.so", "--dump", tmp_path / "dump", "--tuning-log", "none"]
    status, output, _ = run(capfd, "compile", "--target", "x86", *SMALL, *files)
    phases = {path.stem: path.read_text() for path in sorted((tmp_path / "dump").iterdir())}
    assert status == 0
    names = "1-imported 2-graph 3-layers 4-fused 5-scheduled 6-planned"
    assert list(phases) == names.split()
    assert "R.nn.batch_norm" in phases["1-imported"]
    assert "R.nn.batch_norm" not in phases["2-graph"]
    assert "R.call_dps_packed" in phases["3-layers"]
    assert "T.vectorized" in phases["5-scheduled"]
    assert re.search(r"layers   \d+ in \d+ functions\ntuned    0 of \d+ layers", output)
    assert re.search(r"memory   \d+\.\d MB between layers, \d+\.\d MB moved", output)


def test_the_same_model_compiles_to_the_same_file(
    artifact: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(capfd, "compile", "--target", "x86", *SMALL, "-o", tmp_path / "again.so")
    assert (tmp_path / "again.so").read_bytes() == artifact.read_bytes()


def test_verify_knows_what_a_named_model_was_compiled_from(
    artifact: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, output, error = run(capfd, "verify", artifact, "--inputs", 2)
    assert (status, error) == (0, "")
    assert "equals ONNX Runtime" in output


def test_verify_notices_other_weights(artifact: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, output, error = run(capfd, "verify", artifact, "--seed", 1, "--json")
    assert status == 1
    assert json.loads(output)["agrees"] is False
    assert "compiled from weights 'random (seed 0)', compared with 'random (seed 1)'" in error


def test_verify_takes_the_shapes_of_the_artifact(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    onnx.save(odd.tiny_v2(batch="N"), tmp_path / "m.onnx")
    file, model = tmp_path / "m.so", tmp_path / "m.onnx"
    run(capfd, "compile", "--target", "x86", "--model", model, "--batch", 3, "-o", file)
    status, _, _ = run(capfd, "verify", file, "--model", model)
    assert status == 0
    status, _, error = run(capfd, "verify", file)
    assert status == 2
    assert error == "error: m was compiled from a file; give it with --model\n"


def test_bench_prints_percentiles(artifact: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, output, _ = run(capfd, "bench", artifact, "--rounds", 20, "--threads", 1, "--json")
    result = json.loads(output)
    assert status == 0
    assert (result["rounds"], result["threads"]) == (20, 1)
    assert 0 < result["minimum_ms"] <= result["median_ms"] <= result["p90_ms"] <= result["p99_ms"]


def test_bench_compares_numbers_of_threads(
    artifact: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    counts = [1, 2] if core_count() > 1 else [1]
    given = ",".join(map(str, [*counts, 256, 1]))
    status, output, _ = run(capfd, "bench", artifact, "--rounds", 5, "--threads", given, "--json")
    assert status == 0
    runs = json.loads(output)["runs"]
    assert [one["threads"] for one in runs] == sorted({*counts, min(256, core_count())})
    status, output, _ = run(capfd, "bench", artifact, "--rounds", 5, "--threads", given)
    assert [line.split()[0] for line in output.splitlines()[3:]] == [
        str(r["threads"]) for r in runs
    ]


@pytest.mark.parametrize("threads", ["0", "1,", "1,x", "257", "1,2.5"])
def test_bench_refuses_other_numbers_of_threads(
    artifact: Path, threads: str, capfd: pytest.CaptureFixture[str]
) -> None:
    status, _, error = run(capfd, "bench", artifact, "--threads", threads)
    assert status == 2
    assert "Invalid value for '--threads'" in error


def test_profile_names_each_layer(artifact: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, output, _ = run(capfd, "profile", artifact, "--rounds", 5, "--threads", 1, "--json")
    result = json.loads(output)
    assert status == 0
    assert result["peak"]["gflops"] > 1
    workloads = [row["workload"] for row in result["calls"]]
    assert workloads[0].startswith("conv2d 1x32x32x3->8 k3x3 s2x2 p1,1,1,1 nchw add_channel")
    assert all(row["microseconds"] > 0 for row in result["calls"])
    assert sum(row["flops"] > 0 for row in result["calls"]) >= 50
    status, output, _ = run(capfd, "profile", artifact, "--rounds", 5, "--threads", 1)
    assert f"{len(workloads)} calls" in output


def test_bundle_lists_what_it_wrote(
    artifact: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    status, output, _ = run(capfd, "bundle", artifact, "-o", tmp_path / "b", "--json")
    files = json.loads(output)["files"]
    assert status == 0
    assert files == {
        str(path.relative_to(tmp_path / "b")): path.stat().st_size
        for path in (tmp_path / "b").rglob("*")
        if path.is_file()
    }


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Write a log of all layers of SMALL, and two lines that are of no use."""
    layers = workloads("v3-small", X86, alpha=0.35, resolution=32)
    decisions = {workload: registry.default(workload, X86) for workload in layers}
    log = write_log(tmp_path / "mine.jsonl", X86, decisions)
    newer = log.records[0].to_json().replace('"format": 1', '"format": 2')
    with log.path.open("a") as file:
        file.write(f"{newer}\n{{torn")
    return log.path


def test_compile_and_profile_say_what_is_tuned(
    log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.so"
    command = ["compile", "--target", "x86", *SMALL, "-o", file]
    status, output, error = run(capfd, *command, "--tuning-log", log)
    assert status == 0
    tuned = re.search(r"^tuned    (\d+) of (\d+) layers$", output, re.MULTILINE)
    assert tuned is not None
    assert int(tuned[1]) == int(tuned[2]) > 50
    assert re.search(
        rf"^warning: {log}: skipped 2 of \d+ lines \(newer format: 1, torn: 1\); ", error, re.M
    )
    _, output, _ = run(capfd, "profile", file, "--rounds", 2, "--threads", 1, "--json")
    layers = [row for row in json.loads(output)["calls"] if row["source"]]
    assert {(row["tuned"], row["source"]) for row in layers} == {(True, "measured")}
    _, output, _ = run(capfd, "profile", file, "--rounds", 2, "--threads", 1)
    assert re.search(r" measured  Conv_0 +conv2d 1x32x32x3->8 k3x3 ", output)


@pytest.mark.full
def test_compile_says_which_decisions_are_estimates(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["compile", "--target", "cortex-a55", "--model", "v2", "-o", tmp_path / "m.so"]
    _, output, _ = run(capfd, *command)
    assert re.search(r"^tuned    (\d+) of \d+ layers, \1 of them by estimates$", output, re.M)


@pytest.mark.full
def test_ones_own_log_is_used_unless_told_otherwise(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    path = user_log(X86)
    path.parent.mkdir(parents=True)
    log.rename(path)
    command = ["compile", "--target", "x86", *SMALL, "-o", tmp_path / "m.so", "--json"]
    _, output, error = run(capfd, *command)
    assert f"warning: {path}: skipped 2 of" in error
    result = json.loads(output)
    assert result["tuned_layers"] == result["layers"]
    _, output, error = run(capfd, *command, "--tuning-log", "none")
    assert "skipped" not in error
    assert json.loads(output)["tuned_layers"] == 0
    _, output, _ = run(capfd, "logs", "list", "--target", "x86", "--json")
    assert str(path) in {row["file"] for row in json.loads(output)}


def test_logs_list_shows_each_record(log: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, output, error = run(capfd, "logs", "list", log, "--json")
    rows = json.loads(output)
    assert status == 0
    assert error.startswith(f"warning: {log}: skipped 2 of")
    pooling = next(row for row in rows if row["operator"] == "global_pool")
    batch, pixels, channels = map(int, pooling["workload"].split()[1].split("x"))
    assert pooling["gflops"] == pytest.approx(1e-3 * batch * pixels * channels)
    _, output, _ = run(capfd, "logs", "list", log)
    lines = output.splitlines()
    assert len(lines) == len(rows) + 2
    assert lines[0].split()[:4] == ["us", "GFLOP/s", "threads", "date"]
    assert lines[1].split()[:3] == ["1.00", f"{rows[0]['gflops']:.1f}", "1"]
    assert lines[-1] == f"{len(rows)} records in 1 logs"
    _, output, _ = run(capfd, "logs", "list", log, "--target", "arm64")
    assert output == "0 records in 1 logs\n"


def test_logs_check_names_each_line(log: Path, capfd: pytest.CaptureFixture[str]) -> None:
    records = len(log.read_text().splitlines()) - 2
    status, output, _ = run(capfd, "logs", "check", log)
    assert status == 1
    assert output.splitlines() == [
        f"{log}:{records + 1}: newer format: 2; this version reads up to 1",
        f"{log}:{records + 2}: torn",
        f"{log}: {records} records, 2 skipped",
    ]
    status, output, _ = run(capfd, "logs", "check", log, "--json")
    assert status == 1
    assert [line["reason"] for line in json.loads(output)[0]["skipped"]] == ["newer format", "torn"]


def test_a_log_of_a_presets_name_is_checked_for_other_targets(
    log: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    misplaced = log.rename(log.with_name("arm64.jsonl"))
    status, output, _ = run(capfd, "logs", "check", misplaced)
    assert status == 1
    assert f"{misplaced}:1: another target: 'x86'" in output.splitlines()


def test_logs_prune_and_merge_tidy_up(
    log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    merged = tmp_path / "new" / "x86.jsonl"
    status, output, error = run(capfd, "logs", "merge", log, log, "-o", merged)
    records = len(merged.read_text().splitlines())
    assert status == 0
    assert output == f"wrote {merged}: {records} records; dropped none\n"
    assert error.count("warning: ") == 2
    assert run(capfd, "logs", "check", merged)[0] == 0
    status, output, _ = run(capfd, "logs", "prune", log, "--json")
    assert status == 0
    assert json.loads(output) == {"file": str(log), "records": records, "dropped": {"torn": 1}}
    assert log.read_text().splitlines()[:-1] == merged.read_text().splitlines()


def test_models_are_counted_beside_the_published_figures(
    capfd: pytest.CaptureFixture[str],
) -> None:
    _, output, _ = run(capfd, "models", "--json")
    for row in json.loads(output):
        assert row["parameters"] == row["published_parameters"]
        low, high = row["published_macs_millions"]
        assert low - 1 <= row["macs"] / 1e6 <= high + 1


def test_targets_have_aliases(capfd: pytest.CaptureFixture[str]) -> None:
    _, output, _ = run(capfd, "targets", "--json")
    targets = {target["name"]: target for target in json.loads(output)}
    assert targets["cortex-a76"]["aliases"] == ["rpi5"]
    assert targets["x86-avx512"]["vector_bits"] == 512
    assert "native" in targets


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ("compile --target x86 --model v4", 2, "unknown model 'v4': did you mean"),
        ("compile --target cortex-a27 --model v2", 2, "unknown target 'cortex-a27'; did you mean"),
        ("compile --target x86 --model no.onnx", 1, "no.onnx: no such file; give a model's name"),
        ("compile --target x86 --model v2 --alpha 9", 2, "alpha 9.0 is not a number from 0.25 to"),
        ("compile --target x86 --model v2 --resolution 100", 2, "resolution 100 is not a multiple"),
        ("compile --target x86 --model v2 --alpha x", 2, "Invalid value for '--alpha'"),
        ("compile --target x86 --model v2 --input-shape x", 2, "is not of the form input=1,3,224"),
        ("compile --target x86 --model v2 --input-shape x=1", 2, "--input-shape is for ONNX files"),
        ("compile --target x86 --model {onnx} --alpha 1", 2, "--alpha is for named models"),
        ("compile --target x86 --model {onnx} --input-shape z=1", 1, "the model has no input 'z'"),
        ("compile --target x86 --model v2 --weights no.pth", 1, "no.pth"),
        ("compile --target x86 --model v2 -o {here}", 1, "is a folder; give the name of a file"),
        ("compile --target x86 --model v2 -o {file}/x.so", 1, "cannot be written"),
        ("compile --target x86 {small} -o z.so --dump m.onnx/x", 1, "cannot be written"),
        ("compile --target x86 {small} --tuning-log no", 1, "no: no such file; give a tuning log"),
        ("compile --target x86 {small} --tuning-log m.onnx", 1, "m.onnx: holds no record for x86"),
        ("compile --target x86 {small} --tuning-log {here}", 1, "cannot be read (Is a directory)"),
        ("compile --target x86", 2, "Missing option '--model'"),
        ("compiel --target x86", 2, "No such command 'compiel'"),
        ("bench missing.so", 1, "missing.so: no such file; give the .so that 'compile' wrote"),
        ("bench {onnx}", 1, "not an ELF file"),
        ("bench {truncated}", 1, ": truncated; copy the file"),
        ("bench {artifact} --threads 0", 2, "Invalid value for '--threads'"),
        ("verify {artifact} --model {onnx}", 1, "has no input 'input'"),
        ("bundle {artifact} -o {here}", 1, "{here}"),
        ("logs", 2, "Missing command"),
        ("logs lst", 2, "No such command 'lst'"),
        ("logs list no.jsonl", 1, "no.jsonl: no such file; give a tuning log"),
        ("logs list --target cortex-a27", 2, "unknown target 'cortex-a27'; did you mean"),
        ("logs check", 2, "Missing argument 'FILE...'"),
        ("logs check {here}", 1, "cannot be read (Is a directory)"),
        ("logs merge m.onnx", 2, "Missing option '-o'"),
        ("logs prune m.onnx", 1, "m.onnx: holds no record; is it a tuning log?"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line(
    arguments: str,
    status: int,
    message: str,
    artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    model = odd.tiny_v2()
    model.graph.input[0].name = model.graph.node[0].input[0] = "picture"
    onnx.save(model, tmp_path / "m.onnx")
    (tmp_path / "truncated.so").write_bytes(artifact.read_bytes()[:-2000])
    before = sorted(tmp_path.rglob("*"))
    names = {
        "onnx": "m.onnx",
        "here": str(tmp_path),
        "file": "m.onnx",
        "artifact": str(artifact),
        "small": " ".join(SMALL),
        "truncated": "truncated.so",
    }
    result, output, error = run(capfd, *arguments.format(**names).split())
    assert message.format(**names) in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert (result, output) == (status, "")
    assert sorted(tmp_path.rglob("*")) == before


def test_debug_shows_the_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    _, _, error = run(capfd, "--debug", "bench", "missing.so")
    assert "Traceback" in error


def test_help_lists_the_commands_without_importing_tvm() -> None:
    code = (
        "import sys; from mobilenet_tvm.compile.cli.main import main\n"
        "try: main(['--help'])\n"
        "finally: assert not {'tvm', 'onnx', 'numpy'} & set(sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    commands = ("compile", "tune", "logs", "bench", "profile", "verify", "bundle", "models")
    for command in (*commands, "targets"):
        assert re.search(rf"^  {command} ", result.stdout, re.MULTILINE)


def test_what_the_commands_call_can_be_imported() -> None:
    assert {"compile_model", "tune_models", "write_report", "verify_artifact"} < set(api.__all__)
    for name in api.__all__:
        assert getattr(api, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'tune_model'"):
        _ = api.tune_model


@pytest.mark.full
def test_compile_py_is_the_compile_command(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "compile.py"
    command = [sys.executable, script, "--target", "arm64", *SMALL, "-o", tmp_path / "m.so"]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    assert (tmp_path / "m.so").is_file()


def test_compile_py_says_what_is_missing() -> None:
    script = Path(__file__).parents[2] / "compile.py"
    # -S leaves the installed packages out.
    command = [sys.executable, "-S", str(script), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == "error: mobilenet-tvm is not installed here; run: pip install .\n"


@pytest.mark.parametrize(
    "signal_", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.full)]
)
def test_an_interrupted_compile_leaves_the_old_file(
    signal_: signal.Signals, tmp_path: Path
) -> None:
    output = tmp_path / "out" / "m.so"
    output.parent.mkdir()
    output.write_text("the old one")
    command = [sys.executable, "-m", "mobilenet_tvm.compile.cli.main", "compile", "--target", "x86"]
    process = subprocess.Popen(
        [*command, "--model", "v2", "-o", str(output)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    # It is in the middle of writing once its temporary folder stands beside the old file.
    while len(list(output.parent.iterdir())) < 2 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal_)
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0
    assert output.read_text() == "the old one"
    assert "error: interrupted\n" in error
    assert "Traceback" not in error
    assert list(output.parent.iterdir()) == [output]


def test_an_interrupt_that_ends_in_another_error_is_said_all_the_same() -> None:
    code = """
import os, signal
from mobilenet_tvm.compile.cli import main
from mobilenet_tvm.targets.errors import UserError

def run(*_, **__):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
    except KeyboardInterrupt:
        raise UserError("out.so: cannot be written (No such file or directory)") from None

main.cli.main = run
main.main([])
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "error: interrupted\n")
