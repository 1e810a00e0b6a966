"""Small ONNX graphs, and how they are compared with ONNX Runtime, values, shapes and types."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.runtime import load

Array = np.ndarray[Any, Any]


def graph(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    outputs: Sequence[str] = ("y",),
    opset: int = 18,
    **weights: Array,
) -> onnx.ModelProto:
    """Return a model with a float32 input `x`, and outputs of any type and shape."""
    proto = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
    types = {output.name: output.type for output in inferred}
    for output in proto.output:
        found = types[output.name].tensor_type.elem_type or TensorProto.FLOAT
        output.CopyFrom(helper.make_tensor_value_info(output.name, found, None))
    model.graph.CopyFrom(proto)
    return model


def agrees(model: onnx.ModelProto, folder: Path, *fed: Array) -> None:
    """Compile a model for x86, and compare all outputs with ONNX Runtime's for given inputs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [value.name for value in session.get_inputs()]
    expected = session.run(None, dict(zip(names, fed, strict=True)))
    compiled = load(compile_model(model, "x86", folder / "model.so").path)
    result = compiled(*fed)
    results = list(result.values()) if isinstance(result, dict) else [result]
    assert [array.shape for array in results] == [array.shape for array in expected]
    assert [array.dtype for array in results] == [array.dtype for array in expected]
    for array, right in zip(results, expected, strict=True):
        np.testing.assert_allclose(array, right, rtol=1e-5, atol=1e-5)
