"""Tuning logs for tests: real decisions with made-up times."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mobilenet_tvm.compile.logs.log import Record, TuningLog
from mobilenet_tvm.compile.models.source import ModelOptions, resolve
from mobilenet_tvm.compile.pipeline import layers
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.target import Target


@functools.cache
def workloads(model: str, target: Target, **options: Any) -> list[Workload]:
    """Return what the layers of a named model compute, in the order of its calls."""
    return layers(resolve(model, ModelOptions(**options)).model, target)


def write_log(
    path: Path, target: Target, decisions: Mapping[Workload, Any], source: str = "measured"
) -> TuningLog:
    """Write a log of these decisions, one microsecond each."""
    log = TuningLog(path, target)
    for workload, decision in decisions.items():
        log.append(
            Record.of(
                workload,
                decision,
                target,
                microseconds=1.0,
                spread=0.0,
                threads=1,
                device="Test CPU",
                source=source,
            )
        )
    return log
