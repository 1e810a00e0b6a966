"""Draws the charts as SVG: tuning curves, roofline, time per layer, latencies of runtimes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from mobilenet_tvm.compile.analysis.peak import Peak
from mobilenet_tvm.compile.report.data import LayerTimes, Timing
from mobilenet_tvm.compile.report.json_files import PeerRow
from mobilenet_tvm.compile.report.markup import (
    microseconds,
    milliseconds,
    number,
    percent,
    short_name,
    tag,
    text,
)
from mobilenet_tvm.compile.report.scales import Linear, Logarithmic

#: Layers with their numbers on the page, from 1.
Numbered = Sequence[tuple[int, LayerTimes]]

#: Size of a curve and edges of its plot, in units of the drawing, about a pixel each.
_WIDTH, _HEIGHT = 180, 104
_LEFT, _RIGHT, _TOP, _BOTTOM = 36, 174, 8, 84
#: A curve's axis reaches at least this share above the best time, so that noise looks small.
_MIN_SPAN = 0.2
#: Heights in pixels; widths follow the page.
_ROOFLINE, _BAR, _PEER = 420, 36, 26


def curve(position: int, layer: LayerTimes) -> str:
    """Draw a layer's best time so far over the number of trials, and its default's time.

    Parameters
    ----------
    position : int
        The layer's number on the page.
    layer : LayerTimes
        A layer with at least two trials.
    """
    best, default = min(layer.trials), layer.trials[0]
    y = Linear(0.98 * best, 1.02 * max(default, (1 + _MIN_SPAN) * best))
    x = Linear(1, len(layer.trials))

    def place(trial: int, time: float) -> tuple[float, float]:
        return _LEFT + (_RIGHT - _LEFT) * x.at(trial), _BOTTOM - (_BOTTOM - _TOP) * y.at(time)

    parts = []
    for tick in y.ticks(4):
        _, height = place(1, tick)
        parts.append(tag("line", x1=_LEFT, x2=_RIGHT, y1=height, y2=height, class_="grid"))
        label = tag("text", number(tick), x=_LEFT - 4, y=height + 4, text_anchor="end")
        parts.append(label)
    # A point is a line of length 0 with round ends: one path is shorter than many circles.
    points = [place(n, t) for n, t in enumerate(layer.trials, 1) if t <= y.high]
    parts.append(tag("path", d="".join(f"M{a:.1f} {b:.1f}h0" for a, b in points), class_="trials"))
    steps = [place(n, t) for n, t in enumerate(layer.best_so_far, 1)]
    drops = [b for a, b in pairwise(steps) if a[1] != b[1]]
    drawn = "".join(f"H{a:.1f}V{b:.1f}" for a, b in drops)
    start = f"M{steps[0][0]:.1f} {steps[0][1]:.1f}"
    parts.append(tag("path", d=f"{start}{drawn}H{_RIGHT}", class_="best"))
    _, height = place(1, default)
    parts.append(tag("line", x1=_LEFT, x2=_RIGHT, y1=height, y2=height, class_="default"))
    base = _HEIGHT - 4
    parts.append(tag("text", "1", x=_LEFT, y=base))
    end = tag("text", f"{len(layer.trials)} trials", x=_RIGHT, y=base, text_anchor="end")
    parts.append(end)
    title = (
        f"{layer.workload}: {microseconds(default)} µs by default, "
        f"best of {len(layer.trials)} trials {microseconds(best)} µs"
    )
    svg = _svg(title, parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}")
    gain = "" if layer.gain is None else f", {percent(layer.gain)}"
    name = tag("span", text(short_name(layer)), class_="name", title=layer.workload)
    times = f"{_time(layer.default)} → {_time(layer.tuned)} µs{gain}"
    caption = tag("figcaption", link(position, str(position)), " ", name, tag("small", times))
    return tag("figure", caption, svg, class_=f"curve {layer.operator}")


def roofline(layers: Numbered, peak: Peak | None) -> str:
    """Draw each layer's speed by default and tuned, over its operations per byte.

    Parameters
    ----------
    layers : sequence of (int, LayerTimes)
        At least one; all have a time, operations and bytes.
    peak : Peak, optional
        The roof; none is drawn without it.
    """
    x = Logarithmic.around([layer.flops / layer.bytes for _, layer in layers])
    speeds = [layer.gflops(time) for _, layer in layers for time in _timings(layer)]
    y = Logarithmic.around(speeds + ([peak.gflops] if peak else []))
    parts = []
    for tick in x.ticks():
        at = _part(x.at(tick))
        parts.append(tag("line", x1=at, x2=at, y1=0, y2="100%", class_="grid"))
        parts.append(tag("text", number(tick), x=at, y=_ROOFLINE + 16, text_anchor="middle"))
    for tick in y.ticks():
        at = _part(1 - y.at(tick))
        parts.append(tag("line", x1=0, x2="100%", y1=at, y2=at, class_="grid"))
        label = tag("text", number(tick), x=-6, y=at, dy=4, text_anchor="end")
        parts.append(label)
    if peak:
        parts += _roof(peak, x, y)
    parts += [_point(n, layer, x, y) for n, layer in layers]
    title = f"Roofline of {len(layers)} layers"
    return _svg(title, parts, role="group", class_="plot roofline", height=_ROOFLINE)


def _roof(peak: Peak, x: Logarithmic, y: Logarithmic) -> list[str]:
    """Return the lines of both limits as far as they are in the plot, with labels."""
    ridge = peak.gflops / peak.gbytes
    start = max(x.low, y.low / peak.gbytes)
    parts = []
    top = _part(1 - y.at(peak.gflops))
    if ridge > start:
        end = min(ridge, x.high)
        ends = [(_part(x.at(at)), _part(1 - y.at(peak.gbytes * at))) for at in (start, end)]
        (x1, y1), (x2, y2) = ends
        parts.append(tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="roof"))
        # Below the middle of the rising line.
        middle = (start * end) ** 0.5
        at = {"x": _part(x.at(middle)), "y": _part(1 - y.at(peak.gbytes * middle))}
        name = f"{peak.gbytes:.1f} GB/s from memory"
        parts.append(tag("text", name, **at, dx=10, dy=14, class_="limit"))
    if ridge < x.high:
        left = _part(x.at(max(ridge, x.low)))
        parts.append(tag("line", x1=left, x2="100%", y1=top, y2=top, class_="roof"))
        name = f"{peak.gflops:.1f} GFLOP/s of multiply-adds"
        at = {"x": "100%", "y": top}
        parts.append(tag("text", name, **at, dy=-7, text_anchor="end", class_="limit"))
    return parts


def _point(position: int, layer: LayerTimes, x: Logarithmic, y: Logarithmic) -> str:
    """Return both points of a layer, connected, as a link to its row."""
    across = _part(x.at(layer.flops / layer.bytes))
    title = [f"{position} {layer.workload}"]
    marks = []
    for name, time in (("default", layer.default), ("tuned", layer.tuned)):
        if time is None:
            continue
        height = _part(1 - y.at(layer.gflops(time)))
        marks.append((name, height))
        title.append(
            f"{name}: {_time(time)} µs, {layer.gflops(time):.1f} GFLOP/s, {time.decision or '-'}"
        )
    parts = [tag("title", text("; ".join(title)))]
    if len(marks) == 2:
        (_, y1), (_, y2) = marks
        parts.append(tag("line", x1=across, x2=across, y1=y1, y2=y2, class_="way"))
    parts += [tag("circle", cx=across, cy=at, r=4.5, class_=name) for name, at in marks]
    # A larger target for fingers.
    parts += [tag("circle", cx=across, cy=at, r=11, class_="touch") for _, at in marks[-1:]]
    return tag("a", *parts, href=f"#layer-{position}", class_=layer.operator)


def stacks(layers: Numbered, totals: Sequence[tuple[str, float]]) -> str:
    """Draw a bar of all layers by default and one of all layers tuned.

    Parameters
    ----------
    layers : sequence of (int, LayerTimes)
        Layers with both times, in the order in which they are stacked.
    totals : sequence of (str, float)
        Name and sum in microseconds of each bar: by default, tuned.
    """
    x = Linear(0, max(total for _, total in totals))
    axis = 2 * (_BAR + 28)
    parts = []
    ticks = Linear(0, 1e-3 * x.high).ticks(6)
    for tick in ticks:
        at = _part(x.at(1e3 * tick))
        parts.append(tag("line", x1=at, x2=at, y1=0, y2=axis, class_="grid"))
        label = number(tick) + (" ms" if tick == ticks[-1] else "")
        parts.append(tag("text", label, x=at, y=axis + 16, text_anchor="middle"))
    for row, (name, total) in enumerate(totals):
        top = row * (_BAR + 28) + 22
        parts.append(tag("text", f"{name}: {milliseconds(total)} ms", x=0, y=top - 6))
        start = 0.0
        for position, layer in layers:
            time = (layer.default, layer.tuned)[row]
            if time is None:
                continue
            length = layer.calls * time.microseconds
            parts.append(_segment(position, layer, time, x.at(start), x.at(length), top))
            start += length
    title = "Time per layer, by default and tuned"
    return _svg(title, parts, role="group", class_="plot stacks", height=axis + 20)


def _segment(
    position: int, layer: LayerTimes, time: Timing, start: float, length: float, top: float
) -> str:
    title = f"{position} {layer.workload}: {layer.calls} x {_time(time)} µs; {time.decision or '-'}"
    bar = tag("rect", x=_part(start), width=_part(length), y=top, height=_BAR, class_="segment")
    parts = tag("title", text(title)), bar
    return tag("a", *parts, href=f"#layer-{position}", class_=layer.operator)


def peers(row: PeerRow, ours: str) -> str:
    """Draw a network's latency by runtime: a bar to the shortest run, a line to the median.

    Parameters
    ----------
    row : PeerRow
        A network with at least one runtime.
    ours : str
        The runtime to highlight.
    """
    x = Linear(0, 1.3 * max(median for _, median in row.milliseconds.values()))
    parts = []
    for index, (name, (least, median)) in enumerate(
        sorted(row.milliseconds.items(), key=lambda item: item[1])
    ):
        top = index * _PEER
        class_ = "peer ours" if name == ours else "peer"
        end, middle = _part(x.at(least)), top + _PEER / 2
        title = tag("title", text(f"{name}: least {least:.3f} ms, median {median:.3f} ms"))
        bar = tag("rect", x=0, width=end, y=top + 4, height=_PEER - 8)
        whisker = tag("line", x1=end, x2=_part(x.at(median)), y1=middle, y2=middle)
        label = tag("text", text(name), x=-6, y=middle + 4, text_anchor="end")
        value = tag("text", f"{least:.2f}", x=_part(x.at(median)), dx=6, y=middle + 4)
        parts.append(tag("g", title, bar, whisker, label, value, class_=class_))
    height = _PEER * len(row.milliseconds)
    title_of_all = f"{row.model}, {row.threads} threads: milliseconds by runtime"
    return _svg(title_of_all, parts, class_="plot peers", height=height)


def legend(operators: Iterable[str]) -> str:
    """Return a legend of the operators' colours."""
    items = [tag("li", swatch(name), text(name)) for name in operators]
    return tag("ul", *items, class_="legend")


def swatch(operator: str) -> str:
    """Return a patch of an operator's colour."""
    return tag("span", "", class_=f"swatch {operator}")


def link(position: int, label: str) -> str:
    """Return a link to a layer's row."""
    return tag("a", label, href=f"#layer-{position}")


def _timings(layer: LayerTimes) -> list[Timing]:
    return [time for time in (layer.default, layer.tuned) if time]


def _time(timing: Timing | None) -> str:
    return microseconds(timing.microseconds if timing else None)


def _part(share: float) -> str:
    """Return a share of the drawing in percent; text then keeps its size on a narrow page."""
    return f"{100 * share:.2f}%"


def _svg(title: str, parts: Iterable[str], role: str = "img", **attributes: str | float) -> str:
    """Return a drawing; for screen readers one with links is a `group` instead of an image."""
    return tag("svg", *parts, role=role, aria_label=title, **attributes)
