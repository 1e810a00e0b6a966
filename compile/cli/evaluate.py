"""The command `evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mobilenet_tvm.compile.cli.options import file_argument, threads_option
from mobilenet_tvm.compile.cli.output import json_option, print_facts, print_json
from mobilenet_tvm.compile.cli.pictures import (
    picture_options,
    preprocessing_of,
    progress_on_terminal,
    share,
)


@click.command()
@file_argument
@picture_options
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="Another model, such as the float32 one, to count how often both name the same class.",
)
@threads_option
@json_option
def evaluate(
    file: Path,
    images: Path,
    labels: Path | None,
    first_class: int,
    against: Path | None,
    threads: int | None,
    as_json: bool,
    **preprocessing: Any,
) -> None:
    """Measure the accuracy of a compiled model or an ONNX file on pictures."""
    from mobilenet_tvm.compile import evaluate_model

    with progress_on_terminal("evaluating") as progress:
        result = evaluate_model(
            file,
            images,
            labels=labels,
            against=against,
            preprocessing=preprocessing_of(**preprocessing),
            first_class=first_class,
            threads=threads,
            progress=progress,
        )
    if as_json:
        print_json({"file": str(file), **result.to_dict()})
        return
    facts = {"pictures": str(result.pictures)}
    for name in ("top1", "top5"):
        if (figure := getattr(result, name)) is not None:
            facts[name] = share(figure)
    if result.agreement is not None:
        facts["agrees"] = f"{share(result.agreement)} with {against}"
    if result.against_top1 is not None:
        facts["agrees"] += f", whose top1 is {share(result.against_top1)}"
    facts["speed"] = f"{result.pictures_per_second:.1f} pictures per second"
    print_facts(facts)
