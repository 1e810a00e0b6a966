"""Tuning logs: what a line may say, which record wins, and that nothing written is ever lost."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mobilenet_tvm.compile.logs.decisions import Decisions, find_logs
from mobilenet_tvm.compile.logs.log import Record, TuningLog, shipped_log, user_log
from mobilenet_tvm.compile.logs.record import UnusableLineError, read_record
from mobilenet_tvm.schedules import registry
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

X86 = PRESETS["x86"]
POINTWISE = Pointwise(196, 96, 576, (Step("add_channel"), Step("clip", (0.0, 6.0))))
DEPTHWISE = Depthwise(1, 14, 14, 96, Window((3, 3), (1, 1), (1, 1, 1, 1)), (Step("hard_swish"),))
WORKLOADS: list[Workload] = [
    POINTWISE,
    DEPTHWISE,
    DepthwisePointwise(DEPTHWISE, 24, (Step("add_channel"), Step("add"))),
    Convolution(1, 32, 32, 3, 16, Window((3, 3), (2, 2), (1, 1, 1, 1)), True, (Step("relu"),)),
    GlobalPool(1, 49, 96),
    Block(
        Convolution(1, 14, 14, 16, 96, Window((1, 1), (1, 1), (0, 0, 0, 0))),
        DepthwisePointwise(DEPTHWISE, 24),
    ),
]
HALF = POINTWISE.in_type("float16")


def record(workload: Workload = POINTWISE, target: str = "x86", **changes: Any) -> Record:
    """Make a record of a workload's default decision."""
    machine = PRESETS[target]
    made = Record.of(
        workload,
        registry.default(workload, machine),
        machine,
        microseconds=100.004,
        spread=0.01234,
        threads=1,
        device="Test CPU",
    )
    return replace(made, **{"date": "2026-01-02T03:04:05Z", **changes})


def line(**changes: Any) -> str:
    """Return a good line with other values; None leaves the field out."""
    row = {**record().to_row(), **changes}
    return json.dumps({name: value for name, value in row.items() if value is not None})


def write(path: Path, *lines: str | Record) -> Path:
    text = [item.to_json() if isinstance(item, Record) else item for item in lines]
    path.write_text("".join(f"{item}\n" for item in text))
    return path


# What a line says.


@pytest.mark.parametrize("target", PRESETS)
@pytest.mark.parametrize("workload", [*WORKLOADS, HALF], ids=lambda workload: workload.operator)
def test_a_record_of_each_operator_and_target_is_read_as_written(
    workload: Workload, target: str, tmp_path: Path
) -> None:
    if registry.find(workload, PRESETS[target]) is None:
        pytest.skip(f"{target} has no schedule for it")
    log = TuningLog(tmp_path / "new" / "x.jsonl", PRESETS[target])
    written = record(workload, target)
    log.append(written)
    read = TuningLog.read(log.path, PRESETS[target])
    assert (read.records, read.skipped) == ([written], [])
    decision = registry.default(workload, PRESETS[target])
    best = read.best(workload)
    assert best is not None
    assert registry.decision(workload, best.decision, PRESETS[target]) == decision


def test_a_line_is_readable_and_has_its_fields_in_order() -> None:
    decision = {"lanes": 8, "tile_m": 4, "tile_n": 24, "unroll_k": 4, "block_m": 7}
    row = json.loads(record(decision=decision).to_json())
    assert row.pop("versions").keys() == {"mobilenet-tvm", "apache-tvm"}
    assert json.dumps(row) == (
        '{"format": 1, "target": "x86", '
        '"workload": "pointwise 196x96x576 add_channel clip(0,6)", '
        '"dtype": "float32", "layout": "NHWC", '
        '"decision": {"lanes": 8, "tile_m": 4, "tile_n": 24, "unroll_k": 4, "block_m": 7}, '
        '"microseconds": 100.0, "spread": 0.012, "threads": 1, "source": "measured", '
        '"device": "Test CPU", "date": "2026-01-02T03:04:05Z"}'
    )


def test_only_a_farms_record_names_a_board() -> None:
    assert "board" not in record().to_row()
    assert read_record(record(board="shelf-2").to_json()).board == "shelf-2"
    with pytest.raises(UnusableLineError, match="board is wrong"):
        read_record(line(board=""))


def test_the_readme_beside_the_logs_names_each_field() -> None:
    text = (shipped_log(X86).parent / "README.md").read_text()
    rows = [row for row in text.splitlines() if row.startswith("| `")]
    named = "".join(row.split("|")[1] for row in rows)
    assert [name for name in record().to_row() if f"`{name}`" not in named] == []


