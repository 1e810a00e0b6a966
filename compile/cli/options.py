"""Arguments and options that several commands share: which model, how many threads, where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class _InputShape(click.ParamType):  # type: ignore[type-arg]
    """NAME=1,3,224,224."""

    name = "NAME=SHAPE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, ...]]:
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        name, _, shape = value.rpartition("=")
        try:
            extents = tuple(int(extent) for extent in shape.split(","))
        except ValueError:
            extents = ()
        if not name or not extents or min(extents) < 1:
            self.fail(f"'{value}' is not of the form input=1,3,224,224", param, ctx)
        return name, extents


#: The parameters of `shape_options`, which are fields of `ModelOptions`.
SHAPE_NAMES = ("alpha", "resolution", "classes", "batch", "input_shapes", "until")

input_shape_option = click.option(
    "--input-shape",
    "input_shapes",
    type=_InputShape(),
    multiple=True,
    help="Shape of a dynamic input of an ONNX file; repeatable.",
)
_SHAPE_OPTIONS = [
    click.option("--alpha", type=float, help="Width multiplier of a named model."),
    click.option("--resolution", type=int, help="Height and width of a named model's input."),
    click.option("--classes", type=int, help="Number of a named model's outputs."),
    click.option("--batch", type=int, help="Images per run.  [default: 1]"),
    input_shape_option,
    click.option(
        "--until",
        metavar="NODE",
        multiple=True,
        help="Drop what follows this node or tensor, whose outputs become the model's; repeatable."
        "  [default: nodes whose shapes depend on the data, and what follows them]",
    ),
]
weights_option = click.option(
    "--weights",
    metavar="FILE|pretrained",
    help="Weights of a named model: ONNX, safetensors, PyTorch.  [default: random]",
)
_WEIGHT_OPTIONS = [
    weights_option,
    click.option("--seed", type=int, help="Seed of a named model's random weights."),
]


def shape_options(command: F) -> F:
    """Add the options that say which model is meant, except for its weights."""
    return with_options(_SHAPE_OPTIONS, command)


def model_options(command: F) -> F:
    """Add the options that say which model is meant."""
    return with_options([*_SHAPE_OPTIONS[:3], *_WEIGHT_OPTIONS, *_SHAPE_OPTIONS[3:]], command)


def with_options(options: Sequence[Callable[[F], F]], command: F) -> F:
    """Add options to a command, in their order."""
    for option in reversed(options):
        command = option(command)
    return command


file_argument = click.argument("file", type=click.Path(path_type=Path))
dtype_option = click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Type of the values that layers compute; float16 is for GPUs and CPUs that multiply it.",
)
threads_option = click.option(
    "--threads", type=click.IntRange(1, 256), help="Threads to run with.  [default: the fast cores]"
)
device_option = click.option(
    "--device",
    default="local",
    show_default=True,
    metavar="ADDRESS",
    help="local, rpc://HOST:PORT, tracker://HOST:PORT/KEY or ssh://[USER@]HOST[:PORT].",
)


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that the user gave as fields of `ModelOptions`."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    if "input_shapes" in given:
        given["input_shapes"] = dict(given["input_shapes"])
    return given
