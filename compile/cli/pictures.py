"""Options of the commands that read pictures, and their progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mobilenet_tvm.compile.cli.options import with_options
from mobilenet_tvm.targets.errors import WrongUseError

if TYPE_CHECKING:
    from mobilenet_tvm.compile.compress.pictures import Preprocessing

F = TypeVar("F", bound=Callable[..., Any])


class _Channels(click.ParamType):  # type: ignore[type-arg]
    """R,G,B."""

    name = "R,G,B"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        try:
            channels = tuple(float(channel) for channel in value.split(","))
        except ValueError:
            channels = ()
        if len(channels) not in (1, 3):
            self.fail(f"'{value}' is not of the form 0.5,0.5,0.5", param, ctx)
        return channels


_PREPROCESSING_OPTIONS = [
    click.option(
        "--preprocessing",
        type=click.Choice(["torchvision", "timm", "tensorflow"]),
        default="torchvision",
        show_default=True,
        help="How the network expects pictures.",
    ),
    click.option("--mean", type=_Channels(), help="Of pixels from 0 to 1, instead."),
    click.option("--deviation", type=_Channels(), help="Of pixels from 0 to 1, instead."),
]
_LABEL_OPTIONS = [
    click.option(
        "--labels",
        type=click.Path(path_type=Path),
        help="A file with a picture's name and its class number in each line.  [default: each "
        "folder in DIR is a class]",
    ),
    click.option(
        "--first-class",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="The place of class 0 among the scores; 1 where a background precedes it.",
    ),
]


def _images_option(required: bool) -> Callable[[F], F]:
    return click.option(
        "--images",
        required=required,
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="A folder with pictures, or with a folder of pictures per class.",
    )


def picture_options(command: F) -> F:
    """Add the options that say which pictures are meant, and how to prepare them."""
    options = [_images_option(True), *_LABEL_OPTIONS, *_PREPROCESSING_OPTIONS]
    return with_options(options, command)


def optional_picture_options(command: F) -> F:
    """Add the same options for a command that can do without pictures."""
    options = [_images_option(False), *_LABEL_OPTIONS, *_PREPROCESSING_OPTIONS]
    return with_options(options, command)


def calibration_options(use: str) -> Callable[[F], F]:
    """Return a decorator that adds the options that divide the pictures; `use` is the first's."""
    options = [
        click.option(
            "--calibration",
            type=click.IntRange(1),
            default=64,
            show_default=True,
            help=f"Pictures to {use}, spread evenly over those given.",
        ),
        click.option(
            "--held-out",
            type=click.IntRange(0),
            default=1000,
            show_default=True,
            help="Other pictures to evaluate on, at most.",
        ),
    ]
    return lambda command: with_options(options, command)


def preprocessing_options(command: F) -> F:
    """Add the options that say how to prepare pictures."""
    return with_options(_PREPROCESSING_OPTIONS, command)


def preprocessing_of(
    preprocessing: str, mean: tuple[float, ...] | None, deviation: tuple[float, ...] | None
) -> Preprocessing:
    """Return the preprocessing that a user chose."""
    from dataclasses import replace

    from mobilenet_tvm.compile.compress.pictures import PREPROCESSINGS

    chosen = PREPROCESSINGS[preprocessing]
    mean, deviation = mean or chosen.mean, deviation or chosen.deviation
    if len(mean) != len(deviation) or min(deviation) <= 0:
        raise WrongUseError(
            "--mean and --deviation need one number per channel, deviations above 0"
        )
    return replace(chosen, mean=mean, deviation=deviation)


@contextmanager
def progress_on_terminal(label: str) -> Iterator[Callable[[int, int], None] | None]:
    """Yield a function that shows how much is done; None where nobody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=1, label=label, file=sys.stderr) as bar:

        def show(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        yield show


def share(value: float) -> str:
    """Return a share as a percentage."""
    return f"{value:.1%}"
