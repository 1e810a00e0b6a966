"""The command line: parses, calls one library function per command, prints its result."""

from __future__ import annotations

import logging
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from mobilenet_tvm.compile.cli.devices import devices, serve, tracker
from mobilenet_tvm.compile.cli.logs import logs, warn_of_skipped
from mobilenet_tvm.compile.cli.opencl import opencl
from mobilenet_tvm.compile.cli.options import (
    device_option,
    dtype_option,
    given,
    loaded,
    model_options,
    threads_option,
)
from mobilenet_tvm.compile.cli.output import json_option, print_facts, print_json
from mobilenet_tvm.compile.cli.report import report
from mobilenet_tvm.compile.cli.tune import tune
from mobilenet_tvm.targets.errors import UserError, WrongUseError

if TYPE_CHECKING:
    from mobilenet_tvm.runtime import Metadata


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 success, 2 wrong use, 1 anything else."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    interrupts: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        # TVM turns an exception that passes through it into one of its own.
        interrupts.append(number)
        raise KeyboardInterrupt

    # Both end with what was there before: temporary files go, outputs stay.
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        status = cli.main(
            [argument for argument in arguments if argument != "--debug"],
            prog_name="mobilenet-tvm",
            standalone_mode=False,
        )
    except click.ClickException as error:
        _fail(f"{error.format_message()} (see mobilenet-tvm --help)", error.exit_code)
    except click.Abort:
        _fail("interrupted", 1)
    except UserError as error:
        if interrupts:
            # An error on the way out takes its place, as of a temporary file removed twice.
            _fail("interrupted", 1)
        if debug:
            traceback.print_exc()
        _fail(str(error), 2 if isinstance(error, WrongUseError) else 1)
    except Exception as error:
        if interrupts:
            _fail("interrupted", 1)
        if debug:
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        _fail(f"{type(error).__name__}: {reason.strip()} (--debug shows where)", 1)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> None:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(status)


file_argument = click.argument("file", type=click.Path(path_type=Path))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("mobilenet-tvm"), prog_name="mobilenet-tvm")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Compile MobileNets into fast shared libraries through Apache TVM."""


cli.add_command(logs)


@cli.command("compile")
@click.option("--target", required=True, help="The machine to compile for; see 'targets'.")
@click.option("--model", required=True, help="A name (see 'models') or an ONNX file.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The file to write.  [default: build/<model>-<target>.so, or -<target>-float16.so]",
)
@click.option(
    "--dump",
    type=click.Path(path_type=Path),
    help="A folder for the network as it is after each phase.",
)
@click.option(
    "--tuning-log",
    metavar="FILE|none",
    help="The tuning log to decide by.  [default: your own, then the shipped one]",
)
@dtype_option
@model_options
@json_option
def compile_command(
    target: str,
    model: str,
    output: Path | None,
    dump: Path | None,
    tuning_log: str | None,
    dtype: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Compile a model into one shared library."""
    from mobilenet_tvm.compile.artifact import compile_model

    artifact = compile_model(model, target, output, dump, tuning_log, dtype, **given(options))
    metadata = artifact.metadata
    if metadata.weights.startswith("random"):
        click.echo(
            f"warning: the weights are {metadata.weights}: times are real, answers mean nothing; "
            "give trained ones with --weights",
            err=True,
        )
    warn_of_skipped(artifact.logs)
    result = {
        "file": str(artifact.path),
        "size_bytes": artifact.size_bytes,
        "seconds": round(artifact.seconds, 2),
        **metadata.to_dict(),
    }
    if as_json:
        print_json(result)
        return
    half = "" if dtype == "float32" else f", {dtype}"
    print_facts(
        {
            "wrote": f"{artifact.path} ({artifact.size_bytes / 1e6:.1f} MB)",
            "model": f"{metadata.model}, {_tensors(metadata.inputs)} -> "
            f"{_tensors(metadata.outputs)}",
            "target": f"{metadata.target['name']} ({metadata.target['cpu']}, "
            f"{metadata.target['triple']})",
            "weights": metadata.weights,
            "layers": f"{metadata.layers} in {metadata.extra['functions']} functions{half}",
            "tuned": _tuned(metadata),
            "memory": f"{metadata.extra['activation_bytes'] / 1e6:.1f} MB between layers, "
            f"{sum(call['bytes'] for call in metadata.extra['calls']) / 1e6:.1f} MB moved",
            "time": f"{artifact.seconds:.1f} s",
        }
    )


