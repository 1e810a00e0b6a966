"""Counts the operations of each Mali kernel of a network in its OpenCL C; nothing is measured.

python benchmarks/mali_account.py [--model v2] [--dtype float16]
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import click
import tvm
from tvm import tirx

from mobilenet_tvm.compile.codegen.pass_context import pass_config
from mobilenet_tvm.compile.codegen.tvm_target import tvm_target
from mobilenet_tvm.compile.models.source import ModelOptions, resolve
from mobilenet_tvm.compile.passes.heads import DTYPES
from mobilenet_tvm.compile.pipeline import layers
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.gpu.threads import fma_per_cycle, lanes_of
from mobilenet_tvm.targets.presets import get_target
from mobilenet_tvm.targets.target import Target


@dataclass(frozen=True)
class Account:
    """Operations of one thread of a kernel.

    Parameters
    ----------
    loads, stores : int
        128-bit loads and stores of global memory.
    small : int
        Loads and stores of a single value of global memory.
    multiply_adds : int
        Multiply-adds; each lane of a vector counts.
    branches : int
        Conditions in the code.
    """

    loads: int
    stores: int
    small: int
    multiply_adds: int
    branches: int


def account(source: str, dtype: str) -> Account:
    """Count the operations of a thread, including all iterations of loops."""
    lanes = lanes_of(dtype)
    signature = re.search(r"__kernel void \w+\(([^)]*)\) \{", source)
    if signature is None:
        raise ValueError("no kernel")
    outside = "|".join(re.findall(r"(\w+_ptr)", signature[1]))
    counts: Counter[str] = Counter()
    times = [1]
    for line in source[signature.end() :].splitlines():
        text = line.strip()
        if text.startswith("}"):
            times = times[:-1] or [1]
        if loop := re.match(r"for \(int (\w+) = 0; \1 < (\d+); \+\+\1\) \{", text):
            times.append(times[-1] * int(loop[2]))
        elif text.endswith("{"):
            times.append(times[-1])
            counts["branches"] += text.startswith("if")
        counts["loads"] += times[-1] * len(re.findall(rf"vload\d\(0, (?:{outside}) ", text))
        counts["stores"] += times[-1] * len(re.findall(rf", 0, (?:{outside}) \+", text))
        counts["small"] += times[-1] * len(re.findall(rf"\b(?:{outside})\[", text))
        products = len(re.findall(r" \* (?:weight|taps)_local_ptr\[", text))
        counts["multiply_adds"] += lanes * times[-1] * products
        if "(0, data_ptr" in text and "(0, filter_ptr" in text:
            # The depthwise half of a fused layer is a single expression.
            counts["multiply_adds"] += lanes * times[-1] * text.count("(0, filter_ptr")
    return Account(**{name: counts[name] for name in Account.__dataclass_fields__})


def source_of(func: tirx.PrimFunc, target: Target) -> str:
    """Return the OpenCL C of a layer."""
    with tvm.transform.PassContext(opt_level=3, config=pass_config(target)):
        built = tvm.tirx.build(func, target=tvm_target(target))
    return str(built.imports[0].inspect_source())


@click.command()
@click.option("--model", default="v2", show_default=True)
@click.option("--dtype", type=click.Choice(DTYPES), default=DTYPES[0], show_default=True)
def main(model: str, dtype: str) -> None:
    """Print a line per layer: threads, registers, operations per thread, share of peak."""
    target = get_target("mali")
    gpu = target.gpu
    assert gpu is not None  # noqa: S101
    click.echo(
        f"{'threads':>8} {'group':>5} {'regs':>4} {'loads':>5} {'small':>5} {'stores':>6} "
        f"{'MADs':>6} {'/load':>5} {'if':>3} {'of peak':>7}  layer and decision"
    )
    for workload in dict.fromkeys(layers(resolve(model, ModelOptions()).model, target, dtype)):
        decision = registry.default(workload, target)
        func = registry.build(workload, decision, target).with_attr("global_symbol", "layer")
        seen = account(source_of(func, target), dtype)
        text = func.script()
        blocks, group = (
            int(match[1])
            for thread in ("blockIdx.x", "threadIdx.x")
            if (match := re.search(rf'thread_binding\((\d+), thread="{thread}"', text))
        )
        registers = registry.features(workload, decision, target)["registers_of_thread"]
        cycles = registry.cycles(workload, decision, target)
        max_fma = fma_per_cycle(dtype, gpu) * gpu.units * cycles
        shown = " ".join(f"{name}={value}" for name, value in vars(decision).items())
        click.echo(
            f"{blocks * group:>8} {group:>5} {registers:>4.0f} "
            f"{seen.loads:>5} {seen.small:>5} {seen.stores:>6} {seen.multiply_adds:>6} "
            f"{seen.multiply_adds / max(1, seen.loads + seen.small):>5.1f} {seen.branches:>3} "
            f"{workload.flops / 2 / max_fma:>7.0%}  {workload}  {shown}"
        )


if __name__ == "__main__":
    main()
