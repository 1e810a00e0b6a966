"""The operators on the page: the order in which they are shown, and their colours."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from mobilenet_tvm.compile.report.data import OTHER

#: Operators that have the same place and colour on every page. Others follow, by name; `OTHER` is
#: last.
FIRST = (
    "pointwise",
    "depthwise",
    "depthwise_pointwise",
    "block",
    "conv2d",
    "global_pool",
)
#: How many colours page.css has, apart from that of `OTHER`.
COLORS = 9


def in_order(operators: Iterable[str]) -> list[str]:
    """Return each operator once, in the order in which they are shown."""
    places = {name: place for place, name in enumerate(FIRST)}
    return sorted(
        set(operators), key=lambda name: (name == OTHER, places.get(name, len(FIRST)), name)
    )


def style(operators: Iterable[str]) -> str:
    """Return the CSS that gives each operator its colour.

    Colours repeat where there are more operators than colours.
    """
    shown = in_order(operators)
    others = [name for name in shown if name not in (*FIRST, OTHER)]
    spare = range(len(FIRST) + 1, COLORS + 1)
    colors: dict[str, int | str] = {
        **{name: number for number, name in enumerate(FIRST, 1)},
        **dict(zip(others, itertools.cycle(spare), strict=False)),
        OTHER: "other",
    }
    return "".join(f".{name} {{ --color: var(--color-{colors[name]}); }}\n" for name in shown)
