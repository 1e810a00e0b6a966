"""The command `tune`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mobilenet_tvm.compile.cli.options import dtype_option, given, shape_options
from mobilenet_tvm.compile.cli.output import json_option, print_json

if TYPE_CHECKING:
    from collections import Counter

    from mobilenet_tvm.compile.logs.log import TuningLog
    from mobilenet_tvm.compile.tuning.task import Task
    from mobilenet_tvm.compile.tuning.tune import Plan, Tuned
    from mobilenet_tvm.schedules.workloads import Workload
    from mobilenet_tvm.targets.target import Target


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
    "patterns",
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
    "log_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The tuning log to write.  [default: your own log of the target]",
)
@click.option(
    "--device",
    default="local",
    show_default=True,
    help="Where to measure: local, rpc://HOST:PORT, ssh://[USER@]HOST, or, on all free boards at "
    "once, tracker://HOST:PORT/KEY.",
)
@click.option("--boards", type=click.IntRange(1), help="The most boards at a time.")
@click.option(
    "--priority",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="The run with the largest gets a board first.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--static",
    is_flag=True,
    help="Estimate by llvm-mca instead of measuring; needs no such machine.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be tuned, and how long it may take.")
@dtype_option
@shape_options
@json_option
def tune(
    target: str,
    models: tuple[str, ...],
    trials: int,
    time_limit: float | None,
    patterns: tuple[str, ...],
    threads: int,
    log_path: Path | None,
    device: str,
    boards: int | None,
    priority: int,
    seed: int,
    static: bool,
    dry_run: bool,
    dtype: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Search the fastest schedule of each layer by measuring, here or on boards elsewhere.

    Each trial is kept beside the log, so that another run goes on where this one ends. With
    --static the log gets estimates for one thread, of layers where they are clearly better than
    the default's; what is measured always goes before them.
    """
    from mobilenet_tvm.compile.analysis.peak import measure_peak
    from mobilenet_tvm.compile.artifact import check_dtype
    from mobilenet_tvm.compile.logs.log import user_log
    from mobilenet_tvm.compile.models.source import ModelOptions
    from mobilenet_tvm.compile.tuning.boards.farm import Farm, require_fitting, survey
    from mobilenet_tvm.compile.tuning.layers import find_layers, select
    from mobilenet_tvm.compile.tuning.local.runner import require_native
    from mobilenet_tvm.compile.tuning.progress import line_printer
    from mobilenet_tvm.compile.tuning.records import Records
    from mobilenet_tvm.compile.tuning.tune import plan, seconds_needed
    from mobilenet_tvm.compile.tuning.tune import tune as run
    from mobilenet_tvm.runtime.address import Address
    from mobilenet_tvm.runtime.remote.session import Session
    from mobilenet_tvm.targets.errors import UserError, WrongUseError
    from mobilenet_tvm.targets.host import machine_name
    from mobilenet_tvm.targets.presets import get_target

    machine = get_target(target)
    check_dtype(dtype, machine)
    address = Address.parse(device)
    farm, name = None, machine_name()
    if machine.gpu is not None and (static or threads > 1):
        given_ = "--static" if static else "--threads"
        raise WrongUseError(f"{given_} is for CPUs, and '{machine.name}' is a GPU; leave it out")
    if address.scheme != "local":
        if static:
            raise WrongUseError("--static measures nothing; leave --device out")
        farm = Farm(address, boards, priority)
        name = require_fitting(survey(address), machine)
        if machine.gpu is not None:
            with Session.open(address, priority) as session:
                name = session.gpu(machine.kind)
    elif machine.gpu is not None:
        name = require_native(machine)
    found = find_layers(models, machine, ModelOptions(**given(options)), dtype)
    layers = select(found, patterns)
    records = Records(log_path or user_log(machine), machine, threads, name)
    if dry_run:
        plans = plan(layers, machine, records.known)
        _print_plan(plans, seconds_needed(plans, trials, time_limit), as_json)
        return
    if static:
        _rank(layers, machine, trials, records.log, as_json)
        return
    peak = None
    if farm is None:
        require_native(machine)
        peak = measure_peak(machine, threads, dtype=dtype).gflops
    last_word = {}
    try:
        tuned = run(
            layers,
            machine,
            trials=trials,
            time_limit=time_limit,
            threads=threads,
            seed=seed,
            known=records.known,
            earlier=records.earlier,
            on_result=records.add,
            on_event=line_printer(sys.stderr, peak),
            farm=farm,
            say=lambda line: click.echo(line, err=True),
        )
        last_word = {
            task.workload: (task.decision, task.times[task.best])
            for task in tuned.tasks
            if task.times
        }
    finally:
        records.settle(last_word)
    if as_json:
        facts = {"target": machine.name, "threads": threads, "peak_gflops": peak}
        print_json(facts | {"log": str(records.log.path)} | _dict(tuned))
    else:
        _print_table(tuned, peak)
        click.echo(f"log: {records.log.path}, {len(records.log.records)} layers")
    if tuned.over:
        raise UserError(f"{tuned.over}; what was measured is in the log, and tune again goes on")


