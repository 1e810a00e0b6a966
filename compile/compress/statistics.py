"""Runs a float network on the calibration pictures and looks at every value between its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx

from mobilenet_tvm.compile.compress.runners import session_of

Array = np.ndarray[Any, Any]


def values_of(
    model: onnx.ModelProto, names: Iterable[str], images: Iterable[Array]
) -> Iterator[dict[str, Array]]:
    """Yield the values with some names, for one image after the other.

    Parameters
    ----------
    model : onnx.ModelProto
        With one input.
    names : iterable of str
        Of values in the graph.
    images : iterable of numpy.ndarray
        Inputs.
    """
    wanted = onnx.ModelProto()
    wanted.CopyFrom(model)
    source = model.graph.input[0].name
    names = [name for name in dict.fromkeys(names) if name != source]
    if names:
        del wanted.graph.output[:]
    wanted.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = session_of(wanted, optimize=False)
    for image in images:
        # Without names, all outputs would be computed.
        values = dict(zip(names, session.run(names, {source: image}), strict=True)) if names else {}
        yield {source: image, **values}


def channel_means(
    model: onnx.ModelProto, names: Iterable[str], images: Iterable[Array]
) -> dict[str, Array]:
    """Return the mean of each channel, of axis 1, of values with some names, over all images."""
    sums: dict[str, Array] = {}
    count = 0
    for values in values_of(model, names, images):
        count += 1
        for name, value in values.items():
            axes = tuple(axis for axis in range(value.ndim) if axis != 1)
            sums[name] = sums.get(name, np.float64(0)) + value.mean(axes, dtype=np.float64)
    return {name: total / count for name, total in sums.items()}


def peaks(
    model: onnx.ModelProto, names: Iterable[str], images: Iterable[Array]
) -> dict[str, float]:
    """Return the largest number of each value with some name, over all images."""
    found: dict[str, float] = {}
    for values in values_of(model, names, images):
        for name, value in values.items():
            found[name] = max(found.get(name, -np.inf), float(value.max()))
    return found
