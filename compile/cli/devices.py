"""The commands `tracker`, `serve` and `devices`: other machines as boards."""

from __future__ import annotations

from typing import Any

import click

from mobilenet_tvm.compile.cli.output import echo, json_option, print_json

_tracker_option = click.option(
    "--tracker",
    metavar="HOST:PORT",
    default="127.0.0.1:9190",
    show_default=True,
    help="The tracker to ask.",
)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=9190, show_default=True)
def tracker(host: str, port: int) -> None:
    """Run TVM's tracker, where boards register and clients queue for them."""
    from mobilenet_tvm.runtime.remote.tracker import run_tracker

    run_tracker(host, port)


@click.command()
@click.option("--tracker", metavar="HOST:PORT", help="The tracker to register at; needs --key.")
@click.option("--key", default="", help="The kind of board, as clients ask the tracker for it.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="0 for any free port.  [default: the first free one from 9090 on]",
)
@click.option("--name", help="The board's own name.  [default: the host name]")
@click.option(
    "--session-limit",
    type=click.FloatRange(0, min_open=True),
    default=3600.0,
    show_default=True,
    help="Seconds for which a client may hold the board.",
)
def serve(tracker: str | None, **options: Any) -> None:
    """Make this machine a board that other machines can use with --device."""
    from mobilenet_tvm.runtime.address import split_host_port
    from mobilenet_tvm.runtime.remote.serve import ServeOptions
    from mobilenet_tvm.runtime.remote.serve import serve as run

    run(ServeOptions(tracker=split_host_port(tracker) if tracker else None, **options))


@click.command()
@_tracker_option
@click.option("--check", "checked", is_flag=True, help="Run a small module on each free board.")
@json_option
def devices(tracker: str, checked: bool, as_json: bool) -> int:
    """List the boards at a tracker."""
    from mobilenet_tvm.runtime.remote.devices import list_boards
    from mobilenet_tvm.targets.presets import RELEVANT_FEATURES

    boards = list_boards(tracker)
    problems: dict[str, str] = {}
    if checked:
        from mobilenet_tvm.compile.analysis.check_board import check_boards

        problems = check_boards(tracker, boards)
    if as_json:
        rows = [
            {
                "key": board.key,
                "address": board.address,
                "busy": board.busy,
                **board.info.to_dict(),
                **({"problem": problems.get(board.address)} if checked else {}),
            }
            for board in boards
        ]
        print_json({"tracker": tracker, "boards": rows})
        return 1 if problems else 0
    if not boards:
        echo(f"no boards at tracker {tracker}; register one with 'mobilenet-tvm serve'")
    else:
        echo(
            f"{'key':<12} {'board':<16} {'state':<6} {'target':<12} {'cores':>5} {'memory':>8}  "
            "address and machine"
        )
    for board in boards:
        info = board.info
        state = {True: "busy", False: "free", None: "?"}[board.busy]
        memory = f"{info.memory_bytes / 1e9:.1f} GB" if info.memory_bytes else ""
        echo(
            f"{board.key:<12} {info.name:<16} {state:<6} {info.target or '?':<12} "
            f"{info.cores or '?':>5} {memory:>8}  {board.address}  {info.machine}"
        )
        features = sorted(RELEVANT_FEATURES & (info.features or set()))
        if features:
            echo(f"{'':<12} {' '.join(features)}")
        if checked:
            problem = problems.get(board.address)
            echo(f"{'':<12} {'works' if problem is None else f'FAILS: {problem}'}")
    return 1 if problems else 0
