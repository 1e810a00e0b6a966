"""What all commands share of the command line: `--json`, and how results are printed."""

from __future__ import annotations

import json
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def print_facts(facts: dict[str, str]) -> None:
    """Print a line for each fact, its name first."""
    for name, value in facts.items():
        click.echo(f"{name:<8} {value}")


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2))
