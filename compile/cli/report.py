"""The command `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mobilenet_tvm.compile.cli.logs import warn_of_skipped
from mobilenet_tvm.compile.cli.options import given, shape_options
from mobilenet_tvm.compile.cli.output import echo, json_option, print_json

_FILE = click.Path(path_type=Path)


@click.command()
@click.option(
    "--log",
    type=_FILE,
    help="A tuning log, with its trials beside it.  [default: your own log of the target]",
)
@click.option("--target", help="Only its records.  [default: native, or all that --log has]")
@click.option(
    "--model",
    "models",
    multiple=True,
    help="Only layers of this model, a name or an ONNX file, counted by calls; repeatable.",
)
@click.option(
    "--profile",
    "profiles",
    type=_FILE,
    multiple=True,
    help="Output of 'profile --json': calls, peak, times in the network; repeatable.",
)
@click.option("--peers", type=_FILE, help="Output of 'benchmarks/peers.py --json'.")
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    help="Only records with so many threads.  [default: the profile's, or the latest record's]",
)
@click.option(
    "--peak",
    "limits",
    type=(click.FloatRange(0, min_open=True), click.FloatRange(0, min_open=True)),
    metavar="GFLOPS GBYTES",
    help="The machine's limits.  [default: the profile's, or measured on the log's device]",
)
@click.option("-o", "--output", type=_FILE, default=Path("report.html"), show_default=True)
@shape_options
@json_option
def report(
    log: Path | None,
    target: str | None,
    models: tuple[str, ...],
    profiles: tuple[Path, ...],
    peers: Path | None,
    threads: int | None,
    limits: tuple[float, float] | None,
    output: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Write one HTML page from a tuning log, its trials, profiles and peers' latencies."""
    from mobilenet_tvm.compile import ModelOptions, write_report
    from mobilenet_tvm.compile.analysis.peak import Peak

    result = write_report(
        output,
        log=log,
        target=target,
        models=models,
        model_options=ModelOptions(**given(options)),
        profiles=profiles,
        peers=peers,
        threads=threads,
        peak=Peak(*limits) if limits else None,
    )
    warn_of_skipped(result.logs)
    found = result.report
    if as_json:
        print_json(
            {
                "file": str(result.path),
                "layers": len(found.layers),
                "trials": found.trials,
                "default_microseconds": round(found.default_total, 2),
                "tuned_microseconds": round(found.tuned_total, 2),
            }
        )
        return
    times = (
        f", {1e-3 * found.default_total:.3f} ms by default, {1e-3 * found.tuned_total:.3f} ms tuned"
        if found.compared
        else ""
    )
    echo(f"wrote {result.path}: {len(found.layers)} layers, {found.trials} trials{times}")
