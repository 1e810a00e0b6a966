"""Chooses the range of each activation from what calibration pictures give."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mobilenet_tvm.compile.compress.qdq import onnxruntime_quantization
from mobilenet_tvm.targets.errors import UserError

Array = np.ndarray[Any, Any]

#: Shares of the values, in percent, that candidates for a range cover; 100 covers all.
PERCENTILES = (100.0, 99.99, 99.9)

#: Shares of the largest value at which the mean squared error is tried.
_SHARES = np.linspace(0.3, 1, 71)
_STEPS = 255


class Calibration:
    """The values of each activation on calibration pictures, as ONNX Runtime collects them.

    Parameters
    ----------
    model : onnx.ModelProto
        A float model.
    images : sequence of numpy.ndarray
        Inputs of it.
    entropy : bool
        Whether to collect what `entropy` needs, instead of what the others need.
    """

    def __init__(
        self, model: onnx.ModelProto, images: Sequence[Array], *, entropy: bool = False
    ) -> None:
        name = model.graph.input[0].name
        with onnxruntime_quantization(), tempfile.TemporaryDirectory() as folder:
            from onnxruntime.quantization import CalibrationMethod, create_calibrator

            path = Path(folder) / "model.onnx"
            onnx.save(model, path)
            calibrator = create_calibrator(
                path,
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=CalibrationMethod.Entropy
                if entropy
                else CalibrationMethod.Percentile,
                extra_options={"symmetric": False},
            )
            for image in images:
                # One at a time: it keeps all values of a call in memory.
                calibrator.collect_data(_Once({name: image}))
        self._collector = calibrator.collector
        for tensor, histogram in self._collector.histogram_dict.items():
            if not np.isfinite(histogram[2]) or not np.isfinite(histogram[3]):
                raise UserError(
                    f"the value '{tensor}' is infinite or undefined on a calibration picture; "
                    "check the model and --preprocessing"
                )

    def percentile(self, percent: float) -> dict[str, tuple[float, float]]:
        """Return ranges that cover a share of the values; with 100, all of them."""
        self._collector.percentile = percent
        if percent == 100:
            histograms = self._collector.histogram_dict
            return {name: (float(h[2]), float(h[3])) for name, h in histograms.items()}
        with onnxruntime_quantization():
            return _ranges(self._collector.compute_percentile())

    def entropy(self) -> dict[str, tuple[float, float]]:
        """Return ranges whose distribution of values differs least in entropy when quantised."""
        with onnxruntime_quantization():
            return _ranges(self._collector.compute_entropy())

    def mse(self) -> dict[str, tuple[float, float]]:
        """Return ranges with the least mean squared error of quantised values."""
        return {
            name: _least_squares(
                histogram[0], histogram[1], float(histogram[2]), float(histogram[3])
            )
            for name, histogram in self._collector.histogram_dict.items()
        }


class _Once:
    """Hands one input to ONNX Runtime's calibration."""

    def __init__(self, feed: dict[str, Array]) -> None:
        self._feeds = [feed]

    def get_next(self) -> dict[str, Array] | None:
        """Return the input, then None."""
        return self._feeds.pop() if self._feeds else None


def _ranges(computed: dict[str, Any]) -> dict[str, tuple[float, float]]:
    return {name: (float(values[0]), float(values[1])) for name, values in computed.items()}


def _least_squares(counts: Array, edges: Array, low: float, high: float) -> tuple[float, float]:
    """Return the range with the least squared error, of which both ends are tried in turn."""
    low, high = min(low, 0.0), max(high, 0.0)
    kept = counts > 0
    if low == high or not kept.any():
        return low, high
    values = ((edges[1:] + edges[:-1]) / 2)[kept].astype(np.float64)
    weights = counts[kept]

    def error(first: float, last: float) -> float:
        scale = (last - first) / _STEPS
        zero = np.round(-first / scale)
        steps = np.clip(np.round(values / scale), -zero, _STEPS - zero)
        return float((weights * (steps * scale - values) ** 2).sum())

    best = low, high
    for _ in range(2):
        best = min(((low * s, best[1]) for s in _SHARES), key=lambda ends: error(*ends))
        best = min(((best[0], high * s) for s in _SHARES), key=lambda ends: error(*ends))
    return best
