"""ONNX Runtime as the reference of what a model computes."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import helper

from mobilenet_tvm.compile.frontend.graph import replace_nodes
from mobilenet_tvm.compile.frontend.widen import has_float16
from mobilenet_tvm.targets.errors import UserError


def reference_sessions(model: onnx.ModelProto) -> list[Any]:
    """Return sessions of ONNX Runtime, each of which computes what a model may.

    A quantised model and one with float16 have two: with optimisations, ONNX Runtime computes the
    first in integers, and the second with weights into which it has multiplied others, rounded to
    float16 again; without, both in float32, as the model says.

    Parameters
    ----------
    model : onnx.ModelProto
        A model with static inputs.

    Raises
    ------
    UserError
        If ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError("verify needs ONNX Runtime; run: pip install onnxruntime") from None
    levels = [onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL]
    quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    if quantized or has_float16(model.graph):
        levels.append(onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
    if not quantized:
        model = _with_exact_sigmoid(model)
    sessions = []
    for level in levels:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = level
        sessions.append(
            onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        )
    return sessions


def _with_exact_sigmoid(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model that computes Sigmoid of float32 as exp(-log(1 + exp(-x))).

    ONNX Runtime's own is off by up to 1.2e-7: 8 % of a probability of 1e-6.
    """
    if all(node.op_type != "Sigmoid" for node in model.graph.node):
        return model
    exact = onnx.shape_inference.infer_shapes(model)
    values = (*exact.graph.value_info, *exact.graph.output)
    floats = {v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "Sigmoid" or node.output[0] not in floats:
            nodes.append(node)
            continue
        (value,), (output,) = node.input, node.output
        for number, op in enumerate(("Neg", "Softplus", "Neg", "Exp")):
            result = output if op == "Exp" else f"{output}/exact{number}"
            nodes.append(helper.make_node(op, [value], [result]))
            value = result
    replace_nodes(exact.graph, nodes)
    return exact
