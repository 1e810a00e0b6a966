"""The command `profile`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mobilenet_tvm.compile.cli.options import device_option, file_argument, threads_option
from mobilenet_tvm.compile.cli.output import echo, json_option, print_json

if TYPE_CHECKING:
    from mobilenet_tvm.compile.analysis.profile import ProfileResult


@click.command()
@file_argument
@threads_option
@device_option
@click.option("--rounds", type=click.IntRange(1), default=30, show_default=True)
@json_option
def profile(file: Path, threads: int | None, device: str, rounds: int, as_json: bool) -> None:
    """Measure each layer: time, GFLOP/s, bytes, share of the machine's peak, schedule."""
    from mobilenet_tvm.compile import profile_artifact

    result = profile_artifact(file, device=device, threads=threads, rounds=rounds)
    if not as_json:
        _print_table(result)
        return
    print_json(
        {
            "file": str(file),
            **({"board": result.board.name} if result.board else {}),
            "threads": result.threads,
            "peak": vars(result.peak),
            "calls": [vars(call) for call in result.calls],
        }
    )


def _print_table(result: ProfileResult) -> None:
    what = f"{result.threads} threads" if result.target.gpu is None else "the GPU"
    where = f" of {result.board.name}" if result.board else ""
    echo(f"peak of {what}{where}: {result.peak.text}, {result.peak.gbytes:.1f} GB/s")
    width = max((len(call.node) for call in result.calls), default=0)
    echo(
        f"{'us':>8} {'%':>5} {'GFLOP/s':>8} {'peak':>5} {'GB/s':>6}  {'tuned':<8}  "
        f"{'node':<{width}}  layer and decision"
    )
    for call in result.calls:
        echo(
            f"{call.microseconds:>8.1f} {100 * call.microseconds / result.microseconds:>5.1f} "
            f"{call.gflops:>8.1f} {call.peak:>5.0%} {call.gbytes:>6.1f}  "
            f"{call.source.replace('default', '-'):<8}  {call.node:<{width}}  {call.workload}  "
            f"{call.decision}"
        )
    echo(f"{result.microseconds:>8.1f} us in {len(result.calls)} calls")
