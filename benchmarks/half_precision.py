"""Measures the accuracy of float16: networks compiled with it against ONNX Runtime in float32.

    python tests/helpers/intel_opencl.py
    python benchmarks/half_precision.py --pretrained V1.onnx --picture CAT.png --picture CUP.png

Named networks have random weights and get random inputs; a pretrained one gets crops of pictures.
Without a GPU, set the environment variables that `tests/helpers/intel_opencl.py` prints, for an
OpenCL driver for CPUs that supports float16.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.analysis.verify import Comparison, compare, verify
from mobilenet_tvm.compile.models.source import ModelOptions, resolve
from mobilenet_tvm.runtime import load
from mobilenet_tvm.runtime.metadata import TensorInfo
from mobilenet_tvm.targets.errors import UserError

Array = np.ndarray[Any, Any]

NAMES = ("v1", "v2", "v3-large", "v3-small")


def crops(pictures: Sequence[Path], count: int, info: TensorInfo) -> Iterator[dict[str, Array]]:
    """Yield square crops of pictures as inputs, some mirrored, scaled to the range -1 to 1."""
    rng = np.random.default_rng(0)
    nchw = info.shape[1] == 3
    size = info.shape[2:] if nchw else info.shape[1:3]
    for path in pictures:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        for _ in range(count // len(pictures)):
            side = int(min(picture.size) * rng.uniform(0.5, 1))
            x, y = (int(rng.integers(0, extent - side + 1)) for extent in picture.size)
            square = picture.crop((x, y, x + side, y + side))
            values = np.asarray(square.resize(size[::-1], Image.Resampling.BILINEAR)) / 127.5 - 1
            values = values[:, ::-1] if rng.random() < 0.5 else values
            values = values.transpose(2, 0, 1) if nchw else values
            yield {info.name: np.ascontiguousarray(values[None], info.dtype)}


def row(name: str, dtype: str, size: int, results: Sequence[Comparison]) -> str:
    """Return a line of the table."""
    errors = [result.error for result in results]
    same = sum(result.same_top for result in results)
    return (
        f"{name:<12} {dtype}  {np.median(errors):9.2e} {max(errors):9.2e}  "
        f"{same:>3} of {len(results):<4} {size / 1e6:6.1f} MB"
    )


@click.command()
@click.option("--target", default="mali:x86", show_default=True)
@click.option("--dtype", "dtypes", multiple=True, default=("float32", "float16"), show_default=True)
@click.option("--inputs", default=20, show_default=True, help="Random inputs of named networks.")
@click.option("--pretrained", type=click.Path(path_type=Path), help="An ONNX file.")
@click.option("--picture", "pictures", multiple=True, type=click.Path(path_type=Path))
@click.option(
    "--crops", "count", default=100, show_default=True, help="Crops of all pictures together."
)
def main(
    target: str,
    dtypes: tuple[str, ...],
    inputs: int,
    pretrained: Path | None,
    pictures: tuple[Path, ...],
    count: int,
) -> None:
    """Print errors as shares of the output's range, and how often the top class agrees."""
    if (pretrained is None) != (not pictures):
        raise click.UsageError("give --pretrained and --picture together")
    click.echo(f"{'network':<12} {'dtype':<8} {'median':>9} {'worst':>9}  top class")
    with tempfile.TemporaryDirectory() as folder:
        for name in (*NAMES, *([str(pretrained)] if pretrained else [])):
            reference = resolve(name, ModelOptions()).model
            for dtype in dtypes:
                output = Path(folder) / "model.so"
                path = compile_model(name, target, output, tuning_log="none", dtype=dtype).path
                model = load(path)
                if name in NAMES:
                    results = verify(model, reference, inputs)
                else:
                    results = compare(model, reference, crops(pictures, count, model.inputs[0]))
                click.echo(row(Path(name).stem, dtype, path.stat().st_size, results))


if __name__ == "__main__":
    try:
        main()
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
