"""The command `report` and its page, as a browser would read it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from report_records import LOG, TRIALS, profile

from mobilenet_tvm.compile.cli.main import main
from mobilenet_tvm.compile.logs.log import Record, user_log
from mobilenet_tvm.compile.models.source import ModelOptions
from mobilenet_tvm.compile.report import page as page_module
from mobilenet_tvm.compile.report.data import OTHER, LayerTimes, Report, Timing
from mobilenet_tvm.compile.report.operators import COLORS, FIRST, in_order, style
from mobilenet_tvm.compile.report.page import render
from mobilenet_tvm.compile.tuning.layers import find_layers
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.workloads import OPERATORS, Workload
from mobilenet_tvm.targets.presets import native

SMALL = ["--resolution", "32", "--alpha", "0.35"]
PEERS = {
    "peak_gflops": {"1": 117.0},
    "rows": [
        {
            "model": 'v2"><script src="http://example.com/x.js">',
            "threads": 2,
            "milliseconds": {
                "mobilenet-tvm": {"least": 3.04, "median": 3.1},
                "ONNX Runtime": {"least": 3.58, "median": 3.7},
            },
            "missing": {"ncnn": "its output <differs>"},
        }
    ],
}


def run(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["report", *map(str, arguments)])
    output, error = capfd.readouterr()
    return int(exit_.value.code or 0), output, error


def write(path: Path, records: Sequence[Record]) -> Path:
    path.write_text("".join(f"{record.to_json()}\n" for record in records))
    return path


def read(page: Path) -> ElementTree.Element:
    """Parse a page; that it is XML too finds each unclosed element and each stray sign."""
    return ElementTree.fromstring(page.read_text(encoding="utf-8"))  # noqa: S314


@pytest.fixture
def log(tmp_path: Path) -> Path:
    write(tmp_path / "x86.trials.jsonl", TRIALS)
    return write(tmp_path / "x86.jsonl", LOG)


def test_the_page_names_every_layer_and_loads_nothing(
    log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    peers = tmp_path / "peers.json"
    peers.write_text(json.dumps(PEERS))
    page = tmp_path / "page.html"
    status, output, error = run(
        capfd, "--log", log, "--peers", peers, "--peak", 118, 23.5, "-o", page
    )
    assert (status, error) == (0, "")
    assert "2 layers, 4 trials, 0.013 ms by default, 0.010 ms tuned" in output
    root = read(page)
    for element in root.iter():
        assert element.tag != "link"
        assert element.get("src") is None
        assert element.get("href", "#").startswith("#")
        assert not [name for name in element.attrib if name.startswith("on")]
    assert not re.search(r"url\(|@import|fetch|XMLHttp", page.read_text())
    words = "".join(root.itertext())
    for record in LOG:
        assert record.workload in words
    assert PEERS["rows"][0]["model"] in words  # type: ignore[index]
    assert "its output <differs>" in words
    headings = [element.text for element in root.iter("h2")]
    assert headings == [
        "Time per layer",
        "Roofline",
        "Tuning curves",
        "Comparison with other runtimes",
        "Layers",
    ]


def test_links_lead_to_rows(log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    run(capfd, "--log", log, "-o", page)
    root = read(page)
    targets = {element.get("href") for element in root.iter("a")}
    assert targets == {f"#{row.get('id')}" for row in root.iter("tr") if row.get("id")}
    assert len(targets) == 2


def test_cells_hold_the_numbers(
    log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    run(capfd, "--log", log, "--peak", 5, 2, "-o", page)
    (row,) = [row for row in read(page).iter("tr") if row.get("id") == "layer-1"]
    cells = ["".join(cell.itertext()) for cell in row]
    speed = 2 * 196 * 96 * 576 / 8.4e3
    assert cells[:2] == ["1", "pointwise 196x96x576"]
    assert cells[2:6] == ["1", "10.5", "8.40", "20.0 %"]
    assert cells[6:9] == [f"{speed:.1f}", f"{100 * speed / 5:.1f} %", "1.0 %"]
    assert cells[9].startswith("lanes=")


def test_a_curve_never_rises(log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    run(capfd, "--log", log, "-o", page)
    (path,) = [path for path in read(page).iter("path") if path.get("class") == "best"]
    drawn = str(path.get("d"))
    # SVG counts from the top: a lower time is a larger number.
    first = float(drawn.partition(" ")[2].partition("H")[0])
    heights = [first, *map(float, re.findall(r"V([0-9.]+)", drawn))]
    assert heights == sorted(heights)
    assert len(heights) == 2
    assert drawn.endswith("H174")


def test_hostile_text_is_text(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    device = '<img src="http://example.com/a.png" onerror=alert(1)> & "CPU\''
    line = LOG[0].to_json().replace('"a CPU"', json.dumps(device))
    (tmp_path / "x86.jsonl").write_text(f"{line}\n")
    calls = [{"workload": "</style><b>&\u0000\ud800", "microseconds": 1.0, "source": ""}]
    file = profile(tmp_path / "profile.json", calls)
    page = tmp_path / "page.html"
    status, _, error = run(capfd, "--log", tmp_path / "x86.jsonl", "--profile", file, "-o", page)
    assert (status, error) == (0, "")
    root = read(page)
    assert device in "".join(root.itertext())
    assert "</style><b>&\ufffd\ufffd" in "".join(root.itertext())
    assert not [*root.iter("img"), *root.iter("b")]


def test_torn_trials_are_counted_and_left_out(
    log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trials = tmp_path / "x86.trials.jsonl"
    trials.write_text("nonsense\n" + trials.read_text()[:-40])
    status, output, error = run(capfd, "--log", log, "-o", tmp_path / "page.html", "--json")
    assert status == 0
    assert "x86.trials.jsonl: skipped 2 of 7 lines" in error
    found = json.loads(output)
    assert (found["layers"], found["trials"]) == (2, 4)


def test_a_log_without_trials_makes_a_page(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = write(tmp_path / "mine.jsonl", LOG)
    page = tmp_path / "page.html"
    assert run(capfd, "--log", log, "-o", page)[0] == 0
    headings = [element.text for element in read(page).iter("h2")]
    assert headings == ["Roofline", "Layers"]


def test_peers_alone_make_a_page(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "peers.json").write_text(json.dumps(PEERS))
    page = tmp_path / "page.html"
    assert run(capfd, "--peers", tmp_path / "peers.json", "-o", page)[0] == 0
    assert [element.text for element in read(page).iter("h2")] == ["Comparison with other runtimes"]


def test_a_model_weights_its_layers_by_calls(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By default the log is one's own of this machine."""
    target = native()
    counts = find_layers(["v1"], target, ModelOptions(resolution=32, alpha=0.25))

    def record(workload: Workload) -> Record:
        decision = registry.default(workload, target)
        facts = {"spread": 0.0, "threads": 1, "device": "a CPU"}
        return Record.of(workload, decision, target, microseconds=10.0, **facts)  # type: ignore[arg-type]

    path = user_log(target)
    path.parent.mkdir(parents=True, exist_ok=True)
    trials = write(path.with_name(f"{target.preset}.trials.jsonl"), [*map(record, counts)])
    try:
        page = tmp_path / "page.html"
        options = ["--model", "v1", "--resolution", "32", "--alpha", "0.25", "--json"]
        status, output, _ = run(capfd, *options, "-o", page)
    finally:
        trials.unlink()
    assert status == 0
    found = json.loads(output)
    assert found["layers"] == len(counts)
    assert found["default_microseconds"] == 10 * counts.total()
    assert max(counts.values()) > 1
    words = "".join(read(page).itertext())
    assert all(str(workload) in words for workload in counts)


