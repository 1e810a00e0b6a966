"""Compares an artifact with ONNX Runtime on the model that it was compiled from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mobilenet_tvm.compile.analysis.open_artifact import open_artifact
from mobilenet_tvm.compile.analysis.reference import reference_sessions
from mobilenet_tvm.compile.models.source import ModelOptions, resolve_again
from mobilenet_tvm.runtime.base_model import BaseModel
from mobilenet_tvm.runtime.bench import random_inputs
from mobilenet_tvm.runtime.metadata import Metadata
from mobilenet_tvm.targets.errors import UserError

Array = np.ndarray[Any, Any]

#: Largest error (see `Comparison`) by the dtype of what layers compute. float16: nearly
#: twice the worst error, 2.7 %, of 20 random inputs of each named network and of 100 crops of
#: pictures by a pretrained one.
TOLERANCES = {"float32": 1e-4, "float16": 0.05}

#: An output's range counts as at least this share of its largest magnitude. Rounding errors grow
#: with the magnitude of values, not with their range, which is next to nothing where an output is
#: nearly constant. The tolerances then allow 52 units in the last place (the dtype's epsilon) of
#: float32, and 3 of float16.
MIN_RANGE = 1 / 16


@dataclass(frozen=True)
class Comparison:
    """How far one output is from ONNX Runtime's, on one input.

    Parameters
    ----------
    seed : int
        Which input.
    output : str
        The output's name.
    error : float
        Largest absolute difference, as a share of the reference output's range, or of `MIN_RANGE`
        times its largest magnitude where that is more. Where the reference has no range, as a
        single value has none, a share of its magnitude, or of 1 where that is more. Values that are
        not finite are left out where both are the same; otherwise the error is infinite.
        Neighbours among float16 values are equal.
    same_top : bool
        Whether the largest value of each row is at the same place.
    """

    seed: int
    output: str
    error: float
    same_top: bool


@dataclass(frozen=True)
class VerifyResult:
    """Whether an artifact computes what its model says.

    Parameters
    ----------
    metadata : Metadata
        The artifact's.
    weights : str
        Where the weights of the model that it was compared with come from.
    comparisons : tuple of Comparison
        One for each input and output.
    tolerance : float
        The largest error that is allowed.
    """

    metadata: Metadata
    weights: str
    comparisons: tuple[Comparison, ...]
    tolerance: float

    @property
    def worst_error(self) -> float:
        """The largest error of all outputs on all inputs."""
        return max(comparison.error for comparison in self.comparisons)

    @property
    def agrees(self) -> bool:
        """Whether every error is within the tolerance."""
        return self.worst_error <= self.tolerance

    @property
    def same_weights(self) -> bool:
        """Whether the artifact was compiled from weights of the same origin."""
        return self.weights == self.metadata.weights


def verify_artifact(
    path: str | Path,
    model: str | Path | None = None,
    options: ModelOptions | None = None,
    *,
    device: str = "local",
    threads: int | None = None,
    inputs: int = 5,
    tolerance: float | None = None,
) -> VerifyResult:
    """Compare an artifact with ONNX Runtime on random inputs.

    Parameters
    ----------
    path : str or Path
        The ``.so`` that `compile_model` wrote.
    model : str or Path, optional
        What it was compiled from. Default: the named model that the artifact tells of.
    options : ModelOptions, optional
        Override what the artifact says of its model, such as `weights`.
    device : str
        Where the artifact runs; see `open_artifact`. ONNX Runtime runs on this machine.
    threads : int, optional
        See `open_artifact`.
    inputs : int
        Number of random inputs.
    tolerance : float, optional
        Largest error. Default: that of `TOLERANCES` for the artifact's dtype.

    Returns
    -------
    VerifyResult
        Each comparison, and the verdict.

    Raises
    ------
    UserError
        If ONNX Runtime is not installed, the artifact cannot be run, its model is not known, or
        has other inputs or outputs.
    """
    with open_artifact(path, device, threads) as compiled:
        source = resolve_again(compiled.metadata, model, options or ModelOptions())
        comparisons = verify(compiled, source.model, inputs)
    if tolerance is None:
        tolerance = TOLERANCES[compiled.metadata.extra.get("dtype", "float32")]
    return VerifyResult(compiled.metadata, source.weights, tuple(comparisons), tolerance)


def verify(model: BaseModel, reference: onnx.ModelProto, inputs: int = 5) -> list[Comparison]:
    """Run a compiled model and ONNX Runtime on random inputs.

    Parameters
    ----------
    model : BaseModel
        The compiled model.
    reference : onnx.ModelProto
        What it was compiled from, with the same static shapes.
    inputs : int
        Number of random inputs.

    Returns
    -------
    list of Comparison
        One for each input and output.

    Raises
    ------
    UserError
        If ONNX Runtime is not installed, or the model's inputs or outputs are not the reference's.
    """
    feeds = (random_inputs(model, seed) for seed in range(inputs))
    return compare(model, reference, feeds)


def compare(
    model: BaseModel, reference: onnx.ModelProto, feeds: Iterable[Mapping[str, Array]]
) -> list[Comparison]:
    """Run a compiled model and ONNX Runtime on given inputs.

    Where there are several references, as for a quantised or float16 model, each output is compared
    with the nearest one.

    Parameters
    ----------
    model : BaseModel
        The compiled model.
    reference : onnx.ModelProto
        What it was compiled from, with static inputs.
    feeds : iterable of mapping
        Inputs by name.

    Returns
    -------
    list of Comparison
        One for each input and output.

    Raises
    ------
    UserError
        As of `verify`.
    """
    sessions = reference_sessions(reference)
    _check_same("inputs", model.inputs, sessions[0].get_inputs())
    _check_same("outputs", model.outputs, sessions[0].get_outputs())
    results = []
    for number, feed in enumerate(feeds):
        compiled = model(*feed.values())
        ours = compiled if isinstance(compiled, dict) else {model.outputs[0].name: compiled}
        every = [session.run(None, feed) for session in sessions]
        for name, *theirs in zip(ours, *every, strict=True):
            found = [_compare(number, name, ours[name], one) for one in theirs]
            results.append(min(found, key=lambda comparison: comparison.error))
    return results


def _compare(number: int, name: str, ours: Array, theirs: Array) -> Comparison:
    rows = (ours.shape[0], -1) if ours.ndim > 1 else (1, -1)
    if theirs.dtype == np.float16:
        # Of a number between two values of the type, either may be stored.
        with np.errstate(invalid="ignore"):
            ours = np.where(np.abs(ours - theirs) <= np.spacing(np.abs(theirs)), theirs, ours)
    ours, theirs = (array.astype(np.float64).reshape(rows) for array in (ours, theirs))
    same_top = bool((ours.argmax(1) == theirs.argmax(1)).all())
    return Comparison(number, name, _error(ours, theirs), same_top)


def _error(ours: Array, theirs: Array) -> float:
    """Return the largest difference as a share of the range; see `Comparison`."""
    finite = np.isfinite(theirs)
    same = np.array_equal(ours[~finite], theirs[~finite], equal_nan=True)
    if not same or not np.isfinite(ours[finite]).all():
        return float("inf")
    if not finite.any():
        return 0.0
    ours, theirs = ours[finite], theirs[finite]
    difference = float(np.abs(ours - theirs).max())
    spread, magnitude = float(np.ptp(theirs)), float(np.abs(theirs).max())
    # A single value has no range. What it was added up from may be much larger than it is.
    scale = max(spread, MIN_RANGE * magnitude) if spread else max(1.0, magnitude)
    return difference / scale


def _check_same(what: str, ours: Any, theirs: Any) -> None:
    mine = [(info.name, list(info.shape)) for info in ours]
    reference = [(value.name, list(value.shape)) for value in theirs]
    if [name for name, _ in mine] != [name for name, _ in reference] or any(
        all(isinstance(extent, int) for extent in shape) and shape != given
        for (_, given), (_, shape) in zip(mine, reference, strict=True)
    ):
        raise UserError(
            f"the artifact's {what} are {mine}, the model's {reference}; "
            "give the model and options that it was compiled from"
        )
