"""Which layers to tune: those of some models, counted, and those of them that are asked for."""

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
    """Return the layers of some models, and how often they are called together.

    Parameters
    ----------
    models : iterable of str or Path
        Names or ONNX files.
    target : Target
        The machine: it decides which layers are fused.
    options : ModelOptions
        For each of the models.
    dtype : str
        What the layers keep their values in.

    Raises
    ------
    UserError
        If a model cannot be read, or none has a layer with a schedule of its own.
    """
    counts: Counter[Workload] = Counter()
    for model in models:
        counts.update(layers(resolve(model, options).model, target, dtype))
    if not counts:
        raise UserError("nothing to tune: no layer of the model has a schedule of its own")
    return counts


def select(counts: Counter[Workload], patterns: Sequence[str]) -> Counter[Workload]:
    """Return the layers whose names contain one of some patterns; all without any.

    Parameters
    ----------
    counts : Counter of Workload
        How often each layer is called.
    patterns : sequence of str
        As in file names: `*` stands for anything.

    Raises
    ------
    WrongUseError
        If there is no such layer.
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
