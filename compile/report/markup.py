"""Writes HTML and SVG that is well-formed XML, and numbers as people read them."""

from __future__ import annotations

import re
from html import escape

from mobilenet_tvm.compile.report.data import LayerTimes

#: How words of a workload start that say how large it is.
_SIZE = re.compile(r"\d|->|[ks]\d")


def text(value: str) -> str:
    """Return text as markup; what cannot be printed becomes U+FFFD, as XML demands."""
    return escape("".join(c if c.isprintable() else "\ufffd" for c in value))


def tag(name: str, /, *content: str, **attributes: str | float) -> str:
    """Return an element.

    Parameters
    ----------
    name : str
        Of the element.
    *content : str
        Markup. Without any, the element closes itself.
    **attributes : str or float
        Escaped here. An underscore stands for a hyphen; one at the end is dropped.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
    )
    return f"<{name}{written}>{''.join(content)}</{name}>" if content else f"<{name}{written}/>"


def _attribute(value: str | float) -> str:
    return text(value) if isinstance(value, str) else f"{round(value, 2):g}"


def microseconds(value: float | None) -> str:
    """Return a time of one layer, without its unit."""
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def milliseconds(microseconds: float) -> str:
    """Return a time of a network, without its unit."""
    value = 1e-3 * microseconds
    return f"{value:.3f}" if value < 10 else f"{value:.2f}"


def percent(share: float) -> str:
    """Return a share, with a real minus."""
    shown = f"{100 * share:.1f}"
    # Rounded to nothing, it has no sign.
    shown = shown.removeprefix("-") if not float(shown) else shown.replace("-", "\u2212")
    return f"{shown} %"


def number(value: float) -> str:
    """Return a number of an axis."""
    return f"{value:g}"


def short_name(layer: LayerTimes) -> str:
    """Return a workload's operator and sizes, for narrow places."""
    operator, *words = layer.workload.split(" ")
    return " ".join([operator, *filter(_SIZE.match, words)]).replace("->", "→")
