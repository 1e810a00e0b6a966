"""The command `bench`."""

from __future__ import annotations

from pathlib import Path

import click

from mobilenet_tvm.compile.cli.options import device_option, file_argument, threads_option
from mobilenet_tvm.compile.cli.output import json_option, print_facts, print_json


@click.command()
@file_argument
@threads_option
@device_option
@click.option("--rounds", type=click.IntRange(1), default=100, show_default=True)
@json_option
def bench(file: Path, threads: int | None, device: str, rounds: int, as_json: bool) -> None:
    """Measure the latency of a compiled model, here or on a board."""
    from mobilenet_tvm.compile import bench_artifact

    result = bench_artifact(file, device=device, threads=threads, rounds=rounds)
    model, target = result.metadata.model, result.metadata.target["name"]
    latency, board, remote = result.latency, result.board, result.remote_latency
    if as_json:
        there = (
            {"board": board.name, "remote_call_ms": 1e3 * remote.median} if board and remote else {}
        )
        print_json(
            {
                "file": str(file),
                "model": model,
                "target": target,
                **there,
                "threads": result.threads,
                **latency.to_dict(),
            }
        )
        return
    facts = {"board": str(board)} if board else {}
    facts |= {
        "model": f"{model} for {target}",
        "threads": str(result.threads),
        "rounds": f"{latency.rounds}, warm caches",
        **{
            name: f"{1e3 * getattr(latency, name):.3f} ms"
            for name in ("minimum", "median", "p90", "p99")
        },
    }
    if remote:
        facts["call"] = f"{1e3 * remote.median:.3f} ms from here, inputs and outputs included"
    print_facts(facts)