@cli.command()
@file_argument
@threads_option
@device_option
@click.option("--rounds", type=click.IntRange(1), default=100, show_default=True)
@json_option
def bench(file: Path, threads: int | None, device: str, rounds: int, as_json: bool) -> None:
    """Measure the latency of a compiled model, here or on a board."""
    from mobilenet_tvm.runtime.bench import measure_latency
    from mobilenet_tvm.runtime.remote.model import RemoteModel

    with loaded(file, device, threads) as model:
        if isinstance(model, RemoteModel):
            board = model.session.board
            latency = model.measure_latency(rounds)
            calls = model.measure_round_trip(min(rounds, 20))
        else:
            board = None
            latency = calls = measure_latency(model, rounds=rounds)
    result = {
        "file": str(file),
        "model": model.metadata.model,
        "target": model.metadata.target["name"],
        **({"board": board.name, "remote_call_ms": 1e3 * calls.median} if board else {}),
        "threads": model.threads,
        **latency.to_dict(),
    }
    if as_json:
        print_json(result)
        return
    facts = {
        "model": f"{model.metadata.model} for {model.metadata.target['name']}",
        "threads": str(model.threads),
        "rounds": f"{latency.rounds}, warm caches",
        **{
            name: f"{1e3 * getattr(latency, name):.3f} ms"
            for name in ("minimum", "median", "p90", "p99")
        },
    }
    if board is not None:
        facts = {"board": str(board)} | facts
        facts["call"] = f"{1e3 * calls.median:.3f} ms from here, as inputs and outputs travel"
    print_facts(facts)


@cli.command()
@file_argument
@threads_option
@device_option
@click.option("--rounds", type=click.IntRange(1), default=30, show_default=True)
@json_option
def profile(file: Path, threads: int | None, device: str, rounds: int, as_json: bool) -> None:
    """Measure each layer: time, GFLOP/s, bytes, share of the machine's peak, schedule."""
    from mobilenet_tvm.compile.analysis.peak import measure_peak, target_of
    from mobilenet_tvm.compile.analysis.profile_table import layer_table
    from mobilenet_tvm.runtime.profile import profile as run
    from mobilenet_tvm.runtime.remote.model import RemoteModel

    with loaded(file, device, threads) as model:
        target = target_of(model.metadata.target)
        dtype = model.metadata.extra.get("dtype", "float32")
        if isinstance(model, RemoteModel):
            board = model.session.board.name
            peak = measure_peak(target, model.threads, model.session, dtype)
            calls = model.profile(rounds)
        else:
            board = None
            peak = measure_peak(target, model.threads, dtype=dtype)
            calls = run(model, rounds)
    rows = layer_table(calls, model.metadata, peak)
    total = sum(row["microseconds"] for row in rows)
    if as_json:
        facts = {"file": str(file), **({"board": board} if board else {})}
        print_json(facts | {"threads": model.threads, "peak": vars(peak), "calls": rows})
        return
    what = f"{model.threads} threads" if target.gpu is None else "the GPU"
    click.echo(
        f"peak of {what}{f' of {board}' if board else ''}: "
        f"{peak.gflops:.1f} GFLOP/s, {peak.gbytes:.1f} GB/s"
    )
    click.echo(
        f"{'us':>8} {'%':>5} {'GFLOP/s':>8} {'peak':>5} {'GB/s':>6}  {'tuned':<8}  "
        "layer and decision"
    )
    for row in rows:
        click.echo(
            f"{row['microseconds']:>8.1f} {100 * row['microseconds'] / total:>5.1f} "
            f"{row['gflops']:>8.1f} {row['peak']:>5.0%} {row['gbytes']:>6.1f}  "
            f"{row['source'].replace('default', '-'):<8}  {row['workload']}  {row['decision']}"
        )
    click.echo(f"{total:>8.1f} us in {len(rows)} calls")


