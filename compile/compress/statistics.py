"""Runs a float network on the calibration pictures and looks at every value between its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from mobilenet_tvm.compile.compress.runners import session_of

Array = np.ndarray[Any, Any]

#: What is added to the variance of each channel, as a share of the mean variance, so that few
#: images do not make channels look as if they followed from each other.
_RIDGE = 1e-3

#: Pixels of an image of which `channel_moments` takes note; neighbours tell little more.
_PIXELS = 256


@dataclass(frozen=True)
class Moments:
    """Mean [C] of channels, and their covariance [C, C], on some images."""

    mean: Array
    covariance: Array

    @property
    def damped(self) -> Array:
        """The covariance with a ridge, which can be inverted."""
        ridge = _RIDGE * self.covariance.trace() / len(self.mean)
        damped: Array = self.covariance + max(ridge, 1e-12) * np.eye(len(self.mean))
        return damped


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


def channel_moments(
    model: onnx.ModelProto, names: Iterable[str], images: Iterable[Array]
) -> dict[str, Moments]:
    """Return mean and covariance of the channels, of axis 1, of values with some names.

    Of each image, at most `_PIXELS` pixels, evenly spread, are looked at.
    """
    sums: dict[str, tuple[Array, Array]] = {}
    counts: dict[str, int] = {}
    for values in values_of(model, names, images):
        for name, value in values.items():
            pixels = np.moveaxis(value, 1, -1).reshape(-1, value.shape[1])
            places = np.linspace(0, len(pixels) - 1, min(len(pixels), _PIXELS)).astype(int)
            sample = pixels[places].astype(np.float64)
            first, second = sums.get(name, (np.float64(0), np.float64(0)))
            sums[name] = first + sample.sum(0), second + sample.T @ sample
            counts[name] = counts.get(name, 0) + len(sample)
    moments = {}
    for name, (first, second) in sums.items():
        mean = first / counts[name]
        moments[name] = Moments(mean, second / counts[name] - np.outer(mean, mean))
    return moments


def peaks(
    model: onnx.ModelProto, names: Iterable[str], images: Iterable[Array]
) -> dict[str, float]:
    """Return the largest number of each value with some name, over all images."""
    found: dict[str, float] = {}
    for values in values_of(model, names, images):
        for name, value in values.items():
            found[name] = max(found.get(name, -np.inf), float(value.max()))
    return found
