"""The command `logs`: lists, merges, prunes and checks tuning logs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mobilenet_tvm.compile.cli.output import echo, json_option, print_json

if TYPE_CHECKING:
    from mobilenet_tvm.compile.logs.log import TuningLog

_PATH = click.Path(path_type=Path)
_files = click.argument("files", type=_PATH, nargs=-1, required=True, metavar="FILE...")


@click.group(no_args_is_help=False)
def logs() -> None:
    """List, merge, prune and check tuning logs."""


@logs.command("list")
@click.argument("files", type=_PATH, nargs=-1)
@click.option("--target", help="Only this target's records.")
@json_option
def list_command(files: tuple[Path, ...], target: str | None, as_json: bool) -> None:
    """List records and their speed.

    Without FILES, those of your own logs and of the shipped ones.
    """
    from mobilenet_tvm.compile.logs.log import TuningLog, shipped_log, user_log
    from mobilenet_tvm.targets.presets import PRESETS, get_target

    wanted = [*PRESETS] if target is None else [get_target(target).preset]
    found = [find(PRESETS[name]) for name in wanted for find in (user_log, shipped_log)]
    read = [TuningLog.read(path) for path in files or filter(Path.is_file, found)]
    warn_of_skipped(read)
    rows: list[dict[str, Any]] = [
        {
            "file": str(log.path),
            "operator": record.operator,
            "gflops": record.gflops,
            **record.to_row(),
        }
        for log in read
        for record in sorted(log.records, key=lambda record: record.workload)
        if record.target in wanted
    ]
    if as_json:
        print_json(rows)
        return
    if rows:
        columns = ("us", "GFLOP/s", "threads", "date", "source", "target", "device")
        _print_table([(*columns, "workload and decision"), *map(_cells, rows)])
    echo(f"{len(rows)} records in {len(read)} logs")


@logs.command()
@_files
@click.option("-o", "--output", type=_PATH, required=True, help="The log to merge into.")
@json_option
def merge(files: tuple[Path, ...], output: Path, as_json: bool) -> None:
    """Merge the best records of FILES into one log.

    Its own records stay unless they are beaten: a measured record beats a static one, and on the
    same device with the same number of threads, the shorter time wins.
    """
    from mobilenet_tvm.compile.logs.log import TuningLog
    from mobilenet_tvm.targets.presets import PRESETS

    target = PRESETS.get(output.stem)
    others = [TuningLog.read(path, target) for path in files]
    warn_of_skipped(others)
    merged = TuningLog(output, target)
    _print_written(merged, merged.merge(*others), as_json)


@logs.command()
@click.argument("file", type=_PATH)
@json_option
def prune(file: Path, as_json: bool) -> None:
    """Sort a log, and drop records that are beaten or damaged."""
    log = _read(file)
    _print_written(log, log.prune(), as_json)


@logs.command()
@_files
@json_option
def check(files: tuple[Path, ...], as_json: bool) -> int:
    """Name each line that cannot be used.

    The exit status is 1 if there are any.
    """
    read = [_read(path) for path in files]
    if as_json:
        print_json(
            [
                {
                    "file": str(log.path),
                    "records": len(log.records),
                    "skipped": [
                        {"line": line.number, "reason": line.reason, "detail": line.detail}
                        for line in log.skipped
                    ],
                }
                for log in read
            ]
        )
    else:
        for log in read:
            for line in log.skipped:
                why = f"{line.reason}: {line.detail}" if line.detail else line.reason
                echo(f"{log.path}:{line.number}: {why}")
            echo(f"{log.path}: {len(log.records)} records, {len(log.skipped)} skipped")
    return 1 if any(log.skipped for log in read) else 0


def warn_of_skipped(read: Iterable[TuningLog]) -> None:
    """Print to standard error how many lines of each log are not used, and why."""
    from mobilenet_tvm.compile.logs.log import in_words

    for log in read:
        if log.skipped:
            lines = len(log.records) + len(log.skipped)
            echo(
                f"warning: {log.path}: skipped {len(log.skipped)} of {lines} lines "
                f"({in_words(log.skipped_by_reason)}); 'logs check' names them",
                err=True,
            )


def _read(path: Path) -> TuningLog:
    """Read a log; one that is named after a preset should hold only lines for that target."""
    from mobilenet_tvm.compile.logs.log import TuningLog
    from mobilenet_tvm.targets.presets import PRESETS

    return TuningLog.read(path, PRESETS.get(path.stem))


def _print_written(log: TuningLog, dropped: Mapping[str, int], as_json: bool) -> None:
    from mobilenet_tvm.compile.logs.log import in_words

    if as_json:
        print_json({"file": str(log.path), "records": len(log.records), "dropped": dropped})
        return
    echo(f"wrote {log.path}: {len(log.records)} records; dropped {in_words(dropped) or 'none'}")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    decision = " ".join(f"{name}={value}" for name, value in row["decision"].items())
    return (
        f"{row['microseconds']:.2f}",
        f"{row['gflops']:.1f}",
        str(row["threads"]),
        row["date"][:10],
        row["source"],
        row["target"],
        row["device"],
        f"{row['workload']}  {decision}",
    )


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        echo("  ".join(cells).rstrip())