def test_shipped_logs_have_nothing_to_skip() -> None:
    logs = [TuningLog.read(path, PRESETS.get(path.stem)) for path in _shipped()]
    assert [(log.path.name, log.skipped) for log in logs if log.skipped] == []
    assert {log.path.stem for log in logs} <= set(PRESETS)


def _shipped() -> list[Path]:
    files = shipped_log(X86).parent.glob("*.jsonl")
    return [path for path in files if not path.name.endswith(".trials.jsonl")]


DECISION = record().decision


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "torn"),
        (record().to_json()[:-1], "torn"),
        (record().to_json()[:250], "torn"),
        ("[" * 100_000, "not JSON"),
        ("\x00" * 40, "not JSON"),
        ("\ufffd", "not JSON"),
        ("hello", "not JSON"),
        ("[1, 2]", "foreign fields"),
        ("{}", "foreign fields"),
        ('{"input": ["llvm", "conv2d"], "version": 0.6}', "foreign fields"),  # TVM's own log
        (line(format=0), "foreign fields"),
        (line(format=True), "foreign fields"),
        (line(format="1"), "foreign fields"),
        (line(colour="red"), "foreign fields"),
        (line(microseconds=None), "foreign fields"),
        (line(microseconds=0), "foreign fields"),
        (line(microseconds=True), "foreign fields"),
        (line(microseconds="12"), "foreign fields"),
        (line(microseconds=float("nan")), "foreign fields"),
        (line(microseconds=float("inf")), "foreign fields"),
        (line(microseconds=10**400), "foreign fields"),
        (line(spread=-0.1), "foreign fields"),
        (line(threads=0), "foreign fields"),
        (line(threads=1.0), "foreign fields"),
        (line(source="guessed"), "foreign fields"),
        (line(source=["measured"]), "foreign fields"),
        (line(device="\x1b[2J"), "foreign fields"),
        (line(device="\ud800"), "foreign fields"),
        (line(versions={"apache-tvm": 1}), "foreign fields"),
        (line(date="yesterday"), "foreign fields"),
        (line(date="2026-1-2T03:04:05Z"), "foreign fields"),
        (line(date="2026-02-30T03:04:05Z"), "foreign fields"),
        (line(dtype="float16"), "foreign fields"),  # the workload's is float32
        (line(dtype="float64"), "foreign fields"),
        (line(layout="NCHW"), "foreign fields"),
        (line(decision=[1]), "foreign fields"),
        (line(format=2), "newer format"),
        (line(format=2, colour="red", microseconds=None), "newer format"),
        (line(target="arm64"), "another target"),
        (line(target="toaster"), "another target"),
        (line(workload="conv3d 1x1x1"), "unknown workload"),
        (line(workload="pointwise 196x96"), "unknown workload"),
        (line(workload="pointwise 196x96x576 swish"), "unknown workload"),
        (line(workload="pointwise 0196x96x576"), "unknown workload"),
        (line(workload="pointwise 196x96x0"), "unknown workload"),
        (line(workload="depthwise 1x4x4x8 k9x9 s1x1 p0,0,0,0"), "unknown workload"),
        (line(workload="depthwise 1x4x4x8 k3x3 s0x0 p1,1,1,1"), "unknown workload"),
        (line(workload="pointwise " + 3 * "9" * 5000), "unknown workload"),
        (line(decision={}), "invalid decision"),
        (line(decision={**DECISION, "tile_m": 99}), "invalid decision"),
    ],
)  # fmt: skip
def test_a_useless_line_is_counted_and_the_others_are_used(
    text: str, reason: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "x.jsonl", record(), text, "", record(DEPTHWISE))
    log = TuningLog.read(path, X86)
    assert [kept.workload for kept in log.records] == [str(POINTWISE), str(DEPTHWISE)]
    assert [(skipped.number, skipped.reason) for skipped in log.skipped] == [(2, reason)]
    assert "\n" not in log.skipped[0].detail
    assert "\x1b" not in log.skipped[0].detail


def test_bytes_that_are_no_text_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\x7fELF\xff\xfe\n" + record().to_json().encode())
    log = TuningLog.read(path, X86)
    assert (len(log.records), log.skipped_by_reason) == (1, {"not JSON": 1})


