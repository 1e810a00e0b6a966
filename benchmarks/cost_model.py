"""Evaluates the cost model: the tuner's search against random search.

Measures every decision of some layers once on this machine, then runs the searches on the recorded
times, so that they differ only in their choices. The default decision is left out, since it would
hide how a search starts. Further searches start with a cost model trained on the shipped trials of
other layers, with and without those of this target.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
from measuring import measure_decisions

from mobilenet_tvm.compile.logs.log import TuningLog, shipped_log
from mobilenet_tvm.compile.tuning.cost_model import CostModel
from mobilenet_tvm.compile.tuning.prior import Known
from mobilenet_tvm.compile.tuning.records import known_trials
from mobilenet_tvm.compile.tuning.scheduler import BATCH_SIZE
from mobilenet_tvm.compile.tuning.search import predicted_best
from mobilenet_tvm.compile.tuning.space import Space
from mobilenet_tvm.schedules.workloads import Depthwise, Pointwise, Step, Window, Workload
from mobilenet_tvm.targets.presets import get_target
from mobilenet_tvm.targets.target import Target

#: Numbers of trials after which the best so far is printed, as mean (worst) over all seeds.
AFTER = (4, 8, 16, 24, 32, 64)
HARD_SWISH = (Step("add_channel"), Step("hard_swish"))
#: Layers of MobileNetV3-Large: wide, narrow, depthwise. The first two were among the eight layers
#: used to choose the model's settings, the third was not.
LAYERS: list[Workload] = [
    Pointwise(196, 112, 672, HARD_SWISH),
    Pointwise(784, 120, 40, (Step("add_channel"), Step("add"))),
    Depthwise(
        1, 56, 56, 72, Window((3, 3), (1, 1), (1, 1, 1, 1)), (Step("add_channel"), Step("relu"))
    ),
]


def earlier_trials(target: Target) -> dict[str, dict[Target, Known] | None]:
    """Return the earlier trials of each search: none, those of other targets, or all."""
    found: dict[Target, Known] = {}
    for path in sorted(shipped_log(target).parent.glob("*.trials.jsonl")):
        other = get_target(path.name.partition(".")[0])
        known = known_trials(TuningLog.read(path, other).records, other)
        found[other] = {layer: times for layer, times in known.items() if layer not in LAYERS}
    others = {other: known for other, known in found.items() if other.preset != target.preset}
    return {
        "random": None,
        "model from nothing": {},
        "model from other targets": others,
        "model from all targets": found,
    }


def best_so_far(
    space: Space,
    seconds: dict[int, float],
    trials: int,
    seed: int,
    earlier: dict[Target, Known] | None,
) -> list[float]:
    """Return, after each trial, the best throughput as a share of the space's best.

    The search is random if `earlier` is None; an empty mapping is a model without earlier trials.
    """
    rng = np.random.default_rng(seed)
    model = CostModel(seed, earlier)
    untried = [number for number in seconds if number != 0]
    limit = min(seconds[number] for number in untried)
    order: list[int] = []
    while len(order) < min(trials, len(seconds) - 1):
        scores = model.scores(space, untried) if earlier is not None else None
        batch = predicted_best(untried, scores, BATCH_SIZE, rng)
        if earlier is not None:
            model.learn(space, {number: seconds[number] for number in batch})
        order += batch
        untried = [number for number in untried if number not in batch]
    times = [seconds[number] for number in order[:trials]]
    return list(limit / np.minimum.accumulate(times))


def trials_to(curve: list[float], share: float) -> int:
    """Return the number of trials to reach a share of the best, or one more than all."""
    return next((n for n, best in enumerate(curve, 1) if best >= share), len(curve) + 1)


@click.command()
@click.option("--target", "name", default="native", show_default=True)
@click.option("--trials", default=64, show_default=True)
@click.option("--seeds", default=5, show_default=True)
@click.option(
    "--times", type=click.Path(path_type=Path), help="File that keeps the measured times."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(name: str, trials: int, seeds: int, times: Path | None, as_json: bool) -> None:
    """Print how close the searches come to the best decision of three layers."""
    target = get_target(name)
    searches = earlier_trials(target)
    kept: dict[str, dict[str, float]] = {}
    if times and times.exists():
        kept = json.loads(times.read_text())
    rows = []
    for layer in LAYERS:
        space = Space(layer, target)
        if str(layer) not in kept:
            measured = measure_decisions(space, range(len(space.decisions)))
            kept[str(layer)] = {str(number): s for number, s in measured.items()}
            if times:
                times.write_text(json.dumps(kept))
        seconds = {int(number): s for number, s in kept[str(layer)].items()}
        shortest = min(seconds.values())
        found = {}
        for search, earlier in searches.items():
            curves = [best_so_far(space, seconds, trials, seed, earlier) for seed in range(seeds)]
            table = np.array(curves)
            found[search] = {
                "mean": {n: float(table[:, n - 1].mean()) for n in AFTER if n <= table.shape[1]},
                "worst": {n: float(table[:, n - 1].min()) for n in AFTER if n <= table.shape[1]},
                "trials_to_99": float(np.mean([trials_to(curve, 0.99) for curve in curves])),
            }
        rows.append(
            {
                "layer": str(layer),
                "decisions": len(seconds),
                "median_of_space": float(shortest / np.median(list(seconds.values()))),
                "default": shortest / seconds[0],
                "searches": found,
            }
        )
    if as_json:
        print(json.dumps({"seeds": seeds, "layers": rows}, indent=2))
        return
    for row in rows:
        print(
            f"{row['layer']}: {row['decisions']} decisions, the default at {row['default']:.1%} "
            f"of the best, the median one at {row['median_of_space']:.1%}"
        )
        for search, result in row["searches"].items():
            shown = (
                f"{n}: {share:.1%} ({result['worst'][n]:.1%})"
                for n, share in result["mean"].items()
            )
            print(
                f"  {search:<30} {', '.join(shown)}; 99% after {result['trials_to_99']:.0f} trials"
            )


if __name__ == "__main__":
    main()
