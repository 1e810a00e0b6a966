"""Measures decisions of a layer as the tuner does, for the benchmarks beside this file."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tvm.s_tir.meta_schedule.builder import BuilderInput
from tvm.s_tir.meta_schedule.runner import RunnerInput

from mobilenet_tvm.compile.codegen.tvm_target import llvm_target
from mobilenet_tvm.compile.tuning.local.builder import Builder
from mobilenet_tvm.compile.tuning.local.runner import Runner
from mobilenet_tvm.compile.tuning.measure import Measurement
from mobilenet_tvm.compile.tuning.space import Space
from mobilenet_tvm.compile.tuning.task import Task
from mobilenet_tvm.schedules import registry

BATCH = 32


def measure(space: Space, numbers: Sequence[int]) -> dict[int, float]:
    """Return the seconds of decisions that work, by number; the default's has to be among them."""
    task = Task(space, 1)

    def keep(task: Task, number: int, outcome: Any) -> None:
        task.outcomes[number] = outcome
        progress = f"\r{len(task.outcomes)}/{len(numbers)} {space.workload}"
        print(progress, end="", file=sys.stderr)

    with tempfile.TemporaryDirectory() as folder:
        builder = Builder([task], registry.build, Path(folder), keep)
        runner = Runner(builder.artifacts, 1, Path(folder), keep)
        try:
            for start in range(0, len(numbers), BATCH):
                batch = [space.candidates[number] for number in numbers[start : start + BATCH]]
                target = llvm_target(space.target)
                built = builder.build([BuilderInput(c.sch.mod, target) for c in batch])
                runner.run(
                    [RunnerInput(b.artifact_path, "cpu", []) for b in built if b.artifact_path]
                )
        finally:
            builder.close()
            runner.close()
    print(file=sys.stderr)
    return {n: o.seconds for n, o in task.outcomes.items() if isinstance(o, Measurement)}
