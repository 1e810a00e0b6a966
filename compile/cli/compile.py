"""The command `compile`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mobilenet_tvm.compile.cli.logs import warn_of_skipped
from mobilenet_tvm.compile.cli.options import dtype_option, given, model_options
from mobilenet_tvm.compile.cli.output import json_option, print_facts, print_json, warn_of_random
from mobilenet_tvm.compile.cli.pictures import preprocessing_of, preprocessing_options
from mobilenet_tvm.compile.cli.quantize import print_quantized

if TYPE_CHECKING:
    from mobilenet_tvm.compile.artifact import Artifact
    from mobilenet_tvm.compile.compress.pictures import Preprocessing
    from mobilenet_tvm.runtime import Metadata, TensorInfo


@click.command("compile")
@click.option("--target", required=True, help="The machine to compile for; see 'targets'.")
@click.option("--model", required=True, help="A name (see 'models') or an ONNX file.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The file to write; with --interface c, the folder.  [default: build/<model>-<target>.so, "
    "or -<target>-float16.so; with --interface c, build/<model>-<target>]",
)
@click.option(
    "--dump",
    type=click.Path(path_type=Path),
    help="A folder to write the network to as it is after each phase.",
)
@click.option(
    "--tuning-log",
    metavar="FILE|none",
    help="The tuning log to take decisions from.  [default: your own, then the shipped one]",
)
@dtype_option
@click.option(
    "--interface",
    type=click.Choice(["python", "c"]),
    default="python",
    show_default=True,
    help="c: a library and a header for C, without TVM; Python's load takes it too.",
)
@click.option("--static", is_flag=True, help="With --interface c, write a static library too.")
@click.option(
    "--quantize",
    "images",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Quantise to 8-bit integers first, with pictures in this folder; 'quantize' has more "
    "options. The ONNX file is written beside the output.",
)
@preprocessing_options
@model_options
@json_option
def compile_command(
    target: str,
    model: str,
    output: Path | None,
    dump: Path | None,
    tuning_log: str | None,
    dtype: str,
    interface: str,
    static: bool,
    images: Path | None,
    preprocessing: str,
    mean: tuple[float, ...] | None,
    deviation: tuple[float, ...] | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Compile a model into one shared library."""
    from mobilenet_tvm.compile import compile_model

    options = given(options)
    if images is not None:
        how = preprocessing_of(preprocessing, mean, deviation)
        model, options = _quantized(model, images, output, how, options), {}
    artifact = compile_model(
        model, target, output, dump, tuning_log, dtype, interface, static, **options
    )
    warn_of_random(artifact.metadata.weights)
    warn_of_skipped(artifact.logs)
    if as_json:
        print_json(
            {
                "file": str(artifact.path),
                "size_bytes": artifact.size_bytes,
                "seconds": round(artifact.seconds, 2),
                **artifact.metadata.to_dict(),
            }
        )
    else:
        print_facts(_facts(artifact, dtype))


def _quantized(
    model: str, images: Path, output: Path | None, how: Preprocessing, options: dict[str, Any]
) -> str:
    """Quantise a model, say what that cost, and return the file."""
    from mobilenet_tvm.compile import quantize_model

    folder, name = (output.parent, output.stem) if output else (Path("build"), Path(model).stem)
    path = folder / f"{name}-int8.onnx"
    result = quantize_model(model, images, path, preprocessing=how, **options)
    warn_of_random(result.weights)
    print_quantized(result, err=True)
    return str(path)


def _facts(artifact: Artifact, dtype: str) -> dict[str, str]:
    metadata = artifact.metadata
    target, extra = metadata.target, metadata.extra
    half = "" if dtype == "float32" else f", {dtype}"
    return {
        "wrote": f"{artifact.path} ({artifact.size_bytes / 1e6:.1f} MB)",
        "model": f"{metadata.model}, {_listed(metadata.inputs)} -> {_listed(metadata.outputs)}",
        "target": f"{target['name']} ({target['cpu']}, {target['triple']})",
        "weights": metadata.weights,
        "layers": f"{metadata.layers} in {extra['functions']} functions{half}",
        "tuned": _tuned(metadata),
        "memory": f"{extra['activation_bytes'] / 1e6:.1f} MB between layers, "
        f"{sum(call['bytes'] for call in extra['calls']) / 1e6:.1f} MB moved",
        "time": f"{artifact.seconds:.1f} s",
    }


def _listed(tensors: Iterable[TensorInfo]) -> str:
    return ", ".join(map(str, tensors))


def _tuned(metadata: Metadata) -> str:
    estimated = sum(call["source"] == "emulated" for call in metadata.extra["calls"])
    by_estimates = f", {estimated} of them by estimates" if estimated else ""
    return f"{metadata.tuned_layers} of {metadata.layers} layers{by_estimates}"
