"""Chooses among ranges of activations by the error of the network's outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from mobilenet_tvm.compile.compress.qdq import Ranges, parameters, to_qdq
from mobilenet_tvm.compile.compress.runners import session_of

Array = np.ndarray[Any, Any]


def search_ranges(
    model: onnx.ModelProto,
    candidates: Sequence[Ranges],
    images: Sequence[Array],
    references: Sequence[Sequence[Array]],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, tuple[float, float]]:
    """Choose the range of each activation with the least error of the outputs.

    The squared error of a value tells little of its effect: some layers need their rare large
    values, others suffer from the coarse steps that these cost. So each activation is tried with
    each of its candidates, in the network's order, while all others are quantised as well.

    Parameters
    ----------
    model : onnx.ModelProto
        A float model, whose weights and biases may differ from those of the references.
    candidates : sequence of mapping
        Ranges of all activations; the search starts with the best of them.
    images : sequence of numpy.ndarray
        Inputs.
    references : sequence of sequence of numpy.ndarray
        What the network should compute of each.
    progress : callable, optional
        Called after each activation with how many are done, and how many there are.
    """
    simulation = _Simulation(model, candidates[0], images, references)
    chosen: dict[str, tuple[float, float]] = {}
    least = np.inf
    for ranges in candidates:
        error = simulation.error(ranges, least)
        if error < least:
            chosen, least = dict(ranges), error
    for done, name in enumerate(simulation.names, 1):
        tried = {chosen[name]}
        for ranges in candidates:
            if ranges[name] in tried:
                continue
            tried.add(ranges[name])
            error = simulation.error({**chosen, name: ranges[name]}, least)
            if error < least:
                chosen[name], least = ranges[name], error
        if progress:
            progress(done, len(simulation.names))
    return chosen


class _Simulation:
    """A quantised network, computed in float, whose scales are inputs."""

    def __init__(
        self,
        model: onnx.ModelProto,
        ranges: Ranges,
        images: Sequence[Array],
        references: Sequence[Sequence[Array]],
    ) -> None:
        quantized = to_qdq(model, ranges, float_bias=True)
        graph = quantized.graph
        scales = {node.input[1] for node in graph.node if node.op_type == "QuantizeLinear"}
        self.names = [name for name in ranges if f"{name}_scale" in scales]
        inputs = {f"{name}_{part}" for name in self.names for part in ("scale", "zero_point")}
        kept = []
        for tensor in graph.initializer:
            if tensor.name in inputs:
                graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, []))
            else:
                kept.append(onnx.TensorProto.FromString(tensor.SerializeToString()))
        del graph.initializer[:]
        graph.initializer.extend(kept)
        self._session = session_of(quantized)
        self._source = model.graph.input[0].name
        self._images, self._references = images, references
        # So that each output counts alike.
        powers = [[float((value**2).sum()) for value in values] for values in references]
        self._powers = [sum(values) or 1.0 for values in zip(*powers, strict=True)]

    def error(self, ranges: Ranges, limit: float) -> float:
        """Return the squared error of the outputs, relative to their power, or what is above."""
        feeds: dict[str, Array] = {}
        for name in self.names:
            scale, zero = parameters(*ranges[name])
            feeds |= {f"{name}_scale": scale, f"{name}_zero_point": zero}
        total = 0.0
        for image, expected in zip(self._images, self._references, strict=True):
            outputs = self._session.run(None, {self._source: image, **feeds})
            for output, reference, power in zip(outputs, expected, self._powers, strict=True):
                total += float(((output - reference) ** 2).sum()) / power
            if total >= limit:
                break
        return total
