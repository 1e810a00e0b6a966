"""Counts what this project, LiteRT and ONNX Runtime execute on ARM cores, without a board.

    python benchmarks/arm_instructions.py
    python benchmarks/arm_instructions.py --dtype int8 --models v2 --cores cortex-a76 --layers

Each runtime runs a network on an emulated core with one thread. The core's /proc/cpuinfo makes each
runtime choose the code that it has for it. A plug-in of the emulator counts instructions and
simulates the caches. Start-up does not count: counting begins after two inferences. Counts are
exact, but for a few of Python's own instructions. Cycles are a lower bound by the ports of the core
(`compile/tuning/emulated/ports.py`), with all data in the first-level cache; what comes from the
second-level cache and from memory is in the last columns.

The first run downloads 280 MB into ``~/.cache/mobilenet-tvm``, on Debian 12, without root. Each
runtime takes a minute or two for a float32 network, most of it for the emulated multiply-adds. The
networks are files in a folder, .onnx and, for LiteRT, .tflite; without it, this project's own
networks are counted, without peers.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from arm_emulator import HERE, MACHINES, Emulator, EmulatorError, SetUpError
from peer_runtimes import OURS, Array, Case
from peers import PEERS, same_network

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.tuning.emulated import counts
from mobilenet_tvm.compile.tuning.emulated.counts import Block
from mobilenet_tvm.runtime.bundle import bundle
from mobilenet_tvm.runtime.metadata import Metadata
from mobilenet_tvm.targets.errors import UserError

MODELS = ("v1", "v2", "v3-large", "v3-small")
OTHERS = ("LiteRT", "ONNX Runtime")

#: What each column of the tables sums up, in millions.
COLUMNS = {
    "total": ("total",),
    "vector arithmetic": ("vector arithmetic",),
    "vector ld/st": ("vector loads", "vector stores"),
    "scalar ld/st": ("scalar loads", "scalar stores"),
    "integer": ("integer",),
    "branches": ("branches",),
    "cycles": ("cycles",),
    "MB from L2": ("l2_bytes",),
    "MB from memory": ("memory_bytes",),
}


@dataclass(frozen=True)
class Execution:
    """What was executed, and what came of it.

    Parameters
    ----------
    sections : dict of int to list of Block
        The executed code, by the sections of `arm_guest.py`.
    maps : str
        /proc/self/maps of the process.
    calls : list of str
        The functions that an inference calls, if they were counted.
    output : array
        The network's output.
    inferences : int
        How many there are in the sections.
    """

    sections: dict[int, list[Block]]
    maps: str
    calls: list[str]
    output: Array
    inferences: int

    def numbers(self, core: str) -> dict[str, float]:
        """Return the counts of an inference."""
        return counts.count(self.sections[1], core).per(self.inferences)


@dataclass(frozen=True)
class Row:
    """A runtime's inference of a network on a core.

    Parameters
    ----------
    core, model, runtime : str
        What ran where.
    numbers : dict of str to float
        Instructions by class, their `total`, `cycles`, `l2_bytes` and `memory_bytes`.
    layers : list of dict
        With `--layers`, for this project, the same of each call's own code, with the function's
        name, the layer and its multiply-accumulates.
    """

    core: str
    model: str
    runtime: str
    numbers: dict[str, float]
    layers: list[dict[str, Any]]


def execute(
    emulator: Emulator,
    core: str,
    runtime: str,
    network: Path,
    image: Array,
    inferences: int = 1,
    by_call: bool = False,
) -> Execution:
    """Run a network on an emulated core.

    Parameters
    ----------
    emulator : Emulator
        Where.
    core : str
        One of `MACHINES`.
    runtime : str
        `OURS` or one of `OTHERS`.
    network : Path
        For ours, a folder that `bundle` wrote; for others, the ONNX file, next to the .tflite.
    image : array
        The input.
    inferences : int
        How many of them to count.
    by_call : bool
        Whether to count each call in the network too, which only ours can.

    Raises
    ------
    EmulatorError
        If the runtime fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        np.save(folder / "image.npy", image)
        guest, source = HERE / "arm_guest.py", folder / "image.npy"
        arguments: list[str | Path] = [guest, runtime, network, source, folder, str(inferences)]
        arguments += ["calls"] * by_call
        sections = emulator.count(core, arguments, folder, peers=runtime != OURS)
        return Execution(
            sections,
            (folder / "maps").read_text(),
            json.loads((folder / "calls.json").read_text()),
            np.load(folder / "output.npy"),
            inferences,
        )


def layers(execution: Execution, core: str, library: str, metadata: Metadata) -> list[Any]:
    """Return the numbers of each call in a compiled network, in its order."""
    # What the memory plan made a change of shape is not called.
    expected = iter(metadata.extra["calls"])
    found = []
    for number, function in enumerate(execution.calls, 2):
        about: dict[str, Any] = next(
            (call for call in expected if call["function"] == function), {}
        )
        blocks = counts.within(execution.sections[number], execution.maps, library)
        found.append(
            {
                "function": function,
                "layer": about.get("workload", function),
                "macs": about.get("flops", 0) // 2,
                **counts.count(blocks, core).per(execution.inferences),
            }
        )
    return found


def count_ours(
    emulator: Emulator,
    core: str,
    network: str | Path,
    image: Array,
    by_layer: bool,
    dtype: str = "float32",
) -> tuple[Execution, list[Any]]:
    """Compile a network for a core and run it there; return its layers too, if asked."""
    with tempfile.TemporaryDirectory() as scratch:
        library = Path(scratch) / "network.so"
        artifact = compile_model(network, core, library, dtype=dtype)
        bundle(library, library.with_name("bundle"))
        found = execute(emulator, core, OURS, library.with_name("bundle"), image, by_call=by_layer)
        return found, layers(found, core, library.name, artifact.metadata)


