"""How results are printed: as lines of facts, or as JSON by `--json`."""

from __future__ import annotations

import json
from typing import Any

import click

from mobilenet_tvm.targets.printable import printable

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def echo(line: str, err: bool = False) -> None:
    """Print a line, which may hold names that files or boards give."""
    click.echo(printable(line), err=err)


def print_facts(facts: dict[str, str], *, err: bool = False) -> None:
    """Print one fact a line, its name first, on standard error if asked."""
    for name, value in facts.items():
        echo(f"{name:<8} {value}", err=err)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2))


def warn_of_random(weights: str) -> None:
    """Warn of weights that are random, according to their origin."""
    if weights.startswith("random"):
        echo(
            f"warning: the weights are {weights}: times are real, but outputs mean nothing; "
            "give trained ones with --weights",
            err=True,
        )
