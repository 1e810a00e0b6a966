"""What the report gathers: times by default and tuned, calls, trials, from whatever there is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from report_records import DENSE, LOG, POOL, POOLED, SECOND, TRIALS, profile, record

from mobilenet_tvm.compile.logs.log import Record
from mobilenet_tvm.compile.report.data import OTHER, LayerTimes, Report, choose_setting, gather
from mobilenet_tvm.compile.report.json_files import read_peers, read_profile
from mobilenet_tvm.compile.report.markup import percent, short_name, tag, text
from mobilenet_tvm.compile.report.scales import Linear, Logarithmic
from mobilenet_tvm.schedules.workloads import GlobalPool
from mobilenet_tvm.targets.errors import UserError


def gathered(log: Sequence[Record], trials: Sequence[Record], **others: Any) -> Report:
    threads = others.pop("threads", None)
    profiles = others.get("profiles", ())
    setting = choose_setting([*log, *trials], profiles, threads)
    return gather(setting, log, trials, **others)


def times(layer: LayerTimes) -> tuple[float | None, float | None]:
    return (
        layer.default.microseconds if layer.default else None,
        layer.tuned.microseconds if layer.tuned else None,
    )


def by_name(report: Report) -> dict[str, LayerTimes]:
    return {layer.workload: layer for layer in report.layers}


def test_the_last_word_counts_and_no_decision_is_a_trial_twice() -> None:
    report = gathered(LOG, TRIALS)
    dense = by_name(report)[str(DENSE)]
    assert times(dense) == (10.5, 8.4)
    assert dense.trials == (10.0, 12.0, 8.0)
    assert dense.best_so_far == (10.0, 10.0, 8.0)
    assert dense.gain == pytest.approx(0.2)
    assert report.trials == 4


def test_sums_and_gain_are_weighted_by_calls() -> None:
    report = gathered(LOG, TRIALS, networks={DENSE: 2, POOL: 3})
    assert report.default_total == pytest.approx(2 * 10.5 + 3 * 2.0)
    assert report.tuned_total == pytest.approx(2 * 8.4 + 3 * 2.0)
    assert report.gain == pytest.approx(1 - 22.8 / 27.0)
    assert [layer.workload for layer in report.layers] == [str(DENSE), str(POOL)]


def test_a_layer_whose_default_is_best_has_no_gain() -> None:
    again = [*TRIALS, record(POOL, POOLED, 2.2)]
    assert times(by_name(gathered(LOG, again))[str(POOL)]) == (2.0, 2.0)


def test_trials_of_a_killed_run_do_without_a_log() -> None:
    assert times(by_name(gathered([], TRIALS[:4]))[str(DENSE)]) == (10.0, 8.0)


def test_a_log_without_trials_has_no_default() -> None:
    report = gathered(LOG, [])
    assert times(by_name(report)[str(DENSE)]) == (None, 8.4)
    assert report.compared == ()
    assert (report.gain, report.default_total, report.trials) == (0.0, 0, 0)


def test_layers_of_the_model_without_a_record_stay_and_others_go() -> None:
    other = GlobalPool(1, 16, 8)
    report = gathered(LOG, TRIALS, networks={POOL: 1, other: 5})
    assert [layer.workload for layer in report.layers] == [str(POOL), str(other)]
    assert times(report.layers[1]) == (None, None)
    assert report.default_total == 2.0


@pytest.mark.parametrize(
    ("others", "threads", "chosen"),
    [
        ({"threads": 2, "date": "2026-02-01T00:00:00Z"}, None, 2),
        ({"threads": 2, "date": "2026-02-01T00:00:00Z"}, 1, 1),
        ({"threads": 2, "date": "2025-02-01T00:00:00Z"}, None, 1),
        ({"threads": 2, "date": "2026-02-01T00:00:00Z", "source": "emulated"}, None, 1),
    ],
    ids=["the latest", "as asked for", "not an earlier one", "not an estimate"],
)
def test_times_of_one_setting_only(
    others: dict[str, Any], threads: int | None, chosen: int
) -> None:
    log = [*LOG, record(DENSE, SECOND, 1.0, **others)]
    report = gathered(log, TRIALS, threads=threads)
    assert report.setting
    assert report.setting.threads == chosen
    assert report.elsewhere == (1 if chosen == 1 else 2)
    assert times(by_name(report)[str(DENSE)]) == ((10.5, 8.4) if chosen == 1 else (None, 1.0))


def test_threads_that_no_record_has_are_named() -> None:
    with pytest.raises(UserError, match="no record with 4 threads, only with 1"):
        choose_setting(LOG, [], 4)


def test_a_profile_of_other_threads_is_refused(tmp_path: Path) -> None:
    calls = [{"workload": str(DENSE), "microseconds": 9.0}]
    two = read_profile(profile(tmp_path / "two.json", calls, threads=2))
    with pytest.raises(UserError, match="no record with 2 threads"):
        choose_setting(LOG, [two], None)
    with pytest.raises(UserError, match="'profile --threads 1'"):
        choose_setting(LOG, [two], 1)


def test_a_model_profiled_twice_is_called_once(tmp_path: Path) -> None:
    dense, multiply = str(DENSE), "multiply3"
    before = [
        {"workload": dense, "microseconds": 11.0, "decision": "a=1"},
        {"workload": dense, "microseconds": 13.0, "decision": "a=1"},
        {"workload": multiply, "microseconds": 1.0, "source": "", "flops": 0},
    ]
    after = [
        {**call, "microseconds": 6.0, "decision": "a=2", "source": "measured"} for call in before
    ]
    files = [profile(tmp_path / f"{n}.json", calls) for n, calls in enumerate((before, after))]
    profiles = [read_profile(path) for path in files]
    known = by_name(gathered(LOG, TRIALS, profiles=profiles))
    assert (known[dense].calls, known[multiply].calls) == (2, 1)
    assert times(known[dense]) == (10.5, 8.4)
    assert known[dense].profiled == 6.0
    assert known[multiply].operator == OTHER
    unknown = by_name(gathered([], [], profiles=profiles))
    assert times(unknown[dense]) == (12.0, 6.0)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "null",
        "[" * 100_000,
        '{"file": "m", "threads": 1, "peak": {"gflops": NaN, "gbytes": 1}, "calls": []}',
        '{"file": "m", "threads": true, "peak": {"gflops": 1, "gbytes": 1}, "calls": []}',
        '{"file": "m", "threads": 1, "peak": {"gflops": 1, "gbytes": 1}, "calls": []}',
        '{"file": "m", "threads": 1, "peak": {"gflops": 1, "gbytes": 1}, "calls": [3]}',
        '{"rows": []}',
        '{"rows": [{"model": "m", "threads": 1, "milliseconds": [], "missing": {}}]}',
        '{"rows": [{"model": "m", "threads": 1, "milliseconds": {"a": {"least": -1}}}]}',
    ],
)
def test_json_of_another_kind_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(content)
    for read, made_by in ((read_profile, "profile --json"), (read_peers, "peers.py --json")):
        with pytest.raises(UserError, match=f"file.json: is not the output of .*{made_by}"):
            read(path)


def test_a_missing_or_binary_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_profile(tmp_path / "none.json")
    (tmp_path / "binary").write_bytes(b"\xff\x00")
    with pytest.raises(UserError, match="is not the output of"):
        read_peers(tmp_path / "binary")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (9.8, 12.3), (0.17, 0.2), (0, 21_600)])
def test_linear_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    ticks = Linear(low, high).ticks(4)
    assert 2 <= len(ticks) <= 5
    assert all(low <= tick <= high for tick in ticks)
    assert all(len(f"{tick:g}".replace(".", "").strip("0")) <= 3 for tick in ticks)


@pytest.mark.parametrize("values", [[7.0], [0.17, 0.18], [1.3, 118.0], [1e-3, 1e4]])
def test_a_logarithmic_axis_holds_its_values_and_has_ticks(values: list[float]) -> None:
    axis = Logarithmic.around(values)
    assert axis.low < min(values)
    assert max(values) < axis.high
    assert len(axis.ticks()) >= 2
    assert (axis.at(axis.low), axis.at(axis.high)) == (0, 1)


def test_markup_is_escaped() -> None:
    assert text('<a & "b">\x00\ud800') == "&lt;a &amp; &quot;b&quot;&gt;\ufffd\ufffd"
    assert tag("td", "x", class_="a", data_value='1"') == (
        '<td class="a" data-value="1&quot;">x</td>'
    )


@pytest.mark.parametrize(
    ("share", "shown"), [(0.076, "7.6 %"), (-0.01, "\u22121.0 %"), (-1e-5, "0.0 %"), (1, "100.0 %")]
)
def test_shares_are_rounded(share: float, shown: str) -> None:
    assert percent(share) == shown


def test_a_short_name_keeps_operator_and_sizes() -> None:
    name = (
        "depthwise_pointwise depthwise 1x56x56x128 k3x3 s1x1 p1,1,1,1 add_channel clip(0,6) -> 128 "
        "add_channel"
    )
    assert short_name(LayerTimes(name, "depthwise_pointwise", 1, 1)) == (
        "depthwise_pointwise 1x56x56x128 k3x3 s1x1 \u2192 128"
    )
