"""Compares this project with ONNX Runtime on any networks: ONNX files, folders of them, names.

    pip install '.[verify]'
    python benchmarks/networks.py ../shared/networks v4-conv-small --input-shape input=1,3,320,320

Each network is compiled, compared with ONNX Runtime on random inputs, profiled, and then timed in
turns with ONNX Runtime, with as many threads, bound to as many cores, as in peers.py. Each step has
its own process, so what cannot be compiled or run becomes a row that says why.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import turns
from turns import Turn, bind, standard_output

from mobilenet_tvm.compile.cli.options import input_shape_option

OURS, THEIRS = "mobilenet-tvm", "ONNX Runtime"

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A network and how to run it.

    Parameters
    ----------
    network : str
        A name or the path of an ONNX file.
    target : str
        Target of this project.
    shapes : tuple
        Names and shapes of dynamic inputs, of this and other networks.
    inputs : int
        With how many random inputs to compare.
    threads : int
        How many threads each runtime has.
    work : Path
        A folder for the network with static shapes, the artifact and the inputs.
    """

    network: str
    target: str
    shapes: Shapes
    inputs: int
    threads: int
    work: Path

    @property
    def title(self) -> str:
        """The network's name."""
        return Path(self.network).stem if self.network.endswith(".onnx") else self.network

    @property
    def onnx(self) -> Path:
        """The network with static shapes."""
        return self.work / "model.onnx"

    @property
    def artifact(self) -> Path:
        """The compiled network."""
        return self.work / "model.so"

    def command(self, step: str) -> list[str]:
        """Return the command that runs a step of `STEPS` in a process."""
        command = [sys.executable, __file__, self.network, "--child", step]
        command += ["--target", self.target, "--threads", str(self.threads)]
        command += ["--inputs", str(self.inputs), "--work", str(self.work)]
        for name, shape in self.shapes:
            command += ["--input-shape", f"{name}={','.join(map(str, shape))}"]
        return command

    def feed(self) -> list[np.ndarray[Any, Any]]:
        """Return the inputs with which the runtimes are timed, in the network's order."""
        with np.load(self.work / "inputs.npz") as arrays:
            return [arrays[name] for name in arrays.files]


def compile_network(case: Case) -> Any:
    """Write the network with static shapes and its artifact; return its inputs of given shapes."""
    import onnx

    from mobilenet_tvm.compile import compile_model
    from mobilenet_tvm.compile.frontend.read import graph_inputs, read_onnx
    from mobilenet_tvm.compile.models.source import ModelOptions, resolve

    shapes = {}
    if case.network.endswith(".onnx"):
        names = {value.name for value in graph_inputs(read_onnx(case.network))}
        shapes = {name: shape for name, shape in case.shapes if name in names}
    source = resolve(case.network, ModelOptions(input_shapes=shapes or None))
    onnx.save(source.model, case.onnx)
    compile_model(case.onnx, case.target, case.artifact)
    return sorted(shapes)


def examine(case: Case) -> Any:
    """Compare with ONNX Runtime, and profile; also write the inputs for timing."""
    from mobilenet_tvm.compile import profile_artifact, verify_artifact
    from mobilenet_tvm.runtime import load
    from mobilenet_tvm.runtime.bench import random_inputs

    bind(case.threads)
    result = verify_artifact(case.artifact, case.onnx, threads=case.threads, inputs=case.inputs)
    model = load(case.artifact, threads=case.threads)
    np.savez(case.work / "inputs.npz", *random_inputs(model).values())
    profiled = profile_artifact(case.artifact, threads=case.threads)
    scheduled = [call for call in profiled.calls if call.source]
    others = [call for call in profiled.calls if not call.source]
    seconds = sum(call.microseconds for call in scheduled)
    return {
        "right": result.agrees,
        "difference": result.worst_error,
        "peak_gflops": profiled.peak.gflops,
        # Weighted by time: the sum of what each call would take at the peak, over the sum of times.
        "peak_share": sum(call.peak * call.microseconds for call in scheduled) / (seconds or 1),
        "scheduled": len(scheduled),
        "unscheduled": [
            {
                "function": call.function,
                "node": call.node,
                "share": call.microseconds / profiled.microseconds,
            }
            for call in sorted(others, key=lambda call: -call.microseconds)
        ],
    }


