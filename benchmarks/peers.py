"""Compares this project with five other runtimes: same networks, in turns.

    pip install '.[bench]' && pip install --no-deps pnnx
    python benchmarks/peers.py --threads 1 --threads 2
    python benchmarks/peers.py --int8 --no-amx

Each runtime has its own process, which is bound to as many cores as threads and stopped while the
others run, so that its idle workers do not take a core from them. Its output is first compared with
ONNX Runtime's. Then, in each round, every runtime runs the network once untimed and a few times
timed, so that all see the same machine load. ncnn needs pnnx to convert its models; pnnx lists
PyTorch as a dependency but does not need it, hence --no-deps.

With --int8 the networks are quantised: those in ONNX files for all but LiteRT, which has networks
of its own, quantised by another tool. Its output is therefore compared with the float32 network's.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import amx_tiles
import click
import numpy as np
import turns
from peer_runtimes import FLOAT_ONLY, OURS, RUNTIMES, Array, Case
from turns import Turn, bind, standard_output

MODELS = ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")
PEERS = Path(__file__).resolve().parents[2] / "shared" / "peers"

#: Of the output's range: all runtimes compute in float32, but round at different points.
TOLERANCE = 5e-3
#: In steps of the last QuantizeLinear. The networks of shared/peers have synthetic weights, which
#: amplify a value that is rounded the other way: from ONNX Runtime, OpenVINO is up to 23 steps away
#: and ONNX Runtime without optimisations 15 (both V2), but the output for another picture 37.
INT8_TOLERANCE = 30
#: Of the range of the float32 network's output. Quantisation moves ONNX Runtime's output by up to
#: 0.38 of it and LiteRT's by 0.29 (both V2), so this finds wrong networks, not wrong rounding.
QUANTISATION_TOLERANCE = 0.4

#: Features that decide how fast small integers are multiplied, as spelled in /proc/cpuinfo.
INTEGER_FEATURES = ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


def serve(name: str, case: Case) -> None:
    """Run one runtime in this process.

    The first answer is the file with the output and whether the runtime may use AMX tiles.
    """
    bind(case.threads)
    answers = standard_output()  # some runtimes print
    if not case.amx:
        amx_tiles.refuse()
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    run = RUNTIMES[name](case, image)
    result = case.work / f"{name}.npy"
    np.save(result, run())
    turns.serve(run, [str(result), amx_tiles.permitted()], answers)


class Peer(Turn):
    """A runtime in a process that is stopped while it is not timed."""

    def __init__(self, name: str, case: Case) -> None:
        command = [sys.executable, __file__, "--child", name, "--threads", str(case.threads)]
        command += ["--target", case.target, "--work", str(case.work)]
        command += ["--folder", str(case.folder), "--model", case.model]
        command += ["--int8"] * case.int8 + ["--no-amx"] * (not case.amx)
        super().__init__(command, case.work / f"{name}.log")
        self.output: Array | None = None
        self.amx = False
        if self.first:
            result, self.amx = self.first
            self.output = np.load(result)


@dataclass(frozen=True)
class Reference:
    """What an output is compared with.

    Parameters
    ----------
    output : array
        The output to compare with.
    unit : float
        In which differences are measured.
    limit : float
        The largest difference of a runtime that computes the network, in that unit.
    words : str
        The unit, and whose output it is.
    """

    output: Array
    unit: float
    limit: float
    words: str

    def difference(self, output: Array) -> float:
        """Return the largest difference of an output."""
        return float(np.abs(output - self.output).max() / self.unit)


def same_network(name: str, output: Array, case: Case) -> Reference:
    """Return what outputs of the same file are compared with: that of the runtime named."""
    if case.int8:
        return Reference(output, last_step(case.path), INT8_TOLERANCE, f"steps from {name}'s")
    return Reference(output, float(np.ptp(output)), TOLERANCE, f"of the range from {name}'s")


def float_network(case: Case) -> Reference:
    """Return what the output of a network quantised by another tool is compared with."""
    peer = Peer("ONNX Runtime", replace(case, int8=False))
    output, reason = peer.output, peer.reason()
    peer.close()
    if output is None:
        raise click.ClickException(f"the float32 network does not run: {reason}")
    unit, words = float(np.ptp(output)), "of the range from the float32 network's"
    return Reference(output, unit, QUANTISATION_TOLERANCE, words)


def last_step(path: Path) -> float:
    """Return the scale of the last QuantizeLinear in an ONNX file."""
    import onnx

    graph = onnx.load(path).graph
    names = [node.input[1] for node in graph.node if node.op_type == "QuantizeLinear"]
    scales = [scale for scale in graph.initializer if names and scale.name == names[-1]]
    if not scales:
        raise click.ClickException(f"{path}: has no QuantizeLinear; give a quantised network")
    return float(onnx.numpy_helper.to_array(scales[0]).item())


def measure(case: Case, rounds: int, repeats: int) -> dict[str, Any]:
    """Return the runtimes' minimum and median latencies in milliseconds, and those missing."""
    peers: dict[str, Peer] = {}
    missing: dict[str, str] = {}
    differences: dict[str, str] = {}
    first: Reference | None = None
    try:
        for name in RUNTIMES:
            if case.int8 and name in FLOAT_ONLY:
                continue
            reference = float_network(case) if case.int8 and name == "LiteRT" else first
            peer = Peer(name, case)
            if peer.output is None:
                missing[name] = peer.reason()
                peer.close()
                continue
            if reference is None:
                first = reference = same_network(name, peer.output, case)
            difference = reference.difference(peer.output)
            differences[name] = f"{difference:.2g} {reference.words}"
            if not difference <= reference.limit:
                missing[name] = f"its output is {differences[name]}, more than {reference.limit}"
                peer.close()
                continue
            peers[name] = peer
        times: dict[str, list[float]] = {name: [] for name in peers}
        for _ in range(rounds):
            for name, peer in peers.items():
                times[name] += peer.time(repeats)
    finally:
        for peer in peers.values():
            peer.close()
    return {
        "model": case.path.stem,
        "threads": case.threads,
        "milliseconds": {
            name: {"least": min(values), "median": statistics.median(values)}
            for name, values in times.items()
        },
        "missing": missing,
        "differences": differences,
        "amx": [name for name, peer in peers.items() if peer.amx],
    }


