"""Quantised networks by OpenCL, which computes them in float32 between the same roundings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from networks import EXPORTS

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.runtime import load

pytestmark = pytest.mark.usefixtures("pocl")

#: A sum that float32 rounds to the other side of a half moves a value by one step, and what follows
#: by a few.
MAX_STEPS = 3


@pytest.mark.parametrize("name", ["qdq_v3_small_opset17", "tflite_v1_int8_opset16"])
def test_quantised_networks_are_a_few_steps_from_onnx_runtime(name: str, tmp_path: Path) -> None:
    path = EXPORTS / f"{name}.onnx"
    model = load(compile_model(path, "mali:x86", tmp_path / "m.so", tuning_log="none").path)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options)
    (given,) = session.get_inputs()
    shape = [size if isinstance(size, int) else 1 for size in given.shape]
    rng = np.random.default_rng(0)
    step = _last_scale(path) if given.type == "tensor(float)" else 1.0
    for _ in range(3):
        image = rng.standard_normal(shape).astype(np.float32)
        if given.type != "tensor(float)":
            image = rng.integers(0, 256, shape).astype(np.uint8)
        expected = np.asarray(session.run(None, {given.name: image})[0], np.float32)
        result = np.asarray(model(image), np.float32)
        assert np.abs(result - expected).max() <= (MAX_STEPS + 0.01) * step
        assert np.ptp(expected) > 20 * step


def _last_scale(path: Path) -> float:
    """Return the scale of the last quantisation, which is that of the output."""
    graph = onnx.load(path).graph
    last = [node for node in graph.node if node.op_type == "QuantizeLinear"][-1]
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return float(values[last.input[1]].reshape(-1)[0])
