"""The command `bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mobilenet_tvm.compile.cli.options import device_option, file_argument
from mobilenet_tvm.compile.cli.output import echo, json_option, print_facts, print_json

if TYPE_CHECKING:
    from mobilenet_tvm.compile.analysis.bench import BenchResult

_MAX_THREADS = 256
_STATISTICS = ("minimum", "median", "p90", "p99")


class _ThreadCounts(click.ParamType):  # type: ignore[type-arg]
    """Numbers of threads, separated by commas."""

    name = "counts"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """Return the numbers in their order, each once."""
        try:
            counts = tuple(dict.fromkeys(int(count) for count in value.split(",")))
        except ValueError:
            self.fail(f"'{value}' is not a number or several, such as 1,2,4", param, ctx)
        if not all(1 <= count <= _MAX_THREADS for count in counts):
            self.fail(f"'{value}' is not in the range 1<=x<={_MAX_THREADS}", param, ctx)
        return counts


@click.command()
@file_argument
@click.option(
    "--threads",
    type=_ThreadCounts(),
    help="Threads to run with; several numbers, such as 1,2,4, are compared, as far as there are "
    "CPUs for them.  [default: the fast cores]",
)
@device_option
@click.option("--rounds", type=click.IntRange(1), default=100, show_default=True)
@json_option
def bench(
    file: Path, threads: tuple[int, ...] | None, device: str, rounds: int, as_json: bool
) -> None:
    """Measure the latency of a compiled model, here or on a board."""
    from mobilenet_tvm.compile import bench_artifact, sweep_threads

    if threads is not None and len(threads) > 1:
        _print_sweep(file, sweep_threads(file, threads, device=device, rounds=rounds), as_json)
        return
    result = bench_artifact(
        file, device=device, threads=threads[0] if threads else None, rounds=rounds
    )
    if as_json:
        print_json(_described(file, result) | _measured(result))
        return
    latency, remote = result.latency, result.remote_latency
    facts = _facts(result) | {
        "threads": str(result.threads),
        "rounds": f"{latency.rounds}, warm caches",
        **{name: f"{1e3 * getattr(latency, name):.3f} ms" for name in _STATISTICS},
    }
    if remote:
        facts["call"] = f"{1e3 * remote.median:.3f} ms from here, inputs and outputs included"
    print_facts(facts)


def _print_sweep(file: Path, results: list[BenchResult], as_json: bool) -> None:
    if as_json:
        runs = {"runs": [_measured(result) for result in results]}
        print_json(_described(file, results[0]) | runs)
        return
    print_facts(_facts(results[0]) | {"rounds": f"{results[0].latency.rounds}, warm caches"})
    slowest = results[0].latency.median
    echo("threads " + "".join(f"{name:>12}" for name in _STATISTICS) + "   speed")
    for result in results:
        times = "".join(f"{1e3 * getattr(result.latency, name):>9.3f} ms" for name in _STATISTICS)
        echo(f"{result.threads:>7} {times} {slowest / result.latency.median:>7.2f}x")


def _facts(result: BenchResult) -> dict[str, str]:
    facts = {"board": str(result.board)} if result.board else {}
    metadata = result.metadata
    return facts | {"model": f"{metadata.model} for {metadata.target['name']}"}


def _described(file: Path, result: BenchResult) -> dict[str, Any]:
    metadata = result.metadata
    found = {"file": str(file), "model": metadata.model, "target": metadata.target["name"]}
    return found | ({"board": result.board.name} if result.board else {})


def _measured(result: BenchResult) -> dict[str, Any]:
    remote = result.remote_latency
    there = {"remote_call_ms": 1e3 * remote.median} if remote else {}
    return there | {"threads": result.threads, **result.latency.to_dict()}
