"""The command `prune`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mobilenet_tvm.compile.cli.options import given, shape_options, weights_option
from mobilenet_tvm.compile.cli.output import json_option, print_facts, print_json, warn_of_random
from mobilenet_tvm.compile.cli.pictures import (
    calibration_options,
    optional_picture_options,
    preprocessing_of,
    share,
)

if TYPE_CHECKING:
    from mobilenet_tvm.compile.compress.evaluate import Evaluation
    from mobilenet_tvm.compile.compress.predict import Prediction
    from mobilenet_tvm.compile.compress.prune import PruneResult


@click.command()
@click.option("--model", required=True, help="A name (see 'models') or an ONNX file, in float32.")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The ONNX file to write."
)
@click.option(
    "--sparsity",
    type=float,
    required=True,
    help="The share of the channels inside each block to remove, such as 0.25.",
)
@click.option(
    "--target",
    default="native",
    show_default=True,
    help="The machine, of whose vectors of channels whole ones are removed.",
)
@click.option(
    "--by",
    type=click.Choice(["activation", "magnitude", "norm", "random"]),
    help="Which channels stay: those that others cannot make up for, those read with the largest "
    "weights, or those with the largest scale of batch normalisation.  [default: activation with "
    "--images, else magnitude]",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of --by random."
)
@optional_picture_options
@click.option(
    "--refit/--no-refit",
    default=True,
    show_default=True,
    help="With --images, have the channels that stay make up for the others.",
)
@calibration_options("take activations from")
@weights_option
@shape_options
@json_option
def prune(
    model: str,
    output: Path,
    sparsity: float,
    target: str,
    by: str | None,
    seed: int,
    images: Path | None,
    labels: Path | None,
    first_class: int,
    preprocessing: str,
    mean: tuple[float, ...] | None,
    deviation: tuple[float, ...] | None,
    refit: bool,
    calibration: int,
    held_out: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Remove channels inside the blocks of a network, for a smaller and faster one.

    The result has to be trained further, except after the removal of few channels with --images.
    """
    from mobilenet_tvm.compile import PruneOptions, prune_model

    result = prune_model(
        model,
        output,
        PruneOptions(sparsity, by, seed, refit, calibration, held_out),
        target=target,
        images=images,
        labels=labels,
        preprocessing=preprocessing_of(preprocessing, mean, deviation),
        first_class=first_class,
        **given(options),
    )
    warn_of_random(result.weights)
    if as_json:
        facts = asdict(result)
        print_json({"file": str(facts.pop("path")), **facts, "removed": result.removed})
    else:
        print_facts(_facts(result))


def _facts(result: PruneResult) -> dict[str, str]:
    facts = {
        "wrote": f"{result.path} ({result.size_bytes / 1e6:.1f} MB; "
        f"in full {result.full_bytes / 1e6:.1f} MB)",
        "removed": f"{share(result.removed / result.channels)} of {result.channels} channels in "
        f"{len(result.blocks)} blocks, {result.vector} at a time for {result.target}, "
        f"by {result.by}",
        "macs": f"{result.macs / 1e6:.1f} M, {share(result.macs / result.full_macs)} of "
        f"{result.full_macs / 1e6:.1f} M",
        "time": _time(result.prediction, result.target),
    }
    if result.calibrated_on:
        facts["learned"] = f"from {result.calibrated_on} pictures"
    if result.held_out:
        facts["held out"] = f"{result.held_out.pictures} pictures: {_accuracy(result.held_out)}"
    return facts


def _time(prediction: Prediction | None, target: str) -> str:
    if prediction is None:
        return f"unknown: no tuning log for {target} has one of its layers; measure it with 'bench'"
    ratio = share(prediction.after / prediction.before)
    told = f"{1e3 * prediction.after:.2f} ms predicted, {ratio} of {1e3 * prediction.before:.2f} ms"
    return (
        f"{told}; tuning logs have {prediction.known} of {prediction.layers} layers, and the "
        "others count in proportion to the operations of the nearest one"
    )


def _accuracy(evaluation: Evaluation) -> str:
    shown = f"agrees with the full network on {share(evaluation.agreement or 0)}"
    if evaluation.top1 is not None and evaluation.against_top1 is not None:
        shown += f", top1 {share(evaluation.top1)}, full {share(evaluation.against_top1)}"
    return shown
