"""Compares the classes that a network names in float16 on an ARM core with those in float32.

    python benchmarks/arm_labels.py --weights V2.safetensors --images PICTURES

MobileNetV2 with these weights is compiled in float16 for the core and run on some of the pictures
in an emulator, which takes several seconds each, and in float32 here on all. Where this machine's
CPU multiplies float16 (AVX512-FP16), the core's schedules are also compiled for it and run on all
pictures; the outputs of both are compared, and are equal to the bit where each rounds the same.
"""

from __future__ import annotations

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from arm_emulator import MACHINES, Emulator, SetUpError
from board_models import run_on_board

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.compress.pictures import (
    PREPROCESSINGS,
    find_pictures,
    read_picture,
    spread,
)
from mobilenet_tvm.compile.tuning.emulated.emulator import CPUS
from mobilenet_tvm.runtime import load
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.host import cpu_features
from mobilenet_tvm.targets.presets import get_target
from mobilenet_tvm.targets.target import Target

Array = np.ndarray[Any, Any]

#: Pictures of one emulated process, which takes a while to start.
AT_ONCE = 4
#: Seconds after which an emulated process hangs, however busy the machine is.
PATIENCE = 3600
STAND_IN = "avx512_fp16"


def here(core: Target) -> Target:
    """Return a target with a core's schedules for this machine."""
    return replace(
        core,
        name="stand-in",
        architecture="x86_64",
        cpu="sapphirerapids",
        features=(),
        required_features=(STAND_IN,),
        dot="",
    )


def emulated(path: Path, images: Array, core: str, folder: Path, jobs: int) -> Array:
    """Return a network's outputs for pictures on an emulated core."""
    board, machine = Emulator().board, CPUS.get(core, core)

    def run(first: int) -> Array:
        scratch = folder / f"part{first}"
        scratch.mkdir()
        some = images[first : first + AT_ONCE]
        part: Array = run_on_board(board, path, some, scratch, machine, PATIENCE)
        return part

    with ThreadPoolExecutor(jobs) as pool:
        return np.concatenate(list(pool.map(run, range(0, len(images), AT_ONCE))))


def words(name: str, found: Array, expected: Array) -> str:
    """Return a line about outputs in float16, beside those in float32."""
    same = int((found.argmax(axis=-1) == expected.argmax(axis=-1)).sum())
    errors = np.abs(found - expected).max(axis=-1) / np.ptp(expected, axis=-1)
    return (
        f"{name}: {same} of {len(found)} pictures have the class of float32, "
        f"{same / len(found):.1%}; error as a share of the range: "
        f"median {np.median(errors):.2%}, worst {errors.max():.2%}"
    )


@click.command()
@click.option("--weights", type=click.Path(path_type=Path), required=True)
@click.option("--images", type=click.Path(path_type=Path), required=True)
@click.option("--core", type=click.Choice(sorted(MACHINES)), default="cortex-a76")
@click.option("--count", default=16, show_default=True, help="Pictures for the emulator.")
@click.option("--jobs", default=2, show_default=True, help="Emulators at once.")
def main(weights: Path, images: Path, core: str, count: int, jobs: int) -> None:
    """Print on how many pictures float16 and float32 name the same class."""
    os.nice(10)
    if reason := Emulator().board.reason():
        raise click.ClickException(reason)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)

        def compiled(target: str | Target, dtype: str, name: str) -> Path:
            given = {"dtype": dtype, "weights": weights}
            return compile_model("v2", target, folder / name, tuning_log="none", **given).path

        single = load(compiled("native", "float32", "float32.so"))
        info = single.inputs[0]
        chosen, others = spread(find_pictures(images), count)
        data = np.stack(
            [
                read_picture(picture.path, info.shape, info.dtype, PREPROCESSINGS["torchvision"])
                for picture in (*chosen, *others)
            ]
        )
        expected = np.concatenate([single(image) for image in data])
        found = emulated(
            compiled(core, "float16", "half.so"), data[: len(chosen)], core, folder, jobs
        )
        found = found.reshape(len(chosen), -1)
        click.echo(words(f"emulated {core}", found, expected[: len(chosen)]))
        if STAND_IN in cpu_features():
            half = load(compiled(here(get_target(core)), "float16", "here.so"))
            outputs = np.concatenate([half(image) for image in data])
            click.echo(words("AVX512-FP16", outputs, expected))
            difference = np.abs(outputs[: len(chosen)] - found).max()
            click.echo(f"largest difference of the emulated core and AVX512-FP16: {difference:.2g}")


if __name__ == "__main__":
    try:
        main()
    except (UserError, SetUpError, OSError) as error:
        sys.exit(f"error: {error}")