def _rank(
    layers: Counter[Workload], machine: Target, trials: int, log: TuningLog, as_json: bool
) -> None:
    """Do what --static asks for."""
    from mobilenet_tvm.compile.tuning.static.rank import rank, records

    def show(task: Task, done: int, total: int) -> None:
        if done % 10 == 0 or done == total:
            click.echo(f"{done}/{total} estimates, {task.workload}", err=True)

    # A damaged log is said so before the work.
    log = log.read(log.path, machine) if log.path.exists() else log
    ranked = rank(layers, machine, trials=trials, on_estimate=show)
    found = records(ranked, log, machine)
    if found:
        log.settle(found)
    if as_json:
        facts = {"target": machine.name, "core": machine.core, "replaced": len(found)}
        print_json(facts | {"log": str(log.path)} | _dict(ranked))
        return
    lanes = 2 * machine.fma_per_cycle * machine.lanes_of("float32")
    _print_table(ranked, machine.clock_ghz * lanes)
    click.echo(
        f"estimated for {machine.core}; log: {log.path}, {len(found)} layers replaced, "
        f"{len(log.records)} in all"
    )


def _print_plan(plans: list[Plan], seconds: float, as_json: bool) -> None:
    if as_json:
        layers = [vars(plan) | {"workload": str(plan.workload)} for plan in plans]
        print_json({"layers": layers, "seconds_at_most": seconds})
        return
    click.echo(f"{'calls':>5} {'decisions':>9} {'known':>5}  layer")
    for plan in plans:
        click.echo(f"{plan.count:>5} {plan.decisions:>9} {plan.known:>5}  {plan.workload}")
    total = sum(plan.decisions for plan in plans)
    click.echo(f"{len(plans)} layers, {total} decisions; about {seconds:.0f} s at most")


def _dict(tuned: Tuned) -> dict[str, Any]:
    return {
        "trials": tuned.trials,
        "seconds": tuned.seconds,
        "seconds_building": tuned.build,
        "seconds_measuring": tuned.measure,
        "seconds_searching": tuned.search,
        "default_seconds": tuned.default_total,
        "best_seconds": tuned.best_total,
        "boards": dict(tuned.boards),
        "layers": [_row(task) for task in tuned.tasks],
    }


def _row(task: Task) -> dict[str, Any]:
    best = task.times.get(task.best)
    return {
        "workload": str(task.workload),
        "calls": task.count,
        "decisions": len(task.space.decisions),
        "trials": len(task.outcomes),
        "failures": dict(task.failures),
        "default": vars(task.default) if task.default else None,
        "best": vars(best) if best else None,
        "decision": vars(task.decision),
        "ended": task.ended,
    }


def _print_table(tuned: Tuned, peak: float | None) -> None:
    click.echo(
        f"{'calls':>5} {'default us':>10} {'best us':>9} {'gain':>6} {'GFLOP/s':>8} {'peak':>5} "
        f"{'spread':>6} {'tried':>9}  layer and decision"
    )
    for task in tuned.tasks:
        tried = f"{len(task.outcomes)}/{len(task.space.decisions)}"
        if task.default is None:
            text = f"{task.count:>5} {'failed':>10} {'':>9} {'':>6} {'':>8} {'':>5} {'':>6}"
        else:
            default, best = task.default, task.times[task.best]
            gflops = 1e-9 * task.workload.flops / best.seconds
            share = f"{gflops / peak:.0%}" if peak else "-"
            text = (
                f"{task.count:>5} {1e6 * default.seconds:>10.1f} {1e6 * best.seconds:>9.1f} "
                f"{1 - best.seconds / default.seconds:>6.1%} {gflops:>8.1f} {share:>5} "
                f"{best.spread:>6.1%}"
            )
        decision = " ".join(f"{name}={value}" for name, value in vars(task.decision).items())
        click.echo(f"{text} {tried:>9}  {task.workload}  {decision}")
    failures = sum((task.failures for task in tuned.tasks), start=type(tuned.tasks[0].failures)())
    failed = ", ".join(f"{count} {kind}" for kind, count in failures.items())
    click.echo(
        f"{1e3 * tuned.default_total:.3f} ms by default, {1e3 * tuned.best_total:.3f} ms tuned, in "
        f"{sum(task.count for task in tuned.tasks)} calls"
    )
    click.echo(
        f"{tuned.trials} candidates in {tuned.seconds:.0f} s, "
        f"{tuned.trials / tuned.seconds:.1f} a second: {tuned.build / tuned.seconds:.0%} building, "
        f"{tuned.measure / tuned.seconds:.0%} measuring, {tuned.search / tuned.seconds:.0%} "
        f"searching" + (f"; failed: {failed}" if failed else "")
    )
    if tuned.boards:
        shares = ", ".join(f"{board} {count}" for board, count in tuned.boards.most_common())
        click.echo(f"measured on {shares}")