def test_a_page_is_replaced_in_one_step(
    log: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "new" / "page.html"
    for _ in "12":
        assert run(capfd, "--log", log, "-o", page)[0] == 0
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]


def test_every_operator_has_a_colour_in_light_and_dark() -> None:
    assert set(FIRST) <= set(OPERATORS)
    sheet = Path(page_module.__file__).with_name("page.css").read_text(encoding="utf-8")
    colors = [re.findall(rf"--color-{n}: (#[0-9a-f]{{6}});", sheet) for n in range(1, COLORS + 1)]
    colors.append(re.findall(r"--color-other: (#[0-9a-f]{6});", sheet))
    assert len(set(map(tuple, colors))) == COLORS + 1
    assert all(len(pair) == 2 for pair in colors)
    rules = style([*OPERATORS, OTHER]).splitlines()
    assert rules[0] == ".pointwise { --color: var(--color-1); }"
    assert rules[-1] == ".other { --color: var(--color-other); }"
    assert len({rule.partition("{")[2] for rule in rules}) == len(OPERATORS) + 1


def test_operators_that_the_page_does_not_know_are_shown_like_others(tmp_path: Path) -> None:
    names = ["other", "winograd", "global_pool", "attention", "pointwise"]
    times = Timing(2.0, "a=1"), Timing(1.0, "a=2")
    layers = [LayerTimes(f"{name} 1x2", name, 8, 4, 1, *times, trials=(2.0, 1.0)) for name in names]
    page = tmp_path / "page.html"
    page.write_text(render(Report(None, tuple(layers))), encoding="utf-8")
    root = read(page)
    (table,) = [t for t in root.iter("table") if t.get("class") == "operators"]
    shown = ["".join(head.itertext()) for head in table.iter("th") if head.get("scope") == "row"]
    assert shown == ["pointwise", "global_pool", "attention", "winograd", "other"]
    (legend,) = [ul for ul in root.iter("ul") if ul.get("class") == "legend"]
    assert ["".join(item.itertext()) for item in legend] == shown
    (sheet,) = root.iter("style")
    assert ".attention { --color: var(--color-7); }" in str(sheet.text)
    assert ".winograd { --color: var(--color-8); }" in str(sheet.text)