def time_ours(case: Case) -> turns.Run:
    """Load the artifact."""
    from mobilenet_tvm.runtime import load

    model = load(case.artifact, threads=case.threads)
    feed = case.feed()
    return lambda: model(*feed)


def time_theirs(case: Case) -> turns.Run:
    """Load the network with ONNX Runtime, CPU provider."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = case.threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(case.onnx), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    feed = dict(zip(names, case.feed(), strict=True))
    return lambda: session.run(None, feed)


#: What a process does, by name: first the steps that return an answer, then those that are timed.
STEPS = {"compile": compile_network, "examine": examine}
TIMED = {OURS: time_ours, THEIRS: time_theirs}


class StepError(Exception):
    """A step could not be done; the message says why."""


def serve(step: str, case: Case) -> None:
    """Do a step in this process."""
    answers = standard_output()  # libraries print
    if step in STEPS:
        print(json.dumps(STEPS[step](case)), file=answers, flush=True)
        return
    bind(case.threads)
    turns.serve(TIMED[step](case), "ready", answers)


def ask(step: str, case: Case) -> Any:
    """Do a step in a process of its own; return its answer."""
    done = subprocess.run(case.command(step), capture_output=True, text=True)
    if done.returncode or not done.stdout:
        raise StepError(f"{step}: {_cause(turns.last_error(done.stderr), done.returncode)}")
    return json.loads(done.stdout)


def _cause(error: str, status: int | None) -> str:
    """Shorten an error; name the signal of a process that died of one."""
    if status is not None and status < 0:
        return f"the process died of signal {-status}"
    name, _, text = error.partition(": ")
    return text if name.endswith(("UserError", "WrongUseError")) else error


def measure(case: Case, rounds: int, repeats: int) -> Row:
    """Return the row of a compiled network for a number of threads."""
    row = {"network": case.title, "threads": case.threads, **ask("examine", case)}
    running: dict[str, Turn] = {}
    try:
        for name in TIMED:
            turn = Turn(case.command(name), case.work / f"{name}.log")
            running[name] = turn
            if turn.first is None:
                turn.process.wait()
                raise StepError(f"{name}: {_cause(turn.reason(), turn.process.returncode)}")
        times: dict[str, list[float]] = {name: [] for name in running}
        for _ in range(rounds):
            for name, turn in running.items():
                times[name] += turn.time(repeats)
    finally:
        for turn in running.values():
            turn.close()
    row["milliseconds"] = {
        name: {"least": min(values), "median": statistics.median(values)}
        for name, values in times.items()
    }
    return row


def rows_of(case: Case, threads: tuple[int, ...], rounds: int, repeats: int) -> Iterator[Row]:
    """Yield a row for each number of threads, or one that says what went wrong."""
    try:
        used = ask("compile", case)
        for count in threads:
            yield {**measure(replace(case, threads=count), rounds, repeats), "shapes": used}
    except StepError as failure:
        yield {"network": case.title, "failure": str(failure)}


HEAD = (
    "network", "threads", "right", "difference", f"{OURS} ms", f"{THEIRS} ms", "ratio least",
    "ratio median", "of FMA peak", "without a schedule",
)  # fmt: skip


def cells(row: Row) -> list[str]:
    """Return a row's cells; times are least / median, the ratio is ours : ONNX Runtime."""
    if "failure" in row:
        return [row["network"], "-", row["failure"], *["-"] * (len(HEAD) - 3)]
    ours, theirs = (row["milliseconds"][name] for name in (OURS, THEIRS))
    others = row["unscheduled"]
    return [
        row["network"],
        str(row["threads"]),
        "yes" if row["right"] else "NO",
        f"{row['difference']:.1e}",
        *(f"{value['least']:.2f} / {value['median']:.2f}" for value in (ours, theirs)),
        *(f"{ours[kind] / theirs[kind]:.2f}" for kind in ("least", "median")),
        f"{row['peak_share']:.0%}" if row["scheduled"] else "-",
        f"{len(others)} calls, {sum(call['share'] for call in others):.0%} of the time",
    ]