def count_network(
    emulator: Emulator,
    core: str,
    model: str,
    case: Case | None,
    peers: bool,
    by_layer: bool,
    dtype: str = "float32",
) -> tuple[list[Row], list[str]]:
    """Return a row for each runtime, and what to know besides.

    Parameters
    ----------
    emulator, core
        Where.
    model : str
        One of `MODELS`.
    case : Case, optional
        Its files; without them it is this project's own.
    peers : bool
        Whether to count the others too.
    by_layer : bool
        Whether to count each layer of ours too.
    dtype : str
        Type of the values that layers of ours compute.
    """
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    network = case.path if case else model
    found, calls = count_ours(emulator, core, network, image, by_layer, dtype)
    rows = [Row(core, model, OURS, found.numbers(core), calls)]
    notes: list[str] = []
    if case is None or not peers:
        return rows, notes
    for name in OTHERS:
        try:
            other = execute(emulator, core, name, case.path, image)
        except EmulatorError as error:
            notes.append(f"{model}: {name} is missing: {error}")
            continue
        rows.append(Row(core, model, name, other.numbers(core), []))
        # LiteRT's int8 networks are quantised by another tool.
        if not case.int8 or name == "ONNX Runtime":
            reference = same_network(name, other.output, case)
            difference = reference.difference(found.output)
            if not difference <= reference.limit:
                notes.append(f"{model}, {core}: ours is {difference:.2g} {reference.words}")
    return rows, notes


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table, in millions, with ratios to ours."""
    head = ["core", "model", "runtime", *COLUMNS, "total, ours : it", "cycles, ours : it"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    ours = {(row.core, row.model): row.numbers for row in rows if row.runtime == OURS}
    for row in rows:
        cells = [row.core, row.model, row.runtime]
        cells += [f"{_millions(row.numbers, column):.1f}" for column in COLUMNS]
        for name in ("total", "cycles"):
            ratio = ours[row.core, row.model][name] / row.numbers[name]
            cells.append("" if row.runtime == OURS else f"{ratio:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def layer_table(row: Row) -> str:
    """Return the layers of a row as a Markdown table, in millions."""
    head = ["layer", *COLUMNS, "MACs per cycle"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    rest = {
        name: row.numbers[name] - sum(layer[name] for layer in row.layers) for name in row.numbers
    }
    for layer in [*row.layers, {"layer": "other code", "macs": 0, **rest}]:
        cells = [layer["layer"], *(f"{_millions(layer, column):.3f}" for column in COLUMNS)]
        cells.append(f"{layer['macs'] / layer['cycles']:.1f}" if layer["macs"] else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _millions(numbers: dict[str, Any], column: str) -> float:
    return 1e-6 * sum(float(numbers[name]) for name in COLUMNS[column])


class Names(click.ParamType):
    """Some of the names that there are, separated by commas."""

    name = "names"

    def __init__(self, known: tuple[str, ...]) -> None:
        self.known = known

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        """Return the names."""
        names = tuple(value.split(","))
        for name in names:
            if name not in self.known:
                self.fail(f"unknown '{name}'; known: {', '.join(self.known)}", param, ctx)
        return names


def files(folder: Path, model: str, dtype: str) -> Case | None:
    """Return a network's files; None where the default folder is not there."""
    if folder == PEERS and not folder.is_dir() and dtype != "int8":
        return None
    stem = f"mobilenet_{model.replace('-', '_')}"
    case = Case(folder, stem, dtype == "int8", threads=1, target="", amx=False, work=Path())
    if not case.path.is_file():
        raise click.ClickException(f"{case.path}: no such file; name the folder with --folder")
    return case


@click.command()
@click.option("--models", type=Names(MODELS), default=",".join(MODELS), show_default=True)
@click.option("--cores", type=Names(tuple(MACHINES)), default=",".join(MACHINES), show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "float16", "int8"]), default="float32")
@click.option("--peers/--no-peers", default=True, help="Whether to count LiteRT and ONNX Runtime.")
@click.option("--layers", "by_layer", is_flag=True, help="Count each layer of ours too.")
@click.option("--folder", type=click.Path(path_type=Path), default=PEERS, show_default=True)
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write all to a file.")
def main(
    models: tuple[str, ...],
    cores: tuple[str, ...],
    dtype: str,
    peers: bool,
    by_layer: bool,
    folder: Path,
    output: Path | None,
) -> None:
    """Count what an inference executes on ARM cores, by class of instructions."""
    emulator = Emulator()
    rows: list[Row] = []
    notes: list[str] = []
    cases = {model: files(folder, model, dtype) for model in models}
    half = dtype == "float16"
    # The peers compute their float32 networks in float32.
    peers = peers and not half
    try:
        if emulator.reason(peers):
            emulator.set_up(_say, peers)
        for core in cores:
            for model, case in cases.items():
                _say(f"{core} {model}")
                found, said = count_network(
                    emulator, core, model, case, peers, by_layer, dtype if half else "float32"
                )
                rows += found
                notes += said
    except (SetUpError, EmulatorError, UserError, OSError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(table(rows))
    for note in notes:
        click.echo(note)
    for row in rows:
        if row.layers:
            click.echo(f"\n{row.core} {row.model}\n\n{layer_table(row)}")
    if output:
        result = {"dtype": dtype, "rows": [asdict(row) for row in rows], "notes": notes}
        output.write_text(json.dumps(result, indent=2))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
