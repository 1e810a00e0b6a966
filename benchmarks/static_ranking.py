"""Evaluates static estimates: their ranking of a layer's decisions against measured times.

Estimates and measures decisions of some layers of MobileNetV2 on this machine, with its caches: the
candidates that static tuning would consider, and random ones.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from measuring import measure_decisions
from tvm.support.popen_pool import PopenPoolExecutor

from mobilenet_tvm.compile.models.source import ModelOptions
from mobilenet_tvm.compile.tuning.layers import find_layers, select
from mobilenet_tvm.compile.tuning.local.builder import one_line
from mobilenet_tvm.compile.tuning.space import Space
from mobilenet_tvm.compile.tuning.static.candidates import candidates
from mobilenet_tvm.compile.tuning.static.estimate import estimate
from mobilenet_tvm.targets.host import cache_bytes
from mobilenet_tvm.targets.presets import get_target

#: Layers of every kind, by parts of their names.
LAYERS = (
    "block conv2d 1x224",
    "block conv2d 1x56x56x24->144 k1x1 s1x1 p0,0,0,0 nhwc add_channel clip(0,6) -> "
    "depthwise_pointwise depthwise 1x56x56x144 k3x3 s1x1",
    "pointwise 784x32x192",
    "depthwise 1x14x14x384 k3x3 s1x1 p1,1,1,1 add_channel clip(0,6)",
    "pointwise 196x384x96",
    "depthwise 1x14x14x576 k3x3 s2x2",
    "pointwise 49x160x960",
    "pointwise 1x1280x1000",
)


def estimated(space: Space, numbers: Sequence[int]) -> dict[int, dict[str, float]]:
    """Return the estimates of decisions, by number, except those that fail."""
    pool = PopenPoolExecutor(timeout=60.0)
    jobs = {
        number: pool.submit(estimate, space.workload, space.decisions[number], space.target)
        for number in numbers
    }
    found = {}
    for number, job in jobs.items():
        try:
            found[number] = vars(job.result())
        except Exception as error:
            print(f"{space.decisions[number]}: {one_line(error)}", file=sys.stderr)
    pool.shutdown()
    return found


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Return Spearman's rank correlation; equal values share their mean rank."""

    def ranks(values: Sequence[float]) -> np.ndarray[Any, Any]:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        return np.asarray((ends - (counts - 1) / 2)[inverse])

    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def row(
    space: Space, times: dict[int, float], estimates: dict[int, dict[str, float]]
) -> dict[str, Any]:
    """Return the results of a layer."""
    numbers = [number for number in times if number in estimates]
    first = min(numbers, key=lambda number: estimates[number]["seconds"])
    best = min(times.values())
    return {
        "layer": str(space.workload),
        "decisions": len(space.decisions),
        "measured": len(numbers),
        "rank_correlation": rank_correlation(
            [estimates[number]["seconds"] for number in numbers],
            [times[number] for number in numbers],
        ),
        "first_over_best": times[first] / best,
        "first_over_default": times[first] / times[0],
        "default_over_best": times[0] / best,
        "median_over_best": float(np.median(list(times.values()))) / best,
        "predicted_first_over_default": estimates[first]["seconds"] / estimates[0]["seconds"],
        "estimate_over_measured": float(
            np.median([estimates[number]["seconds"] / times[number] for number in numbers])
        ),
    }


@click.command()
@click.option("--target", "name", default="x86", show_default=True)
@click.option("--candidates", "limit", default=24, show_default=True, help="Per layer.")
@click.option(
    "--random", "others", default=24, show_default=True, help="Random decisions per layer."
)
@click.option("--layers", "patterns", multiple=True, help="Parts of layers' names.")
@click.option(
    "--times", type=click.Path(path_type=Path), help="File that keeps the measured times."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(
    name: str,
    limit: int,
    others: int,
    patterns: tuple[str, ...],
    times: Path | None,
    as_json: bool,
) -> None:
    """Print how well static estimates rank the decisions of MobileNetV2's layers."""
    preset = get_target(name)
    target = replace(
        preset,
        l1d_bytes=cache_bytes(1) or preset.l1d_bytes,
        l2_bytes=cache_bytes(2) or preset.l2_bytes,
    )
    layers = select(find_layers(["v2"], target, ModelOptions()), patterns or LAYERS)
    kept: dict[str, dict[str, float]] = {}
    if times and times.exists():
        kept = json.loads(times.read_text())
    rows = []
    for layer in layers:
        space = Space(layer, target)
        chosen = [space.decisions.index(d) for d in candidates(layer, target, limit)]
        rest = [n for n in range(len(space.decisions)) if n not in chosen]
        rng = np.random.default_rng(0)
        drawn = rng.choice(rest, min(others, len(rest)), replace=False)
        chosen += sorted(int(n) for n in drawn)
        if str(layer) not in kept:
            kept[str(layer)] = {str(n): s for n, s in measure_decisions(space, chosen).items()}
            if times:
                times.write_text(json.dumps(kept))
        seconds = {int(number): s for number, s in kept[str(layer)].items()}
        print(f"measured {layer}", file=sys.stderr)
        estimates = estimated(space, list(seconds))
        rows.append(row(space, seconds, estimates) | {"estimates": estimates, "seconds": seconds})
    if as_json:
        print(json.dumps({"target": target.name, "core": target.core, "layers": rows}))
        return
    print("decisions  tried  rank corr.  first/best  first/default  default/best  layer")
    for found in rows:
        print(
            f"{found['decisions']:>9} {found['measured']:>6} {found['rank_correlation']:>11.2f} "
            f"{found['first_over_best']:>11.3f} {found['first_over_default']:>14.3f} "
            f"{found['default_over_best']:>13.3f}  {found['layer']}"
        )


if __name__ == "__main__":
    main()