def table(rows: list[Row]) -> str:
    """Return the results as a Markdown table."""
    lines = [HEAD, ("---",) * len(HEAD), *(cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary(rows: list[Row]) -> str:
    """Return in one line how many networks are right, and the ratios of all together."""
    done = [row for row in rows if "failure" not in row]
    networks = {row["network"] for row in rows}
    wrong = networks - {row["network"] for row in done if row["right"]}
    line = f"{len(networks) - len(wrong)} of {len(networks)} networks are right"
    ratios = [
        row["milliseconds"][OURS]["least"] / row["milliseconds"][THEIRS]["least"] for row in done
    ]
    if ratios:
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        line += f"; ratio least: geometric mean {mean:.2f}, highest {max(ratios):.2f}"
    return line


def slowest(rows: list[Row], least: float = 0.05) -> Iterator[str]:
    """Yield the calls without a schedule that take much of a network's time."""
    for row in rows:
        for call in row.get("unscheduled", []):
            if call["share"] >= least:
                yield (
                    f"{row['network']}, {row['threads']} threads: {call['share']:.0%} in "
                    f"{call['function']} (node {call['node'] or 'unknown'})"
                )


def found(networks: tuple[str, ...]) -> list[str]:
    """Return names and files, with a folder's ONNX files in place of the folder."""
    every: list[str] = []
    for network in networks:
        path = Path(network)
        every += map(str, sorted(path.glob("*.onnx"))) if path.is_dir() else [network]
    if not every:
        raise click.ClickException(f"{', '.join(networks)}: no file ends in .onnx")
    return every


@click.command()
@click.argument("networks", nargs=-1, required=True)
@click.option("--threads", type=int, multiple=True, default=(1, 2), show_default=True)
@click.option("--target", default="native", show_default=True, help="Target of this project.")
@input_shape_option
@click.option("--inputs", default=3, show_default=True, help="Random inputs to compare with.")
@click.option("--rounds", default=20, show_default=True)
@click.option("--repeats", default=5, show_default=True, help="Timed runs per round.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--child", hidden=True)
@click.option("--work", type=click.Path(path_type=Path), hidden=True)
def main(
    networks: tuple[str, ...],
    threads: tuple[int, ...],
    target: str,
    input_shapes: Shapes,
    inputs: int,
    rounds: int,
    repeats: int,
    as_json: bool,
    child: str | None,
    work: Path,
) -> None:
    """Compare networks (ONNX files, folders of them, names) with ONNX Runtime."""
    if child:
        serve(child, Case(networks[0], target, input_shapes, inputs, threads[0], work))
        return
    rows: list[Row] = []
    for network in found(networks):
        with tempfile.TemporaryDirectory() as folder:
            case = Case(network, target, input_shapes, inputs, threads[0], Path(folder))
            for row in rows_of(case, threads, rounds, repeats):
                rows.append(row)
                click.echo(" ".join(cells(row)), err=True)
    if as_json:
        click.echo(json.dumps({"rows": rows}, indent=2))
        return
    click.echo(table(rows))
    for line in slowest(rows):
        click.echo(line)
    click.echo(summary(rows))
    used = {name for row in rows for name in row.get("shapes", [])}
    for name, _ in input_shapes:
        if name not in used:
            click.echo(f"--input-shape {name}: no network that was compiled has this input")


if __name__ == "__main__":
    main()
