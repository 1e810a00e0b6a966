"""Runs the model in this file's folder: once to print its outputs, and again to time it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from mobilenet_tvm.runtime import load
from mobilenet_tvm.runtime.base_model import Array, BaseModel
from mobilenet_tvm.runtime.bench import measure_latency, random_inputs
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.printable import printable


def main() -> None:
    """Parse the command line, run, print; exit with status 1 on an error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "arrays",
        nargs="*",
        type=Path,
        metavar="input.npy",
        help="one file for each input of the model (default: random numbers)",
    )
    parser.add_argument("--threads", type=int, help="default: the number of fast cores")
    options = parser.parse_args()
    try:
        run(options.arrays, options.threads)
    except UserError as error:
        sys.exit(f"error: {printable(str(error))}")


def run(files: list[Path], threads: int | None) -> None:
    """Print the model's outputs and its latency."""
    model = load(_artifact(), threads=threads)
    inputs = _read(model, files) if files else random_inputs(model)
    result = model(**inputs)
    outputs = result if isinstance(result, dict) else {model.outputs[0].name: result}
    latency = measure_latency(model, inputs, rounds=50)
    lines = [f"{model.metadata.model} for {model.metadata.target['name']}, on {model.device.name}"]
    lines += [f"input  {info}" for info in model.inputs]
    lines += [f"output {info}: {_summary(outputs[info.name])}" for info in model.outputs]
    lines += [
        f"latency, threads: {model.threads}: {1e3 * latency.median:.2f} ms median, "
        f"{1e3 * latency.minimum:.2f} ms minimum"
    ]
    sys.stdout.writelines(f"{printable(line)}\n" for line in lines)


def _artifact() -> Path:
    artifacts = list(Path(__file__).parent.glob("*.so"))
    if len(artifacts) != 1:
        raise UserError(f"{len(artifacts)} models (*.so) beside {__file__}; keep exactly one")
    return artifacts[0]


def _read(model: BaseModel, files: list[Path]) -> dict[str, Array]:
    if len(files) != len(model.inputs):
        raise UserError(f"{len(files)} files given, the model has {len(model.inputs)} inputs")
    inputs = {}
    for info, file in zip(model.inputs, files, strict=True):
        try:
            inputs[info.name] = np.load(file)
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: not an array in .npy format ({error})") from None
    return inputs


def _summary(output: Array) -> str:
    largest = np.argsort(output, axis=None)[::-1][:5]
    return f"{output.min():.4g} to {output.max():.4g}, largest at {largest.tolist()}"


if __name__ == "__main__":
    main()
