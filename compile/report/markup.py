"""Writes HTML and SVG as well-formed XML, and formats numbers for readers."""

from __future__ import annotations

import re
from html import escape

from mobilenet_tvm.compile.report.data import LayerTimes

#: What the words of a workload that give its size start with.
_SIZE = re.compile(r"\d|->|[ks]\d")


def text(value: str) -> str:
    """Return text as markup; unprintable characters, which XML forbids, become U+FFFD."""
    return escape("".join(c if c.isprintable() else "\ufffd" for c in value))


def tag(name: str, /, *content: str, **attributes: str | float) -> str:
    """Return an element.

    Parameters
    ----------
    name : str
        The element's name.
    *content : str
        Markup. Without any, the element is self-closing.
    **attributes : str or float
        They are escaped here. An underscore stands for a hyphen; one at the end is dropped.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
    )
    return f"<{name}{written}>{''.join(content)}</{name}>" if content else f"<{name}{written}/>"


def _attribute(value: str | float) -> str:
    return text(value) if isinstance(value, str) else f"{round(value, 2):g}"


def microseconds(value: float | None) -> str:
    """Format the time of a layer, without its unit."""
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def milliseconds(microseconds: float) -> str:
    """Format the time of a network, without its unit."""
    value = 1e-3 * microseconds
    return f"{value:.3f}" if value < 10 else f"{value:.2f}"


def percent(share: float) -> str:
    """Format a share in percent, with a proper minus sign."""
    shown = f"{100 * share:.1f}"
    # Zero has no sign.
    shown = shown.removeprefix("-") if not float(shown) else shown.replace("-", "\u2212")
    return f"{shown} %"


def number(value: float) -> str:
    """Format a number on an axis."""
    return f"{value:g}"


def short_name(layer: LayerTimes) -> str:
    """Return a workload's operator and sizes, for narrow columns."""
    operator, *words = layer.workload.split(" ")
    return " ".join([operator, *filter(_SIZE.match, words)]).replace("->", "→")
