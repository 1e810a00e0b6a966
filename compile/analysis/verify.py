"""Compares an artifact with ONNX Runtime on the model that it was compiled from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from mobilenet_tvm.runtime.bench import random_inputs
from mobilenet_tvm.runtime.metadata import Metadata
from mobilenet_tvm.runtime.model import BaseModel
from mobilenet_tvm.targets.errors import UserError

Array = np.ndarray[Any, Any]

#: Largest difference from ONNX Runtime, as a share of the output's range, by what layers keep their
#: values in. float16: nearly twice the worst, 2.7 %, of 20 random inputs of each named network and
#: of 100 crops of pictures by a pretrained one.
TOLERANCES = {"float32": 1e-4, "float16": 0.05}


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
        Largest |difference|, as a share of the reference output's range.
    same_top : bool
        Whether the largest value of each row is at the same place.
    """

    seed: int
    output: str
    error: float
    same_top: bool


def tolerance_of(metadata: Metadata) -> float:
    """Return how far an artifact's outputs may be from ONNX Runtime's."""
    return TOLERANCES[metadata.extra.get("dtype", "float32")]


def verify(model: BaseModel, reference: onnx.ModelProto, inputs: int = 5) -> list[Comparison]:
    """Run a compiled model beside ONNX Runtime.

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
        One per input and output.

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
    """Run a compiled model beside ONNX Runtime on given inputs.

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
        One per input and output.

    Raises
    ------
    UserError
        As of `verify`.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError("verify needs ONNX Runtime; run: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if any(node.op_type == "QuantizeLinear" for node in reference.graph.node):
        # Optimised, ONNX Runtime rounds in other places than the model says.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        reference.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    _check_same("inputs", model.inputs, session.get_inputs())
    _check_same("outputs", model.outputs, session.get_outputs())
    results = []
    for number, feed in enumerate(feeds):
        compiled = model(*feed.values())
        ours = compiled if isinstance(compiled, dict) else {model.outputs[0].name: compiled}
        for name, theirs in zip(ours, session.run(None, feed), strict=True):
            results.append(_compare(number, name, ours[name], theirs))
    return results


def _compare(number: int, name: str, ours: Array, theirs: Array) -> Comparison:
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    difference = np.abs(ours - theirs).max(initial=0.0)
    spread = float(np.ptp(theirs)) if theirs.size else 0.0
    error = float(difference / spread) if spread else float(difference)
    rows = (ours.shape[0], -1) if ours.ndim > 1 else (1, -1)
    same = bool((ours.reshape(rows).argmax(1) == theirs.reshape(rows).argmax(1)).all())
    return Comparison(number, name, error if np.isfinite(ours).all() else float("inf"), same)


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