def test_absurd_sizes_are_refused_at_once(tmp_path: Path) -> None:
    sizes = "x".join(["999999999"] * 4)
    texts = [
        f"depthwise {sizes} k3x3 s1x1 p1,1,1,1",
        f"conv2d {sizes}->999999999 k3x3 s1x1 p1,1,1,1 nhwc",
        f"depthwise_pointwise depthwise {sizes} k3x3 s1x1 p1,1,1,1 -> 999999999",
        "pointwise 999999999x999999999x999999999",
        "global_pool 1x999999999x999999999",
    ]
    path = write(tmp_path / "x.jsonl", *(line(workload=text) for text in texts))
    start = time.perf_counter()
    assert sum(TuningLog.read(path).skipped_by_reason.values()) >= 4
    assert time.perf_counter() - start < 1


# Decisions.


@pytest.mark.parametrize(
    ("workload", "changes"),
    [
        (POINTWISE, {"tile_m": 0}),
        (POINTWISE, {"tile_m": -4}),
        (POINTWISE, {"tile_m": 30}),  # more sums than registers
        (POINTWISE, {"tile_n": 20}),  # no whole vectors
        (POINTWISE, {"tile_n": 80}),  # does not divide the outputs
        (POINTWISE, {"lanes": 16}),  # of another target
        (POINTWISE, {"lanes": 0}),
        (POINTWISE, {"unroll_k": 0}),
        (POINTWISE, {"unroll_k": 5}),
        (POINTWISE, {"block_m": 0}),
        (POINTWISE, {"block_m": 197}),
        (POINTWISE, {"tile_m": True}),
        (POINTWISE, {"tile_m": 4.0}),
        (POINTWISE, {"tile_m": "4"}),
        (POINTWISE, {"tile_m": None}),
        (POINTWISE, {"tile_m": [4]}),
        (POINTWISE, {"tile_k": 4}),  # one more
        (DEPTHWISE, {"tile_y": 3}),
        (DEPTHWISE, {"tile_x": 0}),
        (DEPTHWISE, {"tile_c": 12}),
        (DEPTHWISE, {"channels_outside": 1}),
        (WORKLOADS[2], {"tile_m": 3}),  # does not divide the width
        (WORKLOADS[2], {"tile_x": 3}),  # does not divide tile_m
        (WORKLOADS[2], {"tile_x": 0}),
        (WORKLOADS[3], {"tile_x": 3}),
        (WORKLOADS[3], {"tile_c": 64}),
        (WORKLOADS[4], {"tile_c": 5}),
        (WORKLOADS[5], {"rows": 3}),  # does not divide the height
        (WORKLOADS[5], {"rows": 7}),  # too few bands for four threads
        (WORKLOADS[5], {"first_x": 3}),
    ],
    ids=lambda value: value if isinstance(value, dict) else value.operator,
)
def test_what_a_schedule_cannot_do_is_refused(workload: Workload, changes: dict[str, Any]) -> None:
    values = {**vars(registry.default(workload, X86)), **changes}
    with pytest.raises(ValueError, match=r"instead of|is no|does not fit"):
        registry.decision(workload, values, X86)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.operator)
def test_a_missing_part_is_refused(workload: Workload) -> None:
    values = dict(vars(registry.default(workload, X86)))
    del values[next(iter(values))]
    with pytest.raises(ValueError, match="instead of"):
        registry.decision(workload, values, X86)


def test_only_a_cpu_that_multiplies_float16_has_a_record_of_it() -> None:
    written = record(HALF, "mali")
    assert (read_record(written.to_json()), written.dtype) == (written, "float16")
    on_cpu = record(HALF, "cortex-a76")
    assert (read_record(on_cpu.to_json()), on_cpu.dtype) == (on_cpu, "float16")
    moved = json.dumps({**written.to_row(), "target": "x86"})
    with pytest.raises(UnusableLineError, match="x86 has no schedule for pointwise of float16"):
        read_record(moved)


# Which record wins.

FAST, SLOW = {"microseconds": 90.0}, {"microseconds": 110.0}
EARLY, LATE = {"date": "2026-01-01T00:00:00Z"}, {"date": "2026-03-01T00:00:00Z"}
OTHER, EMULATED = {"device": "Other CPU"}, {"source": "emulated"}


