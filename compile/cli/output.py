"""How results are printed: as lines of facts, or as JSON by `--json`."""

from __future__ import annotations

import json
import logging
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def printable(text: str) -> str:
    """Return a text with its control characters in escaped form.

    Files and boards give names, which must not control the terminal.
    """
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode()
        for each in text
    )


def echo(text: str, err: bool = False) -> None:
    """Print a text, which may hold names that files or boards give."""
    click.echo(printable(text), err=err)


class PrintableFormatter(logging.Formatter):
    """Formats messages of the log as `echo` prints text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record's text."""
        return printable(super().format(record))


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