def test_colours_repeat_where_there_are_more_operators() -> None:
    names = [f"new_{n}" for n in range(4)]
    assert in_order(reversed(names)) == names
    numbers = re.findall(r"var\(--color-(\w+)\)", style(names))
    assert numbers == ["7", "8", "9", "7"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 1, "holds no record; run 'tune' first"),
        (["--log", "none.jsonl"], 1, "none.jsonl: no such file"),
        (["--log", "empty.jsonl"], 1, "empty.jsonl: holds no record"),
        (["--log", "x86.jsonl", "--target", "rpi4"], 1, "x86.jsonl: holds no record"),
        (["--log", "x86.jsonl", "--threads", "3"], 1, "no record with 3 threads"),
        (["--log", "x86.jsonl", "--model", "v1", *SMALL], 1, "no record of these layers"),
        (["--log", "x86.jsonl", "--profile", "empty.jsonl"], 1, "is not the output of"),
        (["--log", "x86.jsonl", "--peers", "gone.json"], 1, "gone.json: cannot be read"),
        (["--log", "x86.jsonl", "-o", "."], 1, "is a folder"),
        (["--log", "x86.jsonl", "-o", "empty.jsonl/a.html"], 1, "cannot be written"),
        (["--log", "x86.jsonl", "--alpha", "0.5"], 2, "--alpha says which model is meant"),
        (["--log", "x86.jsonl", "--peak", "0", "1"], 2, "--peak"),
        (["--target", "toaster"], 2, "unknown target 'toaster'"),
    ],
)
def test_bad_input_is_one_line(
    log: Path,
    arguments: list[str],
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(log.parent)
    Path("empty.jsonl").touch()
    found, output, error = run(capfd, *arguments)
    assert (found, output) == (status, "")
    assert message in error
    lines = [line for line in error.splitlines() if not line.startswith("warning")]
    assert len(lines) == 1
    assert not Path("report.html").exists()


def test_hostile_names_in_a_log_and_a_profile_are_only_text(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hostile = "</style></script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>&{{x}}"
    names = {"device": hostile, "board": hostile, "versions": {hostile: hostile}}
    log = write(tmp_path / "x86.jsonl", [replace(record, **names) for record in LOG])
    write(tmp_path / "x86.trials.jsonl", [replace(record, **names) for record in TRIALS])
    call = {"workload": LOG[0].workload, "microseconds": 1.0, "node": hostile, "function": hostile}
    profiled = profile(tmp_path / f"{hostile.replace('/', '')}.json", [call])
    page = tmp_path / "report.html"
    status, _, error = run(
        capfd, "--log", log, "--profile", profiled, "--peak", 100, 20, "-o", page
    )
    assert status == 0, error
    elements = list(read(page).iter())
    tags = [element.tag.rpartition("}")[2] for element in elements]
    # The page's own script, which sorts its table, and links within the page.
    assert tags.count("script") == 1
    assert not {"img", "iframe", "object", "embed"}.intersection(tags)
    links = [element.attrib["href"] for element in elements if "href" in element.attrib]
    assert all(re.fullmatch(r"#layer-\d+", link) for link in links)
    assert not [name for each in elements for name in each.attrib if name.startswith("on")]
    assert hostile in "".join(read(page).itertext())
