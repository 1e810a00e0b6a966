"""The command `tune`."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mobilenet_tvm.compile.cli.options import SHAPE_NAMES, dtype_option, given, shape_options
from mobilenet_tvm.compile.cli.output import echo, json_option, print_json
from mobilenet_tvm.targets.errors import UserError

if TYPE_CHECKING:
    from mobilenet_tvm.compile.tuning.session import TunePlan, TuneResult
    from mobilenet_tvm.compile.tuning.task import Task


@click.command()
@click.option("--target", default="native", show_default=True, help="The machine to tune for.")
@click.option(
    "--model", "models", multiple=True, required=True, help="A name or an ONNX file; repeatable."
)
@click.option(
    "--trials",
    type=click.IntRange(1),
    default=500,
    show_default=True,
    help="Candidates to measure, for all layers together.",
)
@click.option("--time-limit", type=click.FloatRange(0, min_open=True), help="Seconds.")
@click.option(
    "--layers",
    multiple=True,
    metavar="PATTERN",
    help="Only layers with this in their name; * stands for anything; repeatable.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Threads that share a layer.",
)
@click.option(
    "--log",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The tuning log to write.  [default: your own log of the target]",
)
@click.option(
    "--device",
    default="local",
    show_default=True,
    help="Where to measure: local, rpc://HOST:PORT, ssh://[USER@]HOST, or, on all free boards at "
    "once, tracker://HOST:PORT/KEY. emulated estimates times for a Cortex core without a board.",
)
@click.option("--boards", type=click.IntRange(1), help="The most boards to use at a time.")
@click.option(
    "--priority",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="The run with the highest priority gets a board first.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--dry-run", is_flag=True, help="Say what would be tuned, and how long it may take.")
@dtype_option
@shape_options
@json_option
def tune(
    target: str, models: tuple[str, ...], dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Search the fastest schedule of each layer by measuring, here or on boards elsewhere.

    Each trial is kept beside the log, so that another run goes on where this one ends. With
    --device emulated the log gets estimates for one thread, of layers where they are clearly better
    than the default's; measured records take precedence over them.
    """
    from mobilenet_tvm.compile import ModelOptions, TuneOptions, plan_tuning, tune_models

    shapes = given({name: options.pop(name) for name in SHAPE_NAMES})
    chosen = TuneOptions(**options, model_options=ModelOptions(**shapes))
    if dry_run:
        _print_plan(plan_tuning(models, target, chosen), as_json)
        return
    result = tune_models(models, target, chosen, progress=sys.stderr)
    if as_json:
        print_json(_dict(result))
    else:
        _print_table(result)
    if result.tuned.over:
        raise UserError(
            f"{result.tuned.over}; what was measured is in the log, and another run goes on "
            "from there"
        )


def _print_plan(plan: TunePlan, as_json: bool) -> None:
    if as_json:
        layers = [vars(layer) | {"workload": str(layer.workload)} for layer in plan.layers]
        print_json({"layers": layers, "seconds_at_most": plan.seconds})
        return
    echo(f"{'calls':>5} {'decisions':>9} {'known':>5}  layer")
    for layer in plan.layers:
        echo(f"{layer.count:>5} {layer.decisions:>9} {layer.known:>5}  {layer.workload}")
    echo(
        f"{len(plan.layers)} layers, {plan.decisions} decisions; about {plan.seconds:.0f} s at most"
    )


def _dict(result: TuneResult) -> dict[str, Any]:
    tuned = result.tuned
    facts: dict[str, Any] = {"target": result.target.name}
    if result.replaced is None:
        facts |= {"threads": result.threads, "peak": vars(result.peak) if result.peak else None}
    else:
        facts |= {"core": result.target.preset, "replaced": result.replaced}
    return facts | {
        "log": str(result.log.path),
        "trials": tuned.trials,
        "seconds": tuned.seconds,
        "seconds_building": tuned.build,
        "seconds_measuring": tuned.measure,
        "seconds_searching": tuned.search,
        "default_seconds": tuned.default_total,
        "best_seconds": tuned.best_total,
        "boards": dict(tuned.boards),
        "layers": [_row(task, result.status(task)) for task in tuned.tasks],
    }


def _row(task: Task, status: str) -> dict[str, Any]:
    best = task.times.get(task.best)
    return {
        "workload": str(task.workload),
        "calls": task.count,
        "status": status,
        "decisions": len(task.space.decisions),
        "trials": len(task.outcomes),
        "failures": dict(task.failures),
        "default": vars(task.default) if task.default else None,
        "best": vars(best) if best else None,
        "decision": vars(task.decision),
        "ended": task.ended,
    }


def _print_table(result: TuneResult) -> None:
    tuned, log = result.tuned, result.log
    echo(
        f"{'calls':>5} {'default us':>10} {'best us':>9} {'gain':>6} {'GFLOP/s':>8} {'peak':>5} "
        f"{'spread':>6} {'tried':>9}  layer and decision"
    )
    for task in tuned.tasks:
        tried = f"{len(task.outcomes)}/{len(task.space.decisions)}"
        decision = " ".join(f"{name}={value}" for name, value in vars(task.decision).items())
        echo(f"{_times(task, result)} {tried:>9}  {task.workload}  {decision}")
    calls = sum(task.count for task in tuned.tasks)
    timed = sum(task.count for task in tuned.tasks if task.default)
    echo(
        f"{1e3 * tuned.default_total:.3f} ms by default, {1e3 * tuned.best_total:.3f} ms tuned, in "
        f"{calls if timed == calls else f'{timed} of {calls}'} calls"
    )
    failures = sum((task.failures for task in tuned.tasks), start=Counter[str]())
    failed = ", ".join(f"{count} {kind}" for kind, count in failures.items())
    echo(
        f"{tuned.trials} candidates in {tuned.seconds:.0f} s, "
        f"{tuned.trials / tuned.seconds:.1f} a second: {tuned.build / tuned.seconds:.0%} building, "
        f"{tuned.measure / tuned.seconds:.0%} measuring, {tuned.search / tuned.seconds:.0%} "
        f"searching" + (f"; failed: {failed}" if failed else "")
    )
    if tuned.boards:
        shares = ", ".join(f"{board} {count}" for board, count in tuned.boards.most_common())
        echo(f"measured on {shares}")
    if result.replaced is None:
        echo(f"log: {log.path}, {len(log.records)} layers")
    else:
        echo(
            f"estimated for {result.target.preset}; log: {log.path}, {result.replaced} layers "
            f"replaced, {len(log.records)} in all"
        )


def _times(task: Task, result: TuneResult) -> str:
    """Return a layer's columns from its calls to the spread of its times."""
    if task.default is None:
        text = "failed" if result.status(task) == "failed" else "not tried"
        return f"{task.count:>5} {text:>10} {'':>9} {'':>6} {'':>8} {'':>5} {'':>6}"
    default, best = task.default, task.times[task.best]
    gflops = 1e-9 * task.workload.flops / best.seconds
    share = f"{gflops / result.peak.of(task.workload):.0%}" if result.peak else "-"
    return (
        f"{task.count:>5} {1e6 * default.seconds:>10.1f} {1e6 * best.seconds:>9.1f} "
        f"{1 - best.seconds / default.seconds:>6.1%} {gflops:>8.1f} {share:>5} "
        f"{best.spread:>6.1%}"
    )