@pytest.mark.parametrize(
    ("winner", "loser", "beaten"),
    [
        ({**FAST, **EARLY}, {**SLOW, **LATE}, True),
        ({**SLOW, **EARLY}, {**FAST, **LATE, **EMULATED}, True),
        ({**SLOW, **EARLY}, {**FAST, **LATE, **EMULATED, **OTHER}, True),
        ({**FAST, **EMULATED}, {**SLOW, **EMULATED}, True),
        ({**SLOW, **LATE, **OTHER}, {**FAST, **EARLY}, False),
        ({**SLOW, **LATE, "threads": 2}, {**FAST, **EARLY}, False),
        ({**SLOW, **LATE, "threads": 1}, {**FAST, **EARLY, "threads": 2}, False),
    ],
)
def test_which_of_two_records_wins(
    winner: dict[str, Any], loser: dict[str, Any], beaten: bool, tmp_path: Path
) -> None:
    first, second = record(**winner), record(**loser)
    for name, pair in (("a", (first, second)), ("b", (second, first))):
        log = TuningLog.read(write(tmp_path / name, *pair), X86)
        assert log.best(POINTWISE) == first
        assert log.prune() == ({"beaten": 1} if beaten else {})
        assert TuningLog.read(log.path, X86).best(POINTWISE) == first
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


def test_other_layers_are_not_known(tmp_path: Path) -> None:
    log = TuningLog.read(write(tmp_path / "x", record()), X86)
    assert log.best(replace(POINTWISE, epilogue=())) is None
    assert log.best(replace(POINTWISE, pixels=197)) is None


@pytest.mark.parametrize(
    ("own", "shipped", "source"),
    [
        ({"device": "Mine"}, {**FAST, **LATE}, "Mine"),  # times of two machines do not compare
        ({"device": "Mine", **EMULATED}, {}, "Test CPU"),
        ({"device": "Mine", **EMULATED}, EMULATED, "Mine"),
        (None, {}, "Test CPU"),
        ({"device": "Mine"}, None, "Mine"),
        (None, None, None),
    ],
)
def test_ones_own_record_goes_before_a_shipped_one(
    own: dict[str, Any] | None,
    shipped: dict[str, Any] | None,
    source: str | None,
    tmp_path: Path,
) -> None:
    default = registry.default(POINTWISE, X86)
    logs = []
    for name, changes, block in (("own", own, 1), ("shipped", shipped, 2)):
        decision = vars(replace(default, block_m=block))
        records = [] if changes is None else [record(**changes, decision=decision)]
        logs.append(TuningLog.read(write(tmp_path / name, *records), X86))
    decisions = Decisions(logs)
    expected = {"Mine": 1, "Test CPU": 2, None: default.block_m}[source]
    assert decisions(POINTWISE, X86).block_m == expected
    assert (decisions.source(POINTWISE) == "default") is (source is None)


# Where logs are.


def test_native_goes_by_its_presets_logs() -> None:
    native = get_target("native")
    assert native.name == "native"
    assert native.preset in PRESETS
    assert user_log(native) == user_log(PRESETS[native.preset])
    assert shipped_log(native).name == f"{native.preset}.jsonl"
    assert [target.preset for target in PRESETS.values()] == [*PRESETS]


def test_ones_own_log_is_found_where_xdg_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    path = tmp_path / "data" / "mobilenet-tvm" / "tuning_logs" / "x86.jsonl"
    assert user_log(X86) == path
    assert path not in [log.path for log in find_logs(None, X86)]
    TuningLog(path, X86).append(record())
    assert find_logs(None, X86)[0].path == path
    assert path not in [log.path for log in find_logs(None, PRESETS["arm64"])]
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_DATA_HOME", ignored)
        assert user_log(X86) == tmp_path / "home/.local/share/mobilenet-tvm/tuning_logs/x86.jsonl"


