"""Shows what the cost model is worth: the tuner's search against random search.

Measures every decision of some layers once on this machine, then lets both searches choose among
those times, so that they differ in nothing but their choices. The default decision is left out:
it would hide how either starts. With earlier trials of other layers, or for another target, a
third search starts from what the cost model learnt of them.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
from measuring import measure

from mobilenet_tvm.compile.tuning.cost_model import CostModel
from mobilenet_tvm.compile.tuning.records import known_trials
from mobilenet_tvm.compile.tuning.search import BATCH, predicted_best
from mobilenet_tvm.compile.tuning.space import Space
from mobilenet_tvm.compile.tuning.tune import by_number
from mobilenet_tvm.compile.tuning_log import TuningLog
from mobilenet_tvm.schedules.workload import Depthwise, Pointwise, Step, Workload
from mobilenet_tvm.targets.presets import get_target

HARD_SWISH = (Step("add_channel"), Step("hard_swish"))
#: Of MobileNetV3-Large: wide, narrow, depthwise. The model's settings were chosen on three layers
#: of MobileNetV2.
LAYERS: list[Workload] = [
    Pointwise(196, 112, 672, HARD_SWISH),
    Pointwise(784, 120, 40, (Step("add_channel"), Step("add"))),
    Depthwise(1, 28, 28, 240, (3, 3), (2, 2), (1, 1, 1, 1), HARD_SWISH),
]


def earlier_trials(path: Path) -> list[tuple[Space, dict[int, float]]]:
    """Return the trials in a file named `<preset>.trials.jsonl`, but for those of `LAYERS`."""
    target = get_target(path.name.partition(".")[0])
    earlier = known_trials(TuningLog.read(path, target).records, target)
    found = []
    for workload, times in earlier.items():
        if workload not in LAYERS:
            space = Space(workload, target, [decision for decision, _ in times])
            found.append((space, by_number(space, times)))
    return found


def best_so_far(
    space: Space,
    seconds: dict[int, float],
    trials: int,
    seed: int,
    learns: bool,
    earlier: list[tuple[Space, dict[int, float]]],
) -> list[float]:
    """Return, after each trial, the best throughput as a share of the space's best."""
    rng = np.random.default_rng(seed)
    model = CostModel(seed)
    for other, times in earlier:
        model.learn(other, times)
    model.add(space)
    untried = [number for number in seconds if number != 0]
    limit = min(seconds[number] for number in untried)
    order: list[int] = []
    while len(order) < min(trials, len(seconds) - 1):
        scores = model.scores(space, untried) if learns else None
        batch = predicted_best(untried, scores, BATCH, rng)
        if learns:
            model.learn(space, {number: seconds[number] for number in batch})
        order += batch
        untried = [number for number in untried if number not in batch]
    times = [seconds[number] for number in order[:trials]]
    return list(limit / np.minimum.accumulate(times))


@click.command()
@click.option("--target", "name", default="native", show_default=True)
@click.option("--trials", default=64, show_default=True)
@click.option("--seeds", default=5, show_default=True)
@click.option("--times", type=click.Path(path_type=Path), help="Keeps the measured times.")
@click.option(
    "--earlier",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="Trials to start from: <preset>.trials.jsonl; repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(
    name: str, trials: int, seeds: int, times: Path | None, earlier: tuple[Path, ...], as_json: bool
) -> None:
    """Print how near the searches come to the best decision of three layers."""
    learnt = [known for path in earlier for known in earlier_trials(path)]
    target = get_target(name)
    kept: dict[str, dict[str, float]] = {}
    if times and times.exists():
        kept = json.loads(times.read_text())
    rows = []
    for layer in LAYERS:
        space = Space(layer, target)
        if str(layer) not in kept:
            kept[str(layer)] = {
                str(n): s for n, s in measure(space, range(len(space.decisions))).items()
            }
            if times:
                times.write_text(json.dumps(kept))
        seconds = {int(number): s for number, s in kept[str(layer)].items()}
        curves = {
            search: np.array(
                [
                    best_so_far(
                        space,
                        seconds,
                        trials,
                        seed,
                        search != "random",
                        learnt if search == "transfer" else [],
                    )
                    for seed in range(seeds)
                ]
            )
            for search in ("model", "random", "transfer")[: 3 if learnt else 2]
        }
        checkpoints = [n for n in (8, 16, 24, 32, 48, 64, 96, 128) if n <= curves["model"].shape[1]]
        rows.append(
            {
                "layer": str(layer),
                "decisions": len(seconds),
                "median_of_space": float(min(seconds.values()) / np.median(list(seconds.values()))),
                "default": min(seconds.values()) / seconds[0],
                **{
                    search: {
                        n: {"mean": float(c[:, n - 1].mean()), "worst": float(c[:, n - 1].min())}
                        for n in checkpoints
                    }
                    for search, c in curves.items()
                },
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
        for n in row["model"]:
            searches = (name for name in ("model", "random", "transfer") if name in row)
            shown = (
                f"{name} {row[name][n]['mean']:.1%} (worst {row[name][n]['worst']:.1%})"
                for name in searches
            )
            print(f"  after {n:>3} trials: {', '.join(shown)}")


if __name__ == "__main__":
    main()
