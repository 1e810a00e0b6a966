"""Small quantised ONNX models in the forms that files hold, one thing each.

Unless stated otherwise, a float image is quantised first, and the result is dequantised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import odd_models as odd
import onnx
from onnx import TensorProto, helper

Array = npt.NDArray[Any]


class QuantizedNet(odd.Net):
    """Builds a graph in the QDQ format; values between layers are float, as in files.

    Parameters
    ----------
    shape : sequence of int
        The input's shape.
    dtype : int
        The input's element type.
    byte : type
        Type of activations: `numpy.uint8` or `numpy.int8`.
    vectors : bool
        Whether scalars have the shape [1] instead of [].
    """

    def __init__(
        self,
        shape: Sequence[int] = (1, 8, 6, 6),
        dtype: int = TensorProto.FLOAT,
        byte: type = np.uint8,
        vectors: bool = False,
    ) -> None:
        super().__init__(shape, dtype)
        self.byte, self._vectors = byte, vectors
        #: The step of the last value that was quantised.
        self.step = 0.0

    def scalar(self, value: float, dtype: npt.DTypeLike = np.float32) -> str:
        """Add a scale or a zero point."""
        return self.weight([value] if self._vectors else value, dtype)

    def parameters(self, scale: float, zero: int | None, byte: type | None = None) -> list[str]:
        """Add a scale and a zero point, counted from the type's smallest value, unless None."""
        self.step = scale
        byte = byte or self.byte
        if zero is None:
            return [self.scalar(scale)]
        return [self.scalar(scale), self.scalar(zero + np.iinfo(byte).min, byte)]

    def quantize(
        self, x: str, scale: float = 0.05, zero: int | None = 120, byte: type | None = None
    ) -> tuple[str, list[str]]:
        """Quantise a value; return the bytes and the parameters."""
        parameters = self.parameters(scale, zero, byte)
        return self.node("QuantizeLinear", x, *parameters), parameters

    def qdq(
        self, x: str, scale: float = 0.05, zero: int | None = 120, byte: type | None = None
    ) -> str:
        """Quantise a value, and return what the bytes stand for."""
        values, parameters = self.quantize(x, scale, zero, byte)
        return self.node("DequantizeLinear", values, *parameters)

    def integers(
        self,
        *shape: int,
        scale: float = 0.01,
        per_channel: int | None = 0,
        byte: type = np.int8,
        zero: int | None = 0,
        axis: bool = True,
    ) -> str:
        """Add dequantised weights.

        Parameters
        ----------
        *shape : int
            Their shape.
        scale : float
            The largest scale.
        per_channel : int, optional
            The axis with a scale each; None for a single one.
        byte : type
            Their type.
        zero : int, optional
            Their zero point; None leaves it out.
        axis : bool
            Whether the axis is written, if it is 1, which is what it is otherwise.
        """
        low = -127 if byte is np.int8 else 0
        values = self.weight(self.rng.integers(low, np.iinfo(byte).max, shape, endpoint=True), byte)
        if per_channel is None:
            parameters = [self.scalar(scale)]
            parameters += [] if zero is None else [self.scalar(zero, byte)]
            return self.node("DequantizeLinear", values, *parameters)
        size = shape[per_channel]
        parameters = [self.weight(self.rng.uniform(scale / 2, scale, size))]
        parameters += [] if zero is None else [self.weight(np.full(size, zero), byte)]
        attributes = {"axis": per_channel} if axis else {}
        return self.node("DequantizeLinear", values, *parameters, **attributes)

    def scales_of(self, weights: str) -> Array:
        """Return the scales of dequantised weights."""
        node = next(node for node in self.nodes if node.output[0] == weights)
        tensor = next(weight for weight in self.weights if weight.name == node.input[1])
        return np.asarray(onnx.numpy_helper.to_array(tensor))

    def bias(self, weights: str, outputs: int, step: float, kind: str = "int32") -> str | None:
        """Add the bias of a layer whose data have a step.

        Parameters
        ----------
        weights : str
            The layer's weights.
        outputs : int
            Number of values.
        step : float
            Scale of the data.
        kind : str
            `int32` with the scale of the sums, `other` with another scale, `float`, or `none`.
        """
        if kind == "none":
            return None
        scale = np.float32(step) * self.scales_of(weights)
        if kind == "float":
            return self.weight(self.rng.normal(scale=0.3, size=outputs))
        if kind == "other":
            values = self.weight(self.rng.integers(-90, 90, outputs), np.int32)
            return self.node("DequantizeLinear", values, self.scalar(0.0043))
        values = self.weight(self.rng.integers(-3000, 3000, outputs), np.int32)
        if scale.size == 1:
            return self.node("DequantizeLinear", values, self.scalar(float(scale.reshape(()))))
        zero = self.weight(np.zeros(outputs), np.int32)
        return self.node("DequantizeLinear", values, self.weight(scale), zero, axis=0)

    def conv_of(
        self,
        x: str,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        group: int = 1,
        bias: str = "int32",
        weights: dict[str, Any] | None = None,
        **attributes: Any,
    ) -> str:
        """Add a convolution of a value whose step is the last one; the result is not quantised."""
        step = self.step
        if kernel > 1 and not {"pads", "auto_pad"} & set(attributes):
            attributes["pads"] = [kernel // 2] * 4
        shape = (outputs, inputs // group, kernel, kernel)
        scale = 0.03 / (inputs // group * kernel * kernel) ** 0.5
        integers = self.integers(*shape, **{"scale": scale, **(weights or {})})
        names = [x, integers, self.bias(integers, outputs, step, bias)]
        return self.node("Conv", *filter(None, names), group=group, **attributes)

    def finished(self, *outputs: str, **options: Any) -> onnx.ModelProto:
        """Return the model, with the shapes and types of its outputs."""
        model = self.model(*outputs, shapes=[()] * len(outputs), **options)
        for output in model.graph.output:
            output.CopyFrom(helper.make_empty_tensor_value_info(output.name))
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def conv(
    byte: type = np.uint8,
    *,
    vectors: bool = False,
    result: tuple[float, int | None] = (0.06, 100),
    **options: Any,
) -> onnx.ModelProto:
    """Return a pointwise convolution; options as of `QuantizedNet.conv_of`."""
    net = QuantizedNet(byte=byte, vectors=vectors)
    return net.finished(net.qdq(net.conv_of(net.qdq("input"), 8, 12, **options), *result))


def weights(**options: Any) -> onnx.ModelProto:
    """Return a pointwise convolution; options as of `QuantizedNet.integers`."""
    return conv(weights=options)


def window(
    kernel: int = 3,
    group: int = 24,
    channels: tuple[int, int] = (24, 24),
    shape: Sequence[int] = (),
    **attributes: Any,
) -> onnx.ModelProto:
    """Return a convolution with a window, depthwise unless stated otherwise."""
    net = QuantizedNet(shape or (1, channels[0], 9, 9))
    x = net.conv_of(net.qdq("input"), *channels, kernel, group=group, **attributes)
    return net.finished(net.qdq(x))


def between(
    function: Callable[[QuantizedNet, str], str],
    shape: Sequence[int] = (1, 8, 6, 6),
    opset: int = 17,
    byte: type = np.uint8,
    result: tuple[float, int] = (0.05, 90),
) -> onnx.ModelProto:
    """Return a network with some operators between two quantisations of different scales."""
    net = QuantizedNet(shape, byte=byte)
    return net.finished(net.qdq(function(net, net.qdq("input")), *result), opset=opset)


def activation(function: Callable[[QuantizedNet, str], str]) -> onnx.ModelProto:
    """Return a convolution whose quantised result goes through a function."""

    def body(net: QuantizedNet, x: str) -> str:
        return function(net, net.qdq(net.conv_of(x, 8, 12), 0.0613, 110))

    return between(body, result=(0.0297, 20))


def silu(net: QuantizedNet, x: str) -> str:
    """Add x * sigmoid(x)."""
    return net.node("Mul", x, net.node("Sigmoid", x))


def absorbed(function: Callable[[QuantizedNet, str], str], zero: int = 0) -> onnx.ModelProto:
    """Return a convolution whose result goes through a function before it is quantised."""
    return between(lambda net, x: function(net, net.conv_of(x, 8, 12)), result=(0.04, zero))


def stem(image: int = TensorProto.FLOAT, **quantized: Any) -> onnx.ModelProto:
    """Return a stem; an image of bytes is dequantised at once."""
    net = QuantizedNet((1, 3, 12, 14), image, **quantized)
    x = "input"
    if image == TensorProto.FLOAT:
        x = net.qdq(x)
    else:
        byte = np.uint8 if image == TensorProto.UINT8 else np.int8
        x = net.node("DequantizeLinear", x, *net.parameters(0.02, 130, byte))
    return net.finished(net.qdq(net.conv_of(x, 3, 16, 3, strides=[2, 2])))


def stem_and_float(function: str) -> onnx.ModelProto:
    """Return a stem whose result is not quantised, but goes on as float."""
    net = QuantizedNet((1, 3, 12, 14))
    x = net.conv_of(net.qdq("input"), 3, 16, 3, strides=[2, 2])
    return net.finished(net.node(function, x))


def padded_bytes(pads: Sequence[int], **attributes: Any) -> onnx.ModelProto:
    """Return a convolution whose bytes are padded by the zero point, as tf2onnx writes it."""
    net = QuantizedNet((1, 8, 9, 9))
    values, parameters = net.quantize("input")
    widths = net.weight([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64)
    x = net.node("Pad", values, widths, parameters[1])
    x = net.node("DequantizeLinear", x, *parameters)
    return net.finished(net.qdq(net.conv_of(x, 8, 8, 3, group=8, pads=[0] * 4, **attributes)))


def pad(value: float) -> Callable[[QuantizedNet, str], str]:
    """Return what pads a float value and convolves it."""

    def body(net: QuantizedNet, x: str) -> str:
        step, widths = net.step, net.weight([0, 0, 0, 0, 0, 0, 1, 1], np.int64)
        x = net.node("Pad", x, widths, net.weight(value))
        net.step = step
        return net.conv_of(x, 8, 8, 3, group=8, pads=[0] * 4, strides=[2, 2])

    return body


def two(op: str, *, relu: bool = False, byte: type = np.uint8) -> onnx.ModelProto:
    """Return the sum or product of the results of two layers."""

    def body(net: QuantizedNet, x: str) -> str:
        step = net.step
        left = net.qdq(net.conv_of(x, 8, 12), 0.06, 100)
        net.step = step
        right = net.qdq(net.conv_of(x, 8, 12), 0.033, 131)
        total = net.node(op, left, right)
        return net.node("Relu", total) if relu else total

    return between(body, byte=byte, result=(0.07, 0) if relu else (0.07, 110))


def residual(*, relu: bool = False) -> onnx.ModelProto:
    """Return a layer whose input is added to its result."""

    def body(net: QuantizedNet, x: str) -> str:
        total = net.node("Add", net.qdq(net.conv_of(x, 8, 8), 0.06, 100), x)
        return net.node("Relu", total) if relu else total

    return between(body, result=(0.07, 0) if relu else (0.07, 110))


def gates(net: QuantizedNet, x: str) -> str:
    """Add squeeze-and-excitation, all of it quantised."""
    pooled = net.qdq(net.node("GlobalAveragePool", x), 0.02, 128)
    hidden = net.qdq(net.node("Relu", net.conv_of(pooled, 8, 4)), 0.01, 0)
    gate = net.qdq(
        net.node("HardSigmoid", net.qdq(net.conv_of(hidden, 4, 8), 0.02, 120)), 1 / 255, 0
    )
    return net.node("Mul", x, gate)


def concat(*scales: float) -> onnx.ModelProto:
    """Return the concatenation of two layers whose scales are given."""

    def body(net: QuantizedNet, x: str) -> str:
        step, parts = net.step, []
        for index, scale in enumerate(scales):
            net.step = step
            parts.append(net.qdq(net.conv_of(x, 8, 4 + 4 * index), scale, 90))
        return net.node("Concat", *parts, axis=1)

    return between(body, result=(0.05, 90))


def pool(op: str, **attributes: Any) -> onnx.ModelProto:
    """Return a pooling."""
    return between(lambda net, x: net.node(op, x, **attributes), shape=(1, 8, 7, 7))


def resized(net: QuantizedNet, x: str) -> str:
    """Add a resize to twice the size by nearest neighbours."""
    scales = net.weight([1, 1, 2, 2])
    options = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return net.node("Resize", x, "", scales, mode="nearest", **options)


def moved(net: QuantizedNet, x: str) -> str:
    """Add a Transpose, a Reshape and a Flatten, and a dense layer."""
    step = net.step
    x = net.node("Transpose", x, perm=[0, 2, 3, 1])
    x = net.node("Reshape", x, net.weight([0, -1, 4], np.int64))
    x = net.node("Flatten", x)
    net.step = step
    return dense(net, x, 288)


def squeezed(net: QuantizedNet, x: str) -> str:
    """Add a mean, a Squeeze and a dense layer."""
    x = net.qdq(net.node("GlobalAveragePool", x), 0.02, 128)
    step = net.step
    x = net.node("Squeeze", x, net.weight([2, 3], np.int64))
    net.step = step
    return dense(net, x, 8)


def dense(
    net: QuantizedNet, x: str, inputs: int, outputs: int = 10, form: str = "gemm", **options: Any
) -> str:
    """Add a dense layer as `gemm`, `gemm_transposed`, `matmul`, or `matmul_add`."""
    step = net.step
    shape, axis = ((outputs, inputs), 0) if form == "gemm_transposed" else ((inputs, outputs), 1)
    chosen = {"scale": 0.03 / inputs**0.5, "per_channel": axis, **options}
    integers = net.integers(*shape, **chosen)
    if form.startswith("gemm"):
        bias = net.bias(integers, outputs, step)
        assert bias is not None
        return net.node("Gemm", x, integers, bias, transB=int(form == "gemm_transposed"))
    x = net.node("MatMul", x, integers)
    if form == "matmul":
        return x
    bias = net.bias(integers, outputs, step)
    assert bias is not None
    return net.node("Add", x, bias)


def classifier(form: str, **options: Any) -> onnx.ModelProto:
    """Return a dense layer of a vector."""
    net = QuantizedNet((2, 24, 1, 1))
    x = dense(net, net.qdq(net.node("Flatten", "input")), 24, 10, form, **options)
    return net.finished(net.qdq(x))


def float_head() -> onnx.ModelProto:
    """Return a network that ends as float: pooling and a dense layer."""
    net = QuantizedNet()
    x = net.qdq(net.conv_of(net.qdq("input"), 8, 12))
    return net.finished(net.head(x, 12))


def float_island() -> onnx.ModelProto:
    """Return a network whose middle layer is float."""
    net = QuantizedNet()
    x = net.qdq(net.conv_of(net.qdq("input"), 8, 12))
    x = net.qdq(net.conv(x, 12, 12))
    return net.finished(net.qdq(net.conv_of(x, 12, 8)))


def shared() -> onnx.ModelProto:
    """Return a value that two layers read, and a sum of both."""

    def body(net: QuantizedNet, x: str) -> str:
        x = net.qdq(net.conv_of(x, 8, 8), 0.06, 100)
        step = net.step
        left = net.qdq(net.conv_of(x, 8, 8, 3, group=8), 0.05, 120)
        net.step = step
        return net.node("Add", left, net.qdq(net.conv_of(x, 8, 8), 0.04, 110))

    return between(body)


def quantized_twice() -> onnx.ModelProto:
    """Return a layer whose result is quantised with two scales."""
    net = QuantizedNet()
    x = net.conv_of(net.qdq("input"), 8, 12)
    return net.finished(net.qdq(x, 0.06, 100), net.qdq(x, 0.03, 128))


def output_of(byte: type) -> onnx.ModelProto:
    """Return a network whose output is quantised."""
    net = QuantizedNet(byte=byte)
    return net.finished(net.quantize(net.conv_of(net.qdq("input"), 8, 12), 0.06, 100)[0])


def mixed() -> onnx.ModelProto:
    """Return a network with layers of unsigned and of signed activations."""
    net = QuantizedNet()
    x = net.qdq(net.conv_of(net.qdq("input"), 8, 12), 0.06, 100, np.int8)
    return net.finished(net.qdq(net.conv_of(x, 12, 8, 3, group=4), 0.06, 100, np.uint8))


#: Models by name.
FORMS: dict[str, Callable[[], onnx.ModelProto]] = {
    "uint8": conv,
    "int8": lambda: conv(np.int8),
    "unsigned_and_signed": mixed,
    "scalars_as_vectors": lambda: conv(vectors=True),
    "power_of_two_scales": lambda: conv(np.int8, result=(2.0**-4, 128)),
    "zero_point_left_out": lambda: conv(result=(0.06, None)),
    "weights_per_tensor": lambda: weights(per_channel=None),
    "weights_unsigned": lambda: weights(per_channel=None, byte=np.uint8, zero=117),
    "weights_unsigned_per_channel": lambda: weights(byte=np.uint8, zero=131),
    "weights_without_zero_point": lambda: weights(zero=None),
    **{f"bias_{kind}": lambda kind=kind: conv(bias=kind) for kind in ("other", "float", "none")},
    "relu": lambda: absorbed(lambda net, x: net.node("Relu", x)),
    "relu_above_zero_point": lambda: absorbed(lambda net, x: net.node("Relu", x), 60),
    "relu6": lambda: absorbed(lambda net, x: net.relu6(x)),
    "relu6_below_scale": lambda: absorbed(
        lambda net, x: net.node("Clip", x, net.weight(-0.5), net.weight(1.7)), 60
    ),
    "relu6_of_tensorflow": lambda: absorbed(lambda net, x: net.relu6(x, "relu_min")),
    "function_before_quantization": lambda: absorbed(lambda net, x: net.node("HardSwish", x), 20),
    "tiny_scale": lambda: conv(result=(1e-9, 77)),
    "huge_scale": lambda: conv(result=(1e9, 77)),
    "stem": stem,
    "stem_int8": lambda: stem(byte=np.int8),
    "image_uint8": lambda: stem(TensorProto.UINT8),
    "image_int8": lambda: stem(TensorProto.INT8),
    "stem_and_float": lambda: stem_and_float("Exp"),
    "depthwise": window,
    "depthwise_5x5_stride_2": lambda: window(5, strides=[2, 2]),
    "depthwise_batch": lambda: window(shape=(2, 24, 5, 4)),
    "depthwise_uneven": lambda: window(pads=[0, 0, 1, 1], strides=[2, 2]),
    "depthwise_dilated": lambda: window(dilations=[2, 2], pads=[2] * 4),
    "grouped": lambda: window(group=4),
    "grouped_unsigned_weights": lambda: window(
        group=4, weights={"per_channel": None, "byte": np.uint8, "zero": 120}
    ),
    "dense_window": lambda: window(group=1, channels=(32, 24)),
    "pointwise_stride_2": lambda: window(1, 1, strides=[2, 2]),
    "padded_bytes": lambda: padded_bytes([1, 1, 1, 1]),
    "padded_bytes_uneven": lambda: padded_bytes([0, 0, 1, 1], strides=[2, 2]),
    "pad_zero": lambda: between(pad(0.0), shape=(1, 8, 8, 8)),
    "pad_step": lambda: between(pad(0.5), shape=(1, 8, 8, 8)),
    "pad_between_steps": lambda: between(pad(0.333), shape=(1, 8, 8, 8)),
    "add": lambda: two("Add"),
    "add_int8": lambda: two("Add", byte=np.int8),
    "add_relu": lambda: two("Add", relu=True),
    "add_input": residual,
    "add_input_relu": lambda: residual(relu=True),
    "add_itself": lambda: between(lambda net, x: net.node("Add", x, x)),
    "multiply": lambda: two("Mul"),
    "gates": lambda: between(gates),
    "concat": lambda: concat(0.06, 0.04),
    "concat_one_scale": lambda: concat(0.05, 0.05),
    "max_pool": lambda: pool("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
    "average_pool": lambda: pool("AveragePool", kernel_shape=[2, 2], strides=[2, 2]),
    "average_pool_of_all": lambda: pool("AveragePool", kernel_shape=[7, 7]),
    "global_average_pool": lambda: pool("GlobalAveragePool"),
    "reduce_mean": lambda: pool("ReduceMean", axes=[2, 3], keepdims=1),
    "reduce_mean_flat": lambda: pool("ReduceMean", axes=[2, 3], keepdims=0),
    "resize_nearest": lambda: between(resized),
    "moves": lambda: between(moved),
    "squeeze": lambda: between(squeezed),
    "hard_swish": lambda: activation(lambda net, x: net.hard_swish(x)),
    "hard_swish_by_hard_sigmoid": lambda: activation(
        lambda net, x: net.hard_swish(x, "hard_sigmoid")
    ),
    "hard_swish_of_tensorflow": lambda: activation(lambda net, x: net.hard_swish(x, "relu6_mul")),
    "hard_sigmoid": lambda: activation(
        lambda net, x: net.node("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    ),
    "sigmoid": lambda: activation(lambda net, x: net.node("Sigmoid", x)),
    "silu": lambda: activation(silu),
    "leaky_relu": lambda: activation(lambda net, x: net.node("LeakyRelu", x, alpha=0.2)),
    "tanh": lambda: activation(lambda net, x: net.node("Tanh", x)),
    "elu": lambda: activation(lambda net, x: net.node("Elu", x)),
    "softplus": lambda: activation(lambda net, x: net.node("Softplus", x)),
    "requantized": lambda: between(lambda _, x: x),
    "shared": shared,
    "quantized_twice": quantized_twice,
    "float_head": float_head,
    "float_island": float_island,
    "output_uint8": lambda: output_of(np.uint8),
    "output_int8": lambda: output_of(np.int8),
    **{
        form: lambda form=form: classifier(form)
        for form in ("gemm", "gemm_transposed", "matmul", "matmul_add")
    },
    "gemm_axis_left_out": lambda: classifier("gemm", axis=False),
    "matmul_per_tensor": lambda: classifier("matmul", per_channel=None),
}
