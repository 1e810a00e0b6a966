"""Evaluates estimates by emulation: their ranking of decisions against times measured on x86.

    python benchmarks/emulated_ranking.py --kind depthwise --layers 24

No core of which `tune --device emulated` knows the ports is at hand, so the same counting, in
qemu-x86_64, and the same model, with the ports of a Zen 4, estimate the trials that ship for x86,
which were measured on such a core. Nothing is measured here. `rank corr.` is Spearman's, `first`
the time of what the estimate takes for the fastest, and `mean` what a random choice would take.

Of the layers with most trials, in brackets what an interpreter of the code with llvm-mca had, which
was part of this project before:

| kind | layers | trials | rank corr. | first : best | mean : best |
|---|---|---|---|---|---|
| depthwise | 24 | 258 | 0.60 (0.14) | 1.064 (1.145) | 1.28 |
| depthwise_pointwise | 4 | 41 | 0.90 | 1.000 | 1.66 |
| pointwise | 16 | 206 | 0.74 | 1.034 | 1.35 |
| block | 6 | 128 | 0.84 | 1.055 | 1.14 |

On seven of the pointwise layers both had 0.72, with 1.036 (1.065). Tiny layers, as those of global
pooling, are not ranked (0.07); tuning leaves them out.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np

from mobilenet_tvm.compile.logs.log import Record, TuningLog, shipped_log
from mobilenet_tvm.compile.tuning.emulated.counts import LINE_BYTES, Block, Counts
from mobilenet_tvm.compile.tuning.emulated.emulator import Emulator
from mobilenet_tvm.compile.tuning.emulated.judge import seconds
from mobilenet_tvm.compile.tuning.emulated.program import arguments, compile_program
from mobilenet_tvm.compile.tuning.records import read_trials
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.workloads import parse
from mobilenet_tvm.targets.presets import PRESETS
from mobilenet_tvm.targets.target import KIB

#: What the shipped trials were measured on.
ZEN4 = "AMD EPYC, family 25, model 17"
TARGET = replace(PRESETS["x86"], l2_bytes=1024 * KIB)

#: How many instructions of 256 bits each of its ports starts in a cycle, and of any kind (source:
#: Agner Fog's microarchitecture manual).
PORTS = {"multiply": 2, "add": 2, "vector": 4, "shuffle": 2, "load": 2, "store": 1, "integer": 4}
PORTS |= {"branch": 1, "divide": 0.2}
WIDTH = 6

#: The port of an instruction by the beginning of its name; what is not here occupies none.
NAMES = (
    (r"vf?n?m(add|ul|sub)|vfn?m", "multiply"),
    (r"vadd|vsub", "add"),
    (r"vdiv|vsqrt", "divide"),
    (r"v(perm|shuf|unpck|insert|extract|pshuf)", "shuffle"),
    (r"v(?!mov|broadcast)", "vector"),
    (r"j|call|ret", "branch"),
    (r"(?!v|nop|mov)", "integer"),
)
STORES = re.compile(r"(v?mov|vextract|set)(?!z|s[bwl])")


@cache
def ports_of(line: str) -> tuple[str, ...]:
    """Return the ports that an instruction occupies, in AT&T's syntax."""
    name, _, operands = line.partition(" ")
    stores = operands.rstrip().endswith(")") and STORES.match(name) is not None
    found = [port for pattern, port in NAMES if re.match(pattern, name)][:1]
    if "(" in operands and not name.startswith(("lea", "nop")):
        found = ["store"] if stores else ["load", *found]
    return tuple(found)


def count(blocks: Sequence[Block], lines: dict[int, str]) -> Counts:
    """Return the sum of blocks of code that was disassembled, by address."""
    found, order = Counts(), sorted(lines)
    places = {address: place for place, address in enumerate(order)}
    for block in blocks:
        first = places[block.address]
        for address in order[first : first + len(block.words)]:
            found.busy["width"] += block.executions / WIDTH
            for port in ports_of(lines[address]):
                found.busy[port] += block.executions / PORTS[port]
        found.l2_bytes += LINE_BYTES * block.from_l2
        found.memory_bytes += LINE_BYTES * block.from_memory
    return found


def disassembled(program: Path) -> dict[int, str]:
    """Return the instructions of a program by their addresses."""
    command = ["objdump", "-d", "-w", "--no-show-raw-insn", str(program)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^\s+([0-9a-f]+):\t([^#\n]*)", text, re.MULTILINE)
    return {int(address, 16): line.strip() for address, line in found}


def estimate(record: Record) -> float:
    """Return the estimated seconds of a trial."""
    workload = parse(record.workload)
    decision = registry.decision(workload, record.decision, TARGET)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "candidate"
        compiled = compile_program(registry.build, workload, decision, TARGET, str(path))
        command = [path, *arguments(compiled.parameters)]
        sections = Emulator().run(command, TARGET, Path(folder))
        return seconds(count(sections[1], disassembled(path)), TARGET)


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Return Spearman's rank correlation; equal values share their mean rank."""

    def ranks(values: Sequence[float]) -> np.ndarray[Any, Any]:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        return np.asarray((ends - (counts - 1) / 2)[inverse])

    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def row(records: Sequence[Record]) -> dict[str, Any]:
    """Return the results of a layer's trials."""
    times = [1e-6 * record.microseconds for record in records]
    estimates = [estimate(record) for record in records]
    return {
        "layer": records[0].workload,
        "trials": len(records),
        "rank_correlation": rank_correlation(estimates, times),
        "first_over_best": times[int(np.argmin(estimates))] / min(times),
        "mean_over_best": float(np.mean(times)) / min(times),
        "estimates": estimates,
        "seconds": times,
    }


def text(found: dict[str, Any], name: str) -> str:
    """Return a line of the table."""
    return (
        f"{found['trials']:>6} {found['rank_correlation']:>10.2f} "
        f"{found['first_over_best']:>11.3f} "
        f"{found['mean_over_best']:>10.3f}  {name}"
    )


@click.command()
@click.option("--kind", default="depthwise", show_default=True, help="The layers' operator.")
@click.option("--layers", "limit", default=24, show_default=True, help="Those with most trials.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(kind: str, limit: int, as_json: bool) -> None:
    """Print how well estimates by emulation rank the trials of layers."""
    emulator = Emulator()
    if not emulator.complete(TARGET.architecture):
        emulator.set_up(lambda line: print(line, file=sys.stderr), TARGET.architecture)
    layers: dict[str, list[Record]] = defaultdict(list)
    log: TuningLog = read_trials(shipped_log(TARGET), TARGET)
    for record in log.records:
        if record.operator == kind and record.device == ZEN4:
            layers[record.workload].append(record)
    order = sorted(layers, key=lambda layer: (-len(layers[layer]), layer))
    rows = []
    if not as_json:
        print("trials rank corr.  first/best  mean/best  layer")
    for layer in order[:limit]:
        rows.append(row(layers[layer]))
        if not as_json:
            print(text(rows[-1], layer), flush=True)
    if as_json:
        print(json.dumps(rows))
        return
    means = {name: float(np.mean([each[name] for each in rows])) for name in rows[0] if "_" in name}
    print(text({**means, "trials": sum(each["trials"] for each in rows)}, "all"))


if __name__ == "__main__":
    main()