def test_a_chosen_log_is_the_only_one(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", record())
    assert [log.path for log in find_logs(path, X86)] == [path]
    assert find_logs("none", X86) == []
    assert find_logs(write(tmp_path / "empty.jsonl"), X86)[0].records == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file; give a tuning log"),
        (record(target="arm64").to_json(), "holds no record for x86 (another target: 1); give"),
        ("hello\n{", "holds no record for x86 (not JSON: 1, torn: 1); give another"),
    ],
)
def test_a_chosen_log_that_is_of_no_use_is_an_error(
    content: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as error:
        find_logs(path, X86)
    assert message in str(error.value)
    with pytest.raises(UserError, match="cannot be read"):
        find_logs(tmp_path, X86)


# Writing.


def test_a_torn_line_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(record().to_json() + "\n" + record().to_json()[:100])
    TuningLog(path, X86).append(record(DEPTHWISE))
    log = TuningLog.read(path, X86)
    assert [kept.workload for kept in log.records] == [str(POINTWISE), str(DEPTHWISE)]
    assert log.skipped_by_reason == {"torn": 1}
    assert path.read_text().endswith("}\n")


def test_what_would_not_be_read_is_not_written(tmp_path: Path) -> None:
    log = TuningLog(tmp_path / "x.jsonl", X86)
    for wrong in (record(microseconds=0.0), record(target="arm64"), record(decision={})):
        with pytest.raises(ValueError, match=r"foreign|another target|invalid"):
            log.append(wrong)
    assert list(tmp_path.iterdir()) == []


def test_merging_sorts_and_keeps_what_others_can_use(tmp_path: Path) -> None:
    newer, foreign = line(format=2, colour="red"), line(target="arm64")
    output = write(tmp_path / "x86.jsonl", record(), newer, "rubbish", foreign, "{torn")
    other = write(tmp_path / "y.jsonl", record(**FAST), record(WORKLOADS[3], threads=2))
    other_log = TuningLog.read(write(other, *other.read_text().splitlines(), record(WORKLOADS[3])))
    log = TuningLog(output, X86)
    assert log.merge(other_log) == {"beaten": 1, "not JSON": 1, "torn": 1}
    lines = output.read_text().splitlines()
    assert lines[3:] == [newer, foreign]
    assert [(r.operator, r.threads) for r in TuningLog.read(output, X86).records] == [
        ("conv2d", 1),
        ("conv2d", 2),
        ("pointwise", 1),
    ]
    best = log.best(POINTWISE)
    assert best is not None
    assert best.microseconds == FAST["microseconds"]
    # A second time, nothing changes.
    before = output.read_text()
    assert log.merge(other_log) == {}
    assert output.read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x86.jsonl", "y.jsonl"]


def test_what_is_no_log_is_not_overwritten(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("dear diary\n")
    with pytest.raises(UserError, match="holds no record; is it a tuning log"):
        TuningLog(notes, X86).merge(TuningLog.read(write(tmp_path / "x.jsonl", record())))
    assert notes.read_text() == "dear diary\n"


def test_a_log_with_nothing_but_a_torn_line_can_be_merged_into(tmp_path: Path) -> None:
    log = TuningLog(write(tmp_path / "x.jsonl", "{torn"), X86)
    log.merge(TuningLog.read(write(tmp_path / "y.jsonl", record())))
    assert len(TuningLog.read(log.path, X86).records) == 1


def test_a_link_and_the_permissions_stay(tmp_path: Path) -> None:
    real = write(tmp_path / "real.jsonl", record(), record(**FAST))
    real.chmod(0o640)
    link = tmp_path / "elsewhere" / "link.jsonl"
    link.parent.mkdir()
    link.symlink_to(real)
    TuningLog(link, X86).append(record(DEPTHWISE))
    assert TuningLog(link, X86).prune() == {"beaten": 1}
    assert link.is_symlink()
    assert len(real.read_text().splitlines()) == 2
    assert real.stat().st_mode & 0o777 == 0o640
    assert list(link.parent.iterdir()) == [link]


#: Appends 200 records of its own number of threads, as soon as it may.
APPEND = """
import sys
from dataclasses import replace
from mobilenet_tvm.compile.logs.log import TuningLog
from mobilenet_tvm.compile.logs.record import read_record
path, threads, line = sys.argv[1], int(sys.argv[2]), sys.stdin.readline()
record, log = read_record(line), TuningLog(path)
print("ready", flush=True)
sys.stdin.readline()
for number in range(200):
    log.append(replace(record, threads=threads, microseconds=number + 1.0))
"""


@contextmanager
def two_writers(path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Let two processes append at once, and check that both came to their end."""
    command = [sys.executable, "-c", APPEND, str(path)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, str(threads)], **pipes) for threads in (1, 2)]

    def tell(process: subprocess.Popen[str], text: str) -> None:
        assert process.stdin is not None
        process.stdin.write(text + "\n")
        process.stdin.flush()

    for process in processes:
        tell(process, record().to_json())
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        tell(process, "go")
    yield processes
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0


def test_two_processes_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with two_writers(path):
        pass
    log = TuningLog.read(path, X86)
    assert log.skipped == []
    for threads in (1, 2):
        theirs = [kept.microseconds for kept in log.records if kept.threads == threads]
        assert theirs == [float(number) for number in range(1, 201)]


def test_a_third_that_prunes_meanwhile_loses_nothing(tmp_path: Path) -> None:
    log = TuningLog(tmp_path / "x.jsonl", X86)
    dropped = 0
    with two_writers(log.path) as processes:
        while any(process.poll() is None for process in processes):
            dropped += log.prune()["beaten"]
    log = TuningLog.read(log.path, X86)
    assert log.skipped == []
    assert len(log.records) + dropped == 400
    log.prune()
    assert [(kept.threads, kept.microseconds) for kept in log.records] == [(1, 1.0), (2, 1.0)]


#: Appends numbered lines until it is killed.
APPEND_FOREVER = """
import itertools, sys
from pathlib import Path
from mobilenet_tvm.compile.logs.locked_file import append_line
for number in itertools.count():
    append_line(Path(sys.argv[1]), f"{number} " + "x" * 5000)
    print(number, flush=True)
"""


def test_kill_9_loses_no_line_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for round_ in range(8):
        command = [sys.executable, "-c", APPEND_FOREVER, str(path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.003 * round_)
        process.send_signal(signal.SIGKILL)
        finished = [0, *map(int, process.stdout.read().split())]
        process.wait(timeout=60)
        lines = path.read_text().split("\n")
        # This round's lines stand at the end, the last of them perhaps cut or not yet reported.
        whole = [text for text in lines if text.endswith(" " + "x" * 5000)]
        torn = sum(text != "" for text in lines) - len(whole)
        assert torn <= round_ + 1
        numbers = [int(text.split()[0]) for text in whole]
        start = len(numbers) - 1 - numbers[::-1].index(0)
        assert numbers[start:] == [*range(len(numbers) - start)]
        assert len(numbers) - start in (len(finished), len(finished) + 1)
    # The lock went with its holder, and nothing else stays.
    TuningLog(tmp_path / "y", X86).append(record())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x", "y"]


@contextmanager
def disk_full_at(size: int) -> Iterator[None]:
    """Let no file grow beyond a size: the write that does fails in its middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("ending", ["\n", ""], ids=["whole", "torn"])
def test_a_full_disk_is_one_line_and_loses_nothing(ending: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(record().to_json() + "\n" + record(**FAST).to_json() + ending)
    before = path.read_bytes()
    log = TuningLog(path, X86)
    with disk_full_at(len(before) + 100), pytest.raises(UserError) as error:
        log.append(record(DEPTHWISE))
    assert "cannot be written (File too large) and stays as it was; make room" in str(error.value)
    assert path.read_bytes() == before
    assert log.records == []
    with disk_full_at(100), pytest.raises(UserError, match="cannot be written"):
        log.prune()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    log.append(record(DEPTHWISE))
    assert len(TuningLog.read(path, X86).records) == 3


def test_a_read_only_folder_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write to any folder")
    path = write(tmp_path / "x.jsonl", record(), record(**FAST))
    before = path.read_bytes()
    tmp_path.chmod(0o555)
    try:
        for write_ in (TuningLog(path, X86).prune, lambda: TuningLog(path.with_name("y")).merge()):
            with pytest.raises(UserError, match="cannot be written"):
                write_()
        with pytest.raises(UserError, match="cannot be written"):
            TuningLog(path.with_name("z")).append(record())
    finally:
        tmp_path.chmod(0o755)
    assert path.read_bytes() == before


@pytest.mark.parametrize("path", ["/sys/kernel/x.jsonl", "/sys/kernel/new/x.jsonl", "/dev/null/x"])
def test_where_not_even_root_can_make_a_file(path: str) -> None:
    log = TuningLog(path)
    for write_ in (lambda: log.append(record()), log.prune):
        with pytest.raises(UserError, match="cannot be written"):
            write_()


def test_many_records_of_few_layers_take_no_time_per_pair(tmp_path: Path) -> None:
    # Work for each pair of lines would be minutes; this is under two seconds.
    count = 10_000
    lines = [line(microseconds=100.0 + i, device=f"CPU {i % 100}") for i in range(count)]
    path = write(tmp_path / "x86.jsonl", *lines)
    began = time.process_time()
    log = TuningLog.read(path, X86)
    assert len(log.records) == count
    decisions = Decisions([log])
    for _ in range(50):
        assert decisions.source(POINTWISE) == "measured"
    # All lines are for another target, so all of them stay.
    assert not TuningLog(path, PRESETS["cortex-a72"]).prune()
    assert len(path.read_text().splitlines()) == count
    assert time.process_time() - began < 30
