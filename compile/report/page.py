"""Assembles the page: summary, charts and the table of layers, in one self-contained file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

from mobilenet_tvm.compile.logs.locked_file import locked, replace_text
from mobilenet_tvm.compile.report import charts
from mobilenet_tvm.compile.report.data import LayerTimes, Report
from mobilenet_tvm.compile.report.json_files import PeerRow
from mobilenet_tvm.compile.report.markup import microseconds, milliseconds, percent, tag, text
from mobilenet_tvm.compile.report.operators import in_order, style
from mobilenet_tvm.schedules.workloads import OPERATORS, parse
from mobilenet_tvm.targets.errors import UserError

#: The name of this project in the output of peers.py.
_OURS = "mobilenet-tvm"
#: Nothing is loaded over the network, whatever a user's file contains.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def render(report: Report) -> str:
    """Return the page, as HTML that is also well-formed XML."""
    layers = list(enumerate(report.layers, 1))
    sections = [
        _stacks(report, layers),
        _roofline(report, layers),
        _curves(layers),
        _peers(report.peers),
        _table(report, layers),
    ]
    title = " ".join(["Tuning report", *report.names])
    written = f"Written by mobilenet-tvm {version('mobilenet-tvm')}."
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", text(title)),
        tag("style", _beside("page.css"), style(layer.operator for layer in report.layers)),
    )
    main = tag("main", _header(report), *filter(None, sections), tag("footer", tag("p", written)))
    page = tag("html", head, tag("body", main, tag("script", _beside("page.js"))), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"


def write(report: Report, path: Path) -> None:
    """Write the page in one step.

    Raises
    ------
    UserError
        If it cannot be written; the file then stays as it was.
    """
    try:
        with locked(path.parent):
            replace_text(path, render(report))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); choose another with --output"
        ) from None


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _header(report: Report) -> str:
    facts = []
    if report.setting:
        facts += [
            ("Target", report.setting.target),
            ("Device", report.setting.device),
            ("Threads", str(report.setting.threads)),
        ]
        if report.setting.source == "emulated":
            facts.append(("Times", "estimated from what an emulated core executes"))
        if not report.setting.target:
            facts.append(("Times", "medians in the model, from profiles"))
    if report.peak:
        facts.append(("Peak", f"{report.peak.text}, {report.peak.gbytes:.1f} GB/s from memory"))
    days = dict.fromkeys(date[:16].replace("T", " ") for date in report.dates)
    facts += [
        ("Models", ", ".join(report.names)),
        ("Measured", f"{' to '.join(days)} UTC" if days else ""),
        ("Versions", ", ".join(report.versions)),
        ("Not shown", f"{report.elsewhere} records of other settings" if report.elsewhere else ""),
    ]
    listed = [tag("div", tag("dt", name), tag("dd", text(value))) for name, value in facts if value]
    heading = tag("h1", "Tuning report")
    return tag("header", heading, _tiles(report), tag("dl", *listed) if listed else "")


def _tiles(report: Report) -> str:
    """Return the key figures."""
    if not report.layers:
        return ""
    figures = []
    if report.compared:
        calls = sum(layer.calls for layer in report.compared)
        what = f"{calls} calls" if report.weighted else "each layer once"
        figures += [
            (f"{milliseconds(report.default_total)} ms", f"by default, {what}"),
            (f"{milliseconds(report.tuned_total)} ms", f"tuned, {what}"),
            (percent(report.gain), "gain"),
        ]
    compared = len(report.compared)
    label = "layers"
    if compared < len(report.layers):
        label += f", {compared} with times by default and tuned"
    if compared:
        label += (
            f", {sum(map(_is_changed, report.compared))} with another decision than the default"
        )
    figures += [(str(len(report.layers)), label), (str(report.trials), "trials")]
    return tag(
        "ul",
        *(tag("li", tag("strong", value), tag("span", label)) for value, label in figures),
        class_="tiles",
    )


def _is_changed(layer: LayerTimes) -> bool:
    decisions = {timing.decision for timing in (layer.default, layer.tuned) if timing}
    return len(decisions) > 1


def _stacks(report: Report, layers: charts.Numbered) -> str:
    compared = [(n, layer) for n, layer in layers if layer.gain is not None]
    if not compared:
        return ""
    order = in_order(layer.operator for _, layer in compared)
    by_operator = sorted(compared, key=lambda item: order.index(item[1].operator))
    totals = (("By default", report.default_total), ("Tuned", report.tuned_total))
    groups = {
        name: [layer for _, layer in group]
        for name, group in groupby(by_operator, key=lambda item: item[1].operator)
    }
    rows = [_operator_row(name, members, report.tuned_total) for name, members in groups.items()]
    head = ["operator", "layers", "calls", "default ms", "tuned ms", "gain", "of the time"]
    cells = [tag("th", name, scope="col", **_number_class(n > 0)) for n, name in enumerate(head)]
    table = tag("table", tag("thead", tag("tr", *cells)), tag("tbody", *rows), class_="operators")
    note = (
        "Each layer is counted as often as the models call it."
        if report.weighted
        else "Each layer is counted once: without --model or --profile, calls are not known."
    )
    return _section(
        "Time per layer",
        f"{note} Each part is a layer and links to its row in the table.",
        tag("figure", charts.stacks(by_operator, totals)),
        tag("div", table, class_="scroll"),
    )


def _operator_row(name: str, layers: Iterable[LayerTimes], whole: float) -> str:
    layers = list(layers)
    part = Report(None, tuple(layers))
    cells = [
        str(len(layers)),
        str(sum(layer.calls for layer in layers)),
        milliseconds(part.default_total),
        milliseconds(part.tuned_total),
        percent(part.gain),
        percent(part.tuned_total / whole),
    ]
    head = tag("th", charts.swatch(name), text(name), scope="row")
    return tag("tr", head, *(tag("td", cell, class_="number") for cell in cells))


def _roofline(report: Report, layers: charts.Numbered) -> str:
    drawn = [
        (n, layer)
        for n, layer in layers
        if (layer.default or layer.tuned) and layer.flops and layer.bytes
    ]
    if not drawn:
        return ""
    shapes = tag(
        "p",
        tag("span", "", class_="mark hollow"),
        "by default ",
        tag("span", "", class_="mark"),
        "tuned",
        class_="shapes",
    )
    note = (
        "Bytes are those of data, weights and output, each counted once, whether from memory or a "
        "cache; a layer above the line of memory had its data in a cache."
    )
    return _section(
        "Roofline",
        note,
        charts.legend(in_order(layer.operator for _, layer in drawn)),
        shapes,
        tag(
            "figure",
            tag("p", "GFLOP/s", class_="axis"),
            charts.roofline(drawn, report.peak),
            tag("p", "floating-point operations per byte", class_="axis across"),
        ),
    )


def _curves(layers: charts.Numbered) -> str:
    drawn = [charts.curve(n, layer) for n, layer in layers if len(layer.trials) > 1]
    if not drawn:
        return ""
    rest = [charts.link(n, str(n)) for n, layer in layers if len(layer.trials) == 1]
    alone = f"Only the default was measured: {', '.join(rest)}." if rest else ""
    return _section(
        "Tuning curves",
        "Microseconds over trials: a point for each trial, a line for the best so far, a dashed "
        "line for the default. Slow trials are cut off. Below the name: default and tuned, as "
        "they were measured last.",
        tag("div", *drawn, class_="curves"),
        tag("p", alone, class_="note") if alone else "",
    )


def _peers(rows: Sequence[PeerRow]) -> str:
    if not rows:
        return ""
    figures = [
        tag("figure", tag("figcaption", text(_case(row))), charts.peers(row, _OURS))
        for row in rows
        if row.milliseconds
    ]
    missing: defaultdict[str, list[PeerRow]] = defaultdict(list)
    for row in rows:
        for name, reason in row.missing.items():
            missing[f"{name}: {reason}"].append(row)
    notes = [
        what if len(cases) == len(rows) else f"{'; '.join(map(_case, cases))}: {what}"
        for what, cases in missing.items()
    ]
    absent = [tag("p", "Not measured:"), tag("ul", *(tag("li", text(note)) for note in notes))]
    return _section(
        "Comparison with other runtimes",
        "Milliseconds per run: bar and number show the shortest run, the line ends at the median.",
        tag("div", *figures, class_="peers") if figures else "",
        tag("div", *absent, class_="note") if notes else "",
    )


def _case(row: PeerRow) -> str:
    return f"{row.model}, {row.threads} thread" + "s" * (row.threads > 1)


def _table(report: Report, layers: charts.Numbered) -> str:
    if not layers:
        return ""
    in_network = any(layer.profiled for _, layer in layers)
    head = ["no.", "layer", "calls", "default µs", "tuned µs", "gain", "GFLOP/s"]
    head += ["of peak"] * bool(report.peak) + ["spread"]
    head += ["in the model µs"] * in_network + ["decision"]
    texts = ("layer", "decision")
    cells = [tag("th", name, scope="col", **_number_class(name not in texts)) for name in head]
    rows = [_row(n, layer, report, in_network) for n, layer in layers]
    table = tag(
        "table", tag("thead", tag("tr", *cells)), tag("tbody", *rows), class_="sortable layers"
    )
    return _section(
        "Layers",
        "GFLOP/s, share of peak, spread (the median above the first decile) and decision are those "
        "of the tuned layer.",
        # Shown by the script only.
        tag("p", "Click a column header to sort.", class_="note scripted", hidden="hidden"),
        tag("div", table, class_="scroll"),
    )


def _row(position: int, layer: LayerTimes, report: Report, in_network: bool) -> str:
    default, tuned = layer.default, layer.tuned
    speed = layer.gflops(tuned) if tuned and layer.flops else None
    name = tag("th", charts.swatch(layer.operator), text(layer.workload), scope="row")
    cells = [
        _cell(position, str(position)),
        name,
        _cell(layer.calls, str(layer.calls)),
        _time(default.microseconds if default else None),
        _time(tuned.microseconds if tuned else None),
        _share(layer.gain),
        _cell(speed, f"{speed:.1f}" if speed else ""),
    ]
    if report.peak:
        known = layer.operator in OPERATORS
        peak = report.peak.of(parse(layer.workload)) if known else report.peak.gflops
        cells.append(_share(speed / peak if speed else None))
    cells.append(_share(tuned.spread if tuned else None))
    if in_network:
        cells.append(_time(layer.profiled))
    cells.append(tag("td", text(tuned.decision) if tuned else "", class_="decision"))
    return tag("tr", *cells, id=f"layer-{position}")


def _time(value: float | None) -> str:
    return _cell(value, microseconds(value))


def _share(value: float | None) -> str:
    return _cell(value, "" if value is None else percent(value))


def _cell(value: float | None, shown: str) -> str:
    """Return a cell with a number; the script sorts by the exact value."""
    sorts = {} if value is None else {"data_value": f"{value:.6g}"}
    return tag("td", shown if sorts else "-", class_="number", **sorts)


def _number_class(is_number: bool) -> dict[str, str]:
    return {"class_": "number"} if is_number else {}


def _section(heading: str, note: str, *content: str) -> str:
    return tag("section", tag("h2", heading), tag("p", note, class_="note"), *content)