@cli.command()
@file_argument
@click.option("--model", help="What it was compiled from.  [default: a named model's own name]")
@model_options
@threads_option
@device_option
@click.option("--inputs", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    help="Largest difference, as a share of the output's range.  "
    "[default: 0.0001, of float16 0.05]",
)
@json_option
def verify(
    file: Path,
    model: str | None,
    threads: int | None,
    device: str,
    inputs: int,
    tolerance: float | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Compare a compiled model with ONNX Runtime on random inputs."""
    from mobilenet_tvm.compile.analysis.verify import tolerance_of
    from mobilenet_tvm.compile.analysis.verify import verify as compare
    from mobilenet_tvm.compile.models.source import ModelOptions, resolve_again

    with loaded(file, device, threads) as compiled:
        source = resolve_again(compiled.metadata, model, ModelOptions(**given(options)))
        results = compare(compiled, source.model, inputs)
    worst = max(result.error for result in results)
    allowed = tolerance_of(compiled.metadata) if tolerance is None else tolerance
    agrees = worst <= allowed
    if as_json:
        print_json(
            {
                "file": str(file),
                "agrees": agrees,
                "worst_error": worst,
                "tolerance": allowed,
                "comparisons": [vars(result) for result in results],
            }
        )
    else:
        for result in results:
            top = "same" if result.same_top else "other"
            click.echo(
                f"input {result.seed}  {result.output:<12} difference {result.error:.1e} of "
                f"the range, {top} first class"
            )
        verdict = "equals" if agrees else "DIFFERS FROM"
        half = compiled.metadata.extra.get("dtype") == "float16"
        limit = f"{allowed:.0e}{' of float16' if half and tolerance is None else ''}"
        click.echo(f"{file} {verdict} ONNX Runtime: worst {worst:.1e}, allowed {limit}")
    if source.weights != compiled.metadata.weights:
        click.echo(
            f"warning: compiled from weights '{compiled.metadata.weights}', "
            f"compared with '{source.weights}'",
            err=True,
        )
    return 0 if agrees else 1


@cli.command("bundle")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--board", metavar="TARGET", help="Make a board of such a machine; without FILE.")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The folder to write."
)
@json_option
def bundle_command(file: Path | None, board: str | None, output: Path, as_json: bool) -> None:
    """Make a folder to copy to a device: a model and its loader, or what a board serves with."""
    from mobilenet_tvm.runtime.bundle import board_folder, bundle
    from mobilenet_tvm.targets.presets import get_target

    if board is not None and file is None:
        machine = get_target(board)
        folder = board_folder(machine.architecture, output, machine.kind)
    elif file is not None and board is None:
        folder = bundle(file, output)
    else:
        raise WrongUseError("give a model's FILE, or --board TARGET")
    sizes = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    if as_json:
        print_json({"folder": str(folder), "files": sizes})
        return
    click.echo(f"wrote {folder} ({sum(sizes.values()) / 1e6:.1f} MB)")
    for name, size in sizes.items():
        click.echo(f"  {size / 1e6:8.3f} MB  {name}")


@cli.command()
@json_option
def models(as_json: bool) -> None:
    """List the named models, counted, beside the published figures."""
    from mobilenet_tvm.compile.models.named import (
        NAMES,
        PUBLISHED,
        ModelSpec,
        build,
        macs,
        parameter_count,
    )

    rows: list[dict[str, Any]] = []
    for name in NAMES:
        model = build(ModelSpec(name))
        rows.append(
            {
                "name": name,
                "parameters": parameter_count(model),
                "published_parameters": PUBLISHED[name].parameters,
                "macs": macs(model),
                "published_macs_millions": list(PUBLISHED[name].macs),
                "published_top1_percent": PUBLISHED[name].top1,
            }
        )
    if as_json:
        print_json(rows)
        return
    click.echo(f"{'':<10} {'parameters':>12} {'published':>12} {'M MACs':>8} {'published':>10}")
    for row in rows:
        low, high = row["published_macs_millions"]
        click.echo(
            f"{row['name']:<10} {row['parameters']:>12,} {row['published_parameters']:>12,} "
            f"{row['macs'] / 1e6:>8.1f} {f'{low}' if low == high else f'{low}-{high}':>10}"
        )


@cli.command()
@json_option
def targets(as_json: bool) -> None:
    """List the targets and their other names."""
    from dataclasses import asdict

    from mobilenet_tvm.targets.presets import ALIASES, PRESETS, native

    known = [*PRESETS.values(), native()]
    if as_json:
        print_json(
            [
                {
                    **asdict(target),
                    "aliases": [alias for alias, name in ALIASES.items() if name == target.name],
                }
                for target in known
            ]
        )
        return
    for target in known:
        others = [alias for alias, name in ALIASES.items() if name == target.name]
        also = f" (also: {', '.join(others)})" if others else ""
        click.echo(f"{target.name:<12} {target.description}{also}")


def _tuned(metadata: Metadata) -> str:
    estimated = sum(call["source"] == "static" for call in metadata.extra["calls"])
    by_estimates = f", {estimated} of them by estimates" if estimated else ""
    return f"{metadata.tuned_layers} of {metadata.layers} layers{by_estimates}"


def _tensors(tensors: Sequence[Any]) -> str:
    return ", ".join(map(str, tensors))


cli.add_command(opencl)
cli.add_command(tune)
cli.add_command(report)
cli.add_command(devices)
cli.add_command(serve)
cli.add_command(tracker)

if __name__ == "__main__":
    main()
