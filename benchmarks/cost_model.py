"""Shows what the cost model is worth: the tuner's search against random search.

Measures every decision of some layers once on this machine, then lets both searches choose among
those times, so that they differ in nothing but their choices. The default decision is left out:
it would hide how either starts.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
from tvm.s_tir.meta_schedule.builder import BuilderInput
from tvm.s_tir.meta_schedule.runner import RunnerInput

from mobilenet_tvm.compile.pipeline import llvm_target
from mobilenet_tvm.compile.tuning.builder import Builder
from mobilenet_tvm.compile.tuning.cost_model import CostModel
from mobilenet_tvm.compile.tuning.measure import Measurement
from mobilenet_tvm.compile.tuning.runner import Runner
from mobilenet_tvm.compile.tuning.search import BATCH, predicted_best
from mobilenet_tvm.compile.tuning.space import Space
from mobilenet_tvm.compile.tuning.task import Task
from mobilenet_tvm.schedules import operators
from mobilenet_tvm.schedules.workload import Depthwise, Pointwise, Step, Workload
from mobilenet_tvm.targets.presets import get_target

RELU6 = (Step("add_channel"), Step("clip", (0.0, 6.0)))
#: Of MobileNetV2: wide, narrow, depthwise.
LAYERS: list[Workload] = [
    Pointwise(196, 96, 576, RELU6),
    Pointwise(784, 144, 32, (Step("add_channel"),)),
    Depthwise(1, 112, 112, 96, (3, 3), (2, 2), (0, 0, 1, 1), RELU6),
]


def measure_all(space: Space) -> dict[int, float]:
    """Return the seconds of every decision that works, by number."""
    task = Task(space, 1)

    def keep(task: Task, number: int, outcome: object) -> None:
        task.outcomes[number] = outcome
        print(
            f"\r{len(task.outcomes)}/{len(space.decisions)} {space.workload}",
            end="",
            file=sys.stderr,
        )

    with tempfile.TemporaryDirectory() as folder:
        builder = Builder([task], operators.build, Path(folder), keep)
        runner = Runner(builder.artifacts, 1, Path(folder), keep)
        try:
            for start in range(0, len(space.candidates), 32):
                batch = space.candidates[start : start + 32]
                target = llvm_target(space.target)
                built = builder.build([BuilderInput(c.sch.mod, target) for c in batch])
                runner.run(
                    [RunnerInput(b.artifact_path, "cpu", []) for b in built if b.artifact_path]
                )
        finally:
            builder.close()
            runner.close()
    print(file=sys.stderr)
    return {n: o.seconds for n, o in task.outcomes.items() if isinstance(o, Measurement)}


def best_so_far(
    space: Space, seconds: dict[int, float], trials: int, seed: int, learns: bool
) -> list[float]:
    """Return, after each trial, the best throughput as a share of the space's best."""
    rng = np.random.default_rng(seed)
    model = CostModel(seed)
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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(name: str, trials: int, seeds: int, times: Path | None, as_json: bool) -> None:
    """Print how near both searches come to the best decision of three layers."""
    target = get_target(name)
    kept: dict[str, dict[str, float]] = {}
    if times and times.exists():
        kept = json.loads(times.read_text())
    rows = []
    for layer in LAYERS:
        space = Space(layer, target)
        if str(layer) not in kept:
            kept[str(layer)] = {str(n): s for n, s in measure_all(space).items()}
            if times:
                times.write_text(json.dumps(kept))
        seconds = {int(number): s for number, s in kept[str(layer)].items()}
        curves = {
            search: np.array(
                [
                    best_so_far(space, seconds, trials, seed, search == "model")
                    for seed in range(seeds)
                ]
            )
            for search in ("model", "random")
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
            model, random = row["model"][n], row["random"][n]
            print(
                f"  after {n:>3} trials: model {model['mean']:.1%} (worst {model['worst']:.1%}), "
                f"random {random['mean']:.1%} (worst {random['worst']:.1%})"
            )


if __name__ == "__main__":
    main()
