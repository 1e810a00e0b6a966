"""Records and profiles for tests of the report: two layers, one of which gains by tuning."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mobilenet_tvm.compile.logs.log import Record
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.workloads import GlobalPool, Pointwise, Workload
from mobilenet_tvm.targets.presets import PRESETS

X86 = PRESETS["x86"]
DENSE, POOL = Pointwise(196, 96, 576), GlobalPool(1, 49, 96)
DEFAULT, SECOND, THIRD = registry.decisions(DENSE, X86)[:3]
POOLED = registry.default(POOL, X86)


def record(workload: Workload, decision: Any, microseconds: float, **others: Any) -> Record:
    """Make a record; others are fields of it."""
    made = Record.of(
        workload, decision, X86, microseconds=microseconds, spread=0.01, threads=1, device="a CPU"
    )
    return replace(made, **{"date": "2026-01-31T12:00:00Z", **others})


#: A run as the tuner leaves it: the default first, at the end default and best once more.
TRIALS = [
    record(DENSE, DEFAULT, 10.0),
    record(POOL, POOLED, 2.0),
    record(DENSE, SECOND, 12.0),
    record(DENSE, THIRD, 8.0),
    record(DENSE, DEFAULT, 10.5),
    record(DENSE, THIRD, 8.4),
]
LOG = [TRIALS[5], TRIALS[1]]


def profile(path: Path, calls: Sequence[Mapping[str, Any]], threads: int = 1) -> Path:
    """Write a profile of these calls; each needs a workload and microseconds."""
    rows = [{"flops": 9, "bytes": 4, "decision": "", "source": "default", **call} for call in calls]
    peak = {"gflops": 100.0, "gbytes": 20.0}
    found = {"file": "m.so", "threads": threads, "peak": peak, "calls": rows}
    path.write_text(json.dumps(found))
    return path
