"""Collects and selects the layers to tune."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from mobilenet_tvm.compile.models.source import ModelOptions, resolve
from mobilenet_tvm.compile.pipeline import layers
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.errors import UserError, WrongUseError
from mobilenet_tvm.targets.target import Target


def find_layers(
    models: Iterable[str | Path], target: Target, options: ModelOptions, dtype: str = "float32"
) -> Counter[Workload]:
    """Return the layers of models, and how often they are called in total.

    Parameters
    ----------
    models : iterable of str or Path
        Names or ONNX files.
    target : Target
        The machine, which determines the layers that are fused.
    options : ModelOptions
        Options of all models.
    dtype : str
        Type of the values in layers.

    Raises
    ------
    UserError
        If a model cannot be read, or no layer has a schedule of its own.
    """
    counts: Counter[Workload] = Counter()
    for model in models:
        counts.update(layers(resolve(model, options).model, target, dtype))
    if not counts:
        raise UserError("nothing to tune: no layer of the models has a schedule of its own")
    return counts


def select(counts: Counter[Workload], patterns: Sequence[str]) -> Counter[Workload]:
    """Return the layers whose names contain one of the patterns; all if there are none.

    Parameters
    ----------
    counts : Counter of Workload
        How often each layer is called.
    patterns : sequence of str
        Patterns as for file names: `*` matches anything.

    Raises
    ------
    WrongUseError
        If no layer matches.
    """
    chosen = Counter(
        {
            layer: count
            for layer, count in counts.items()
            if not patterns or any(fnmatchcase(str(layer), f"*{p}*") for p in patterns)
        }
    )
    if not chosen:
        example = str(next(iter(counts)))
        raise WrongUseError(f"no layer's name contains {patterns[0]!r}; one is '{example}'")
    return chosen
