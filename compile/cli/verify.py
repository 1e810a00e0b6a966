"""The command `verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mobilenet_tvm.compile.cli.options import (
    device_option,
    file_argument,
    given,
    model_options,
    threads_option,
)
from mobilenet_tvm.compile.cli.output import echo, json_option, print_json

if TYPE_CHECKING:
    from mobilenet_tvm.compile.analysis.verify import VerifyResult


@click.command()
@file_argument
@click.option("--model", help="What it was compiled from.  [default: a named model's own name]")
@model_options
@threads_option
@device_option
@click.option("--inputs", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    help="Largest difference, as a share of the output's range, or of 1/16 of its magnitude if "
    "that is more.  [default: 0.0001, of float16 0.05]",
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
    from mobilenet_tvm.compile import ModelOptions, verify_artifact

    result = verify_artifact(
        file,
        model,
        ModelOptions(**given(options)),
        device=device,
        threads=threads,
        inputs=inputs,
        tolerance=tolerance,
    )
    if as_json:
        print_json(
            {
                "file": str(file),
                "agrees": result.agrees,
                "worst_error": result.worst_error,
                "tolerance": result.tolerance,
                "comparisons": [vars(comparison) for comparison in result.comparisons],
            }
        )
    else:
        half = result.metadata.extra.get("dtype") == "float16" and tolerance is None
        _print(file, result, " of float16" if half else "")
    if not result.same_weights:
        echo(
            f"warning: compiled from weights '{result.metadata.weights}', "
            f"compared with '{result.weights}'",
            err=True,
        )
    return 0 if result.agrees else 1


def _print(file: Path, result: VerifyResult, kind: str) -> None:
    for comparison in result.comparisons:
        top = "same" if comparison.same_top else "other"
        echo(
            f"input {comparison.seed}  {comparison.output:<12} difference {comparison.error:.1e} "
            f"of the range, {top} first class"
        )
    verdict = "equals" if result.agrees else "DIFFERS FROM"
    echo(
        f"{file} {verdict} ONNX Runtime: worst {result.worst_error:.1e}, "
        f"allowed {result.tolerance:.0e}{kind}"
    )
