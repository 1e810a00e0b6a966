"""The commands `models` and `targets`."""

from __future__ import annotations

from dataclasses import asdict

import click

from mobilenet_tvm.compile.cli.output import echo, json_option, print_json


@click.command()
@json_option
def models(as_json: bool) -> None:
    """List the named models, counted, beside the published figures."""
    from mobilenet_tvm.compile import list_models

    found = list_models()
    if as_json:
        print_json(
            [
                {
                    "name": model.name,
                    "parameters": model.parameters,
                    "published_parameters": model.published.parameters,
                    "macs": model.macs,
                    "published_macs_millions": list(model.published.macs),
                    "published_top1_percent": model.published.top1,
                }
                for model in found
            ]
        )
        return
    width = max(len(model.name) for model in found)
    head = f"{'parameters':>12} {'published':>12} {'M MACs':>8} {'published':>10}"
    echo(f"{'':<{width}} {head}")
    for model in found:
        low, high = model.published.macs
        echo(
            f"{model.name:<{width}} {model.parameters:>12,} {model.published.parameters:>12,} "
            f"{model.macs / 1e6:>8.1f} {f'{low}' if low == high else f'{low}-{high}':>10}"
        )


@click.command()
@json_option
def targets(as_json: bool) -> None:
    """List the targets and their other names."""
    from mobilenet_tvm.compile import list_targets

    found = list_targets()
    if as_json:
        print_json([{**asdict(row.target), "aliases": list(row.aliases)} for row in found])
        return
    for row in found:
        also = f" (also: {', '.join(row.aliases)})" if row.aliases else ""
        echo(f"{row.target.name:<12} {row.target.description}{also}")
