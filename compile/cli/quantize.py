"""The command `quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mobilenet_tvm.compile.cli.options import given, model_options
from mobilenet_tvm.compile.cli.output import json_option, print_facts, print_json, warn_of_random
from mobilenet_tvm.compile.cli.pictures import (
    calibration_options,
    picture_options,
    preprocessing_of,
    share,
)

if TYPE_CHECKING:
    from mobilenet_tvm.compile.compress.evaluate import Evaluation
    from mobilenet_tvm.compile.compress.quantize import QuantizeResult

#: Layers that are shown: those with the largest errors.
_SHOWN = 5


@click.command()
@click.option("--model", required=True, help="A name (see 'models') or an ONNX file, in float32.")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The ONNX file to write."
)
@picture_options
@calibration_options("calibrate on")
@click.option(
    "--method",
    type=click.Choice(["search", "mse", "percentile", "entropy", "minmax"]),
    default="search",
    show_default=True,
    help="How ranges are chosen; 'search' takes minutes, the others less.",
)
@click.option(
    "--equalize/--no-equalize",
    default=True,
    show_default=True,
    help="Equalise the weights' ranges across layers.",
)
@click.option(
    "--correct-bias/--no-correct-bias",
    default=True,
    show_default=True,
    help="Correct biases for the error of the weights.",
)
@click.option(
    "--keep-float",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Leave the N layers in float whose quantisation costs most.",
)
@model_options
@json_option
def quantize(
    model: str,
    output: Path,
    images: Path,
    labels: Path | None,
    first_class: int,
    preprocessing: str,
    mean: tuple[float, ...] | None,
    deviation: tuple[float, ...] | None,
    calibration: int,
    held_out: int,
    method: str,
    equalize: bool,
    correct_bias: bool,
    keep_float: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Quantise a float network to 8-bit integers, calibrated on pictures."""
    from mobilenet_tvm.compile import QuantizeOptions, quantize_model

    result = quantize_model(
        model,
        images,
        output,
        QuantizeOptions(calibration, held_out, method, equalize, correct_bias, keep_float),
        labels=labels,
        preprocessing=preprocessing_of(preprocessing, mean, deviation),
        first_class=first_class,
        **given(options),
    )
    warn_of_random(result.weights)
    if as_json:
        print_json(_as_dict(result))
    else:
        print_quantized(result)


def print_quantized(result: QuantizeResult, *, err: bool = False) -> None:
    """Print what was written and what it cost, on standard error if asked."""
    facts = {
        "wrote": f"{result.path} ({result.size_bytes / 1e6:.1f} MB; "
        f"in float {result.float_bytes / 1e6:.1f} MB)",
        "learned": f"from {result.calibrated_on} pictures",
    }
    if result.calibration:
        facts["learned"] += f": {_accuracy(result.calibration)}"
    if result.held_out:
        facts["held out"] = f"{result.held_out.pictures} pictures: {_accuracy(result.held_out)}"
    if result.kept_float:
        facts["float"] = ", ".join(result.kept_float)
    worst = sorted(result.layers.items(), key=lambda item: item[1])[:_SHOWN]
    facts["layers"] = "signal to error, least: " + ", ".join(
        f"{name} {ratio:.1f} dB" for name, ratio in worst
    )
    print_facts(facts, err=err)


def _accuracy(evaluation: Evaluation) -> str:
    shown = f"agrees with float on {share(evaluation.agreement or 0)}"
    if evaluation.top1 is not None and evaluation.against_top1 is not None:
        shown += f", top1 {share(evaluation.top1)}, float {share(evaluation.against_top1)}"
    return shown


def _as_dict(result: QuantizeResult) -> dict[str, Any]:
    return {
        "file": str(result.path),
        "weights": result.weights,
        "size_bytes": result.size_bytes,
        "float_bytes": result.float_bytes,
        "calibrated_on": result.calibrated_on,
        "calibration": result.calibration and result.calibration.to_dict(),
        "held_out": result.held_out and result.held_out.to_dict(),
        "layers_db": result.layers,
        "kept_float": list(result.kept_float),
    }
