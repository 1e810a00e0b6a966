"""Writes a float network as a quantised one in the QDQ format, with ONNX Runtime's quantiser."""

from __future__ import annotations

import contextlib
import io
import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from mobilenet_tvm.compile.compress.float_graph import attribute
from mobilenet_tvm.targets.errors import UserError

Array = np.ndarray[Any, Any]

#: The smallest and the largest value of each tensor that is quantised.
Ranges = Mapping[str, tuple[float, float]]

#: Quantised as well, which ONNX Runtime does not do by itself: each is then a table of 256 values.
_TABLES = {"HardSigmoid", "HardSwish"}


def to_qdq(
    model: onnx.ModelProto,
    ranges: Ranges,
    keep_float: Collection[str] = (),
    *,
    float_bias: bool = False,
) -> onnx.ModelProto:
    """Quantise a network: uint8 activations, int8 weights with a scale per channel.

    Parameters
    ----------
    model : onnx.ModelProto
        A float model of opset 13 or later; it is not changed.
    ranges : mapping of str to tuple of float
        Of every activation. Zero is included.
    keep_float : collection of str
        Names of nodes to leave in float.
    float_bias : bool
        Whether biases stay float, so that they do not depend on the scales of activations.

    Returns
    -------
    onnx.ModelProto
        The network with QuantizeLinear and DequantizeLinear nodes.
    """
    with onnxruntime_quantization():
        from onnxruntime.quantization import CalibrationMethod, QuantType
        from onnxruntime.quantization.calibrate import TensorData, TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
        from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

        data = {
            name: TensorData(lowest=np.float32(low), highest=np.float32(high))
            for name, (low, high) in ranges.items()
        }
        quantizer = QDQQuantizer(
            onnx.shape_inference.infer_shapes(model),
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, data),
            nodes_to_quantize=[],
            nodes_to_exclude=list(keep_float),
            op_types_to_quantize=sorted({*QDQRegistry, *QLinearOpsRegistry} | _TABLES),
            extra_options={"QuantizeBias": not float_bias},
        )
        quantizer.quantize_model()
    quantized: onnx.ModelProto = quantizer.model.model
    _keep_outputs(quantized.graph)
    return quantized


def _keep_outputs(graph: onnx.GraphProto) -> None:
    """Leave the network's outputs as they are computed.

    Of 256 scores some are equal: of MobileNetV2, that alone changes the label of 1 % of pictures.
    """
    makers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    for output in graph.output:
        last = makers[output.name]
        before = makers.get(last.input[0])
        if last.op_type != "DequantizeLinear" or before is None or readers[last.input[0]] > 1:
            continue
        maker = makers.get(before.input[0])
        if before.op_type == "QuantizeLinear" and maker and readers[before.input[0]] == 1:
            maker.output[list(maker.output).index(before.input[0])] = output.name
            graph.node.remove(before)
            graph.node.remove(last)


@contextlib.contextmanager
def onnxruntime_quantization() -> Iterator[None]:
    """Keep ONNX Runtime's quantisation, inside, from printing; raise UserError without it."""
    try:
        import onnxruntime.quantization  # noqa: F401
    except ModuleNotFoundError:
        raise UserError("this needs ONNX Runtime; run: pip install onnxruntime") from None
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)


def parameters(low: float, high: float) -> tuple[Array, Array]:
    """Return scale and zero point of a range in uint8, as ONNX Runtime computes them."""
    from onnxruntime.quantization.quant_utils import compute_scale_zp

    low, high = min(low, 0.0), max(high, 0.0)
    zero, scale = compute_scale_zp(
        np.float32(low), np.float32(high), np.uint8(0), np.uint8(255), symmetric=False
    )
    return np.asarray(scale, np.float32), np.asarray(zero, np.uint8)


def weights_of(model: onnx.ModelProto) -> dict[str, Array]:
    """Return the quantised weights of a QDQ network, as floats, by the names of their layers."""
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    found = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        maker = makers.get(node.input[1])
        if maker is None or maker.op_type != "DequantizeLinear" or maker.input[0] not in arrays:
            continue
        weight, scale, zero = (numpy_helper.to_array(arrays[name]) for name in maker.input)
        shape = [1] * weight.ndim
        if scale.size > 1:
            shape[attribute(maker, "axis", 1)] = scale.size
        steps = weight.astype(np.int32) - zero.astype(np.int32).reshape(shape)
        found[node.name] = steps.astype(np.float32) * scale.reshape(shape)
    return found