def table(rows: list[dict[str, Any]], peak: dict[int, float], flops: dict[str, int]) -> str:
    """Return the results as a Markdown table: minimum / median milliseconds, and ratios.

    Without a peak there is no share of it.
    """
    names = list(dict.fromkeys(name for row in rows for name in row["milliseconds"]))
    names.sort(key=lambda name: name != OURS)
    head = ["model", "threads", *names, "ratio least", "ratio median"]
    head += ["of FMA peak"] if peak else []
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        times = row["milliseconds"]
        cells = [row["model"].removeprefix("mobilenet_"), str(row["threads"])]
        for name in names:
            value = times.get(name)
            cells.append(f"{value['least']:.2f} / {value['median']:.2f}" if value else "-")
        for kind in ("least", "median"):
            others = [value[kind] for name, value in times.items() if name != OURS]
            both = others and OURS in times
            cells.append(f"{times[OURS][kind] / min(others):.2f}" if both else "-")
        if peak and OURS in times:
            speed = 1e-6 * flops[row["model"]] / times[OURS]["least"]
            cells.append(f"{speed / peak[row['threads']]:.0%}")
        elif peak:
            cells.append("-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def notes(rows: list[dict[str, Any]], int8: bool) -> list[str]:
    """Return what to know besides the table: missing runtimes and, with int8, how they compute."""
    lines = [
        f"{row['model']}: {name} is missing: {reason}"
        for row in rows
        for name, reason in row["missing"].items()
    ]
    if not int8:
        return lines
    for row in rows:
        found = "; ".join(f"{name} {words}" for name, words in row["differences"].items())
        lines.append(f"{row['model']}, largest difference of outputs: {found}")
    lines += [f"{name} is left out: {reason}" for name, reason in FLOAT_ONLY.items()]
    features = ", ".join(integer_features()) or "none for int8"
    lines.append(f"Features of the processor: {features}")
    if amx_tiles.supported():
        users = dict.fromkeys(name for row in rows for name in row["amx"])
        lines.append(f"Runtimes that got AMX tiles on request: {', '.join(users) or 'none'}")
    return list(dict.fromkeys(lines))


def integer_features() -> list[str]:
    """Return those of the processor's features that decide how fast int8 networks are."""
    from mobilenet_tvm.targets.host import cpu_features

    features = cpu_features()
    return [name for name in INTEGER_FEATURES if name in features]


@click.command()
@click.option("--threads", type=int, multiple=True, default=(1, 2), show_default=True)
@click.option("--model", "models", multiple=True, default=MODELS, show_default=True)
@click.option("--int8", is_flag=True, help="Run the quantised networks, NAME_int8.")
@click.option("--target", help="Target of this project.  [default: x86; native with --int8]")
@click.option("--amx/--no-amx", default=True, help="Whether runtimes may use AMX tiles.")
@click.option("--rounds", default=20, show_default=True)
@click.option("--repeats", default=5, show_default=True, help="Timed runs per round.")
@click.option("--folder", type=click.Path(path_type=Path), default=PEERS, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--child", hidden=True)
@click.option("--work", type=click.Path(path_type=Path), hidden=True)
def main(
    threads: tuple[int, ...],
    models: tuple[str, ...],
    int8: bool,
    target: str | None,
    amx: bool,
    rounds: int,
    repeats: int,
    folder: Path,
    as_json: bool,
    child: str | None,
    work: Path,
) -> None:
    """Compare latencies on the networks in a folder (.onnx, and .tflite for LiteRT)."""
    target = target or ("native" if int8 else "x86")
    cases = [Case(folder, m, int8, count, target, amx, work) for count in threads for m in models]
    absent = [case.path for case in cases if not case.path.is_file()]
    if absent:
        raise click.ClickException(f"{absent[0]}: no such file; name the folder with --folder")
    if child:
        serve(child, cases[0])
        return
    from mobilenet_tvm.compile.analysis.peak import measure_peak
    from mobilenet_tvm.compile.frontend.read import fix_shapes, read_onnx
    from mobilenet_tvm.compile.models.counts import macs
    from mobilenet_tvm.targets.presets import native

    flops: dict[str, int] = {}
    peak: dict[int, float] = {}
    if not int8:  # On CPUs measure_peak has no peak of int8.
        paths = {case.path for case in cases}
        flops = {path.stem: 2 * macs(fix_shapes(read_onnx(path))) for path in paths}
        peak = {count: measure_peak(native(), count).gflops for count in threads}
    with tempfile.TemporaryDirectory() as folder_of_work:
        here = Path(folder_of_work)
        rows = [measure(replace(case, work=here), rounds, repeats) for case in cases]
    if as_json:
        click.echo(json.dumps({"peak_gflops": peak, "rows": rows}, indent=2))
        return
    click.echo(table(rows, peak, flops))
    for line in notes(rows, int8):
        click.echo(line)
    for count, gflops in peak.items():
        click.echo(f"FMA peak with {count} threads: {gflops:.1f} GFLOP/s")


if __name__ == "__main__":
    main()
