"""Measures decisions of a layer as the tuner does, for the other benchmarks."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mobilenet_tvm.compile.tuning.local.builder import Builder
from mobilenet_tvm.compile.tuning.local.runner import LocalRunner
from mobilenet_tvm.compile.tuning.measure import Measurement
from mobilenet_tvm.compile.tuning.space import Space
from mobilenet_tvm.compile.tuning.task import Outcome, Task
from mobilenet_tvm.schedules import registry

BATCH_SIZE = 32


def measure_decisions(space: Space, numbers: Sequence[int]) -> dict[int, float]:
    """Return the seconds of decisions that work, by number; the default must be included."""
    task = Task(space, 1)

    def keep(task: Task, number: int, outcome: Outcome) -> None:
        task.outcomes[number] = outcome
        progress = f"\r{len(task.outcomes)}/{len(numbers)} {space.workload}"
        print(progress, end="", file=sys.stderr)

    with tempfile.TemporaryDirectory() as folder:
        builder = Builder(registry.build, Path(folder), keep)
        runner = LocalRunner(space.target, 1, Path(folder), keep)
        try:
            for start in range(0, len(numbers), BATCH_SIZE):
                runner.submit(builder.build(task, numbers[start : start + BATCH_SIZE]))
        finally:
            builder.close()
            runner.close()
    print(file=sys.stderr)
    return {n: o.seconds for n, o in task.outcomes.items() if isinstance(o, Measurement)}
