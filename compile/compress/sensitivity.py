"""Finds the layers whose quantisation costs most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from mobilenet_tvm.compile.compress.float_graph import FloatGraph
from mobilenet_tvm.compile.compress.qdq import Ranges, to_qdq
from mobilenet_tvm.compile.compress.runners import session_of

Array = np.ndarray[Any, Any]


def most_sensitive(
    model: onnx.ModelProto,
    ranges: Ranges,
    images: Sequence[Array],
    references: Sequence[Sequence[Array]],
    count: int,
) -> tuple[str, ...]:
    """Return the names of the layers that cost most.

    Parameters
    ----------
    model : onnx.ModelProto
        A float model.
    ranges : mapping
        Of its activations.
    images, references
        As for `search_ranges`.
    count : int
        How many layers to return.

    Returns
    -------
    tuple of str
        The convolutions and dense layers without whose quantisation, all others being quantised,
        the outputs have the least error; that with the least first.
    """
    source = model.graph.input[0].name
    errors = {}
    for node in FloatGraph(model).layers():
        session = session_of(to_qdq(model, ranges, [node.name]))
        errors[node.name] = sum(
            float(((output - reference) ** 2).sum()) / (float((reference**2).sum()) or 1.0)
            for image, expected in zip(images, references, strict=True)
            for output, reference in zip(session.run(None, {source: image}), expected, strict=True)
        )
    return tuple(sorted(errors, key=errors.__getitem__)[:count])
