"""The command `bundle`."""

from __future__ import annotations

from pathlib import Path

import click

from mobilenet_tvm.compile.cli.output import echo, json_option, print_json
from mobilenet_tvm.targets.errors import WrongUseError


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option(
    "--board", metavar="TARGET", help="Make the folder of a board of this target; without FILE."
)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The folder to write."
)
@json_option
def bundle(file: Path | None, board: str | None, output: Path, as_json: bool) -> None:
    """Make a folder to copy to a device: a model and its loader, or what a board serves with."""
    from mobilenet_tvm.runtime.bundle import board_folder
    from mobilenet_tvm.runtime.bundle import bundle as bundle_artifact
    from mobilenet_tvm.targets.presets import get_target

    if board is not None and file is None:
        target = get_target(board)
        folder = board_folder(target.architecture, output, target.kind)
    elif file is not None and board is None:
        folder = bundle_artifact(file, output)
    else:
        raise WrongUseError("give a model's FILE, or --board TARGET")
    sizes = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    if as_json:
        print_json({"folder": str(folder), "files": sizes})
        return
    echo(f"wrote {folder} ({sum(sizes.values()) / 1e6:.1f} MB)")
    for name, size in sizes.items():
        echo(f"  {size / 1e6:8.3f} MB  {name}")
