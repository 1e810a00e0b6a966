"""Small ONNX models, built by hand, that hold one unusual thing each.

Real exports are under data/exports; these are the forms that are rare, out of date, hostile
or broken. Each function returns a valid model unless its docstring says otherwise, and each
is seeded: the same call returns the same model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str]


class Net:
    """Builds an ONNX graph node by node; every method returns the name of a value.

    Parameters
    ----------
    shape : sequence of int or str
        The input's shape; a string is the name of a dimension that stays open.
    dtype : int
        The input's element type, a value of ``onnx.TensorProto.DataType``.
    seed : int
        Seed of the weights.
    """

    def __init__(self, shape: Shape, dtype: int = TensorProto.FLOAT, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.inputs = [helper.make_tensor_value_info("input", dtype, shape)]
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Add a node and return the name of its first output."""
        index = len(self.nodes)
        names = [f"{op.lower()}_{index}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, f"{op}_{index}", **attributes))
        return names[0]

    def weight(self, values: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """Add an initialiser and return its name."""
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def normal(self, *shape: int, scale: float = 1.0) -> str:
        """Add an initialiser of normally distributed numbers and return its name."""
        return self.weight(self.rng.normal(scale=scale, size=shape))

    def conv(
        self,
        x: str,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        group: int = 1,
        bias: bool = True,
        **attributes: Any,
    ) -> str:
        """Add a convolution with He's initial weights, so that no layer's output fades."""
        fan_in = inputs // group * kernel * kernel
        names = [
            x,
            self.normal(outputs, inputs // group, kernel, kernel, scale=(2 / fan_in) ** 0.5),
        ]
        if bias:
            names.append(self.normal(outputs, scale=0.1))
        if kernel > 1 and not {"pads", "auto_pad"} & set(attributes):
            attributes["pads"] = [kernel // 2] * 4
        return self.node("Conv", *names, group=group, **attributes)

    def relu6(self, x: str, form: str = "clip") -> str:
        """Add ReLU6 in one of the forms that exporters write it in.

        ``clip`` (bounds as inputs), ``clip_attributes`` (below opset 11), ``clip_vectors``
        (bounds of shape [1]), ``relu_clip_max`` (a ReLU, then a Clip without a lower bound),
        ``relu_min`` (TensorFlow 1), ``max_min`` or ``min_max``.
        """
        if form == "clip_attributes":
            return self.node("Clip", x, min=0.0, max=6.0)
        zero, six = self.weight(0), self.weight(6)
        if form == "clip_vectors":
            zero, six = self.weight([0]), self.weight([6])
        if form in ("clip", "clip_vectors"):
            return self.node("Clip", x, zero, six)
        if form == "relu_clip_max":
            return self.node("Clip", self.node("Relu", x), "", six)
        if form == "relu_min":
            return self.node("Min", self.node("Relu", x), six)
        if form == "max_min":
            return self.node("Min", self.node("Max", x, zero), six)
        if form == "min_max":
            return self.node("Max", zero, self.node("Min", six, x))
        raise ValueError(form)

    def hard_swish(self, x: str, form: str = "operator") -> str:
        """Add hard-swish in one of the forms that exporters write it in.

        ``operator`` (opset 14), ``hard_sigmoid`` (PyTorch below opset 14), ``relu6_div`` or
        ``relu6_mul`` (TensorFlow).
        """
        if form == "operator":
            return self.node("HardSwish", x)
        if form == "hard_sigmoid":
            return self.node("Mul", x, self.node("HardSigmoid", x, alpha=1 / 6, beta=0.5))
        clipped = self.relu6(self.node("Add", x, self.weight(3)))
        if form == "relu6_div":
            return self.node("Div", self.node("Mul", x, clipped), self.weight(6))
        if form == "relu6_mul":
            return self.node("Mul", self.node("Mul", clipped, self.weight(1 / 6)), x)
        raise ValueError(form)

    def batch_norm(self, x: str, channels: int, **attributes: Any) -> str:
        """Add a batch norm with statistics that are far from 0 and 1."""
        factors = self.weight(self.rng.uniform(0.5, 1.5, channels))
        offsets, means = self.normal(channels), self.normal(channels, scale=0.5)
        variances = self.weight(self.rng.uniform(0.5, 2, channels))
        return self.node("BatchNormalization", x, factors, offsets, means, variances, **attributes)

    def head(self, x: str, channels: int, classes: int = 10) -> str:
        """Add global pooling, Flatten and one dense layer."""
        flat = self.node("Flatten", self.node("GlobalAveragePool", x))
        return self.dense(flat, channels, classes)

    def dense(self, x: str, inputs: int, outputs: int = 10) -> str:
        """Add a dense layer with a bias."""
        return self.node("Gemm", x, self.normal(inputs, outputs), self.normal(outputs, scale=0.1))

    def model(
        self,
        *outputs: str,
        shapes: Sequence[Shape] = ((1, 10),),
        dtype: int = TensorProto.FLOAT,
        opset: int = 17,
        domains: Sequence[str] = (),
        **graph: Any,
    ) -> onnx.ModelProto:
        """Return the model; ``domains`` names further operator sets that it imports."""
        values = [
            helper.make_tensor_value_info(name, dtype, shape)
            for name, shape in zip(outputs, shapes, strict=True)
        ]
        imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
        made = helper.make_graph(self.nodes, "odd", self.inputs, values, self.weights, **graph)
        return helper.make_model(made, opset_imports=imports, ir_version=8)


def feeds(model: onnx.ModelProto, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Return seeded inputs for a model; open dimensions become 1.

    Floats have structure along every axis beside the noise: after global pooling, white noise
    looks like any other white noise, and an error in a layer would not show.
    """
    rng = np.random.default_rng(seed)
    weights = {weight.name for weight in model.graph.initializer}
    made = {}
    for value in model.graph.input:
        if value.name in weights:
            continue
        tensor = value.type.tensor_type
        shape = [dim.dim_value or 1 for dim in tensor.shape.dim]
        values = rng.normal(size=shape)
        for axis, size in enumerate(shape):
            values += rng.normal(size=[size if i == axis else 1 for i in range(len(shape))])
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if np.issubdtype(dtype, np.unsignedinteger):
            values = np.clip(64 * values + 128, 0, 255)
        made[value.name] = values.astype(dtype)
    return made


# Ordinary operators in unusual shapes -----------------------------------------------------


def tiny_v2(
    *,
    batch: int | str = 1,
    resolution: int = 32,
    widths: Sequence[int] = (8, 16, 24),
    kernel: int = 3,
    expand: int = 3,
    classes: int = 10,
) -> onnx.ModelProto:
    """Return a MobileNetV2 with one stride-2 and one residual block for each width."""
    net = Net((batch, 3, resolution, resolution))
    x = net.relu6(net.conv("input", 3, widths[0], 3, strides=[2, 2]))
    channels = widths[0]
    for width in widths:
        for stride in (2, 1):
            hidden = channels * expand
            y = net.relu6(net.conv(x, channels, hidden))
            y = net.conv(y, hidden, hidden, kernel, group=hidden, strides=[stride, stride])
            y = net.conv(net.relu6(y), hidden, width)
            x = net.node("Add", x, y) if stride == 1 else y
            channels = width
    return net.model(net.head(x, channels, classes), shapes=[(batch, classes)])


def relu6(form: str) -> onnx.ModelProto:
    """Return convolutions around ReLU6 in a form that ``Net.relu6`` names."""
    net = Net((1, 3, 16, 16))
    x = net.relu6(net.conv("input", 3, 8, 3, strides=[2, 2]), form)
    x = net.relu6(net.conv(x, 8, 8, 3, group=8), form)
    opset = 10 if form == "clip_attributes" else 13
    return net.model(net.head(net.conv(x, 8, 16), 16), opset=opset)


def clip(low: float | None, high: float | None) -> onnx.ModelProto:
    """Return a convolution and a Clip with these bounds, which are not ReLU6's."""
    net = Net((1, 3, 16, 16))
    x = net.conv("input", 3, 8, 3)
    bounds = ["" if bound is None else net.weight(bound) for bound in (low, high)]
    return net.model(net.head(net.node("Clip", x, *bounds), 8))


def computed_clip() -> onnx.ModelProto:
    """Return a convolution and a Clip whose upper bound depends on the input."""
    net = Net((1, 3, 16, 16))
    bound = net.node("ReduceMax", net.node("Abs", "input"), keepdims=0)
    half = net.node("Mul", bound, net.weight(0.1))
    x = net.node("Clip", net.conv("input", 3, 8, 3), net.weight(0), half)
    return net.model(net.head(x, 8))


def hard_swish(form: str) -> onnx.ModelProto:
    """Return convolutions around hard-swish in a form that ``Net.hard_swish`` names."""
    net = Net((1, 3, 16, 16))
    x = net.hard_swish(net.conv("input", 3, 8, 3, strides=[2, 2]), form)
    x = net.hard_swish(net.conv(x, 8, 8, 5, group=8), form)
    return net.model(net.head(net.conv(x, 8, 16), 16), opset=14)


def squeeze_excitation(form: str) -> onnx.ModelProto:
    """Return a squeeze-and-excitation block.

    ``conv`` has 1x1 convolutions, ``dense`` has Gemm between Flatten and Reshape, ``sigmoid``
    a true sigmoid, ``swapped`` the scale as Mul's first operand.
    """
    net = Net((1, 3, 16, 16))
    x = net.node("Relu", net.conv("input", 3, 16, 3))
    pooled = net.node("GlobalAveragePool", x)
    if form == "dense":
        squeezed = net.node("Relu", net.dense(net.node("Flatten", pooled), 16, 8))
        scale = net.node("HardSigmoid", net.dense(squeezed, 8, 16), alpha=1 / 6)
        scale = net.node("Reshape", scale, net.weight([-1, 16, 1, 1], np.int64))
    else:
        scale = net.conv(net.node("Relu", net.conv(pooled, 16, 8)), 8, 16)
        scale = net.node("Sigmoid", scale) if form == "sigmoid" else net.node("HardSigmoid", scale)
    operands = (scale, x) if form == "swapped" else (x, scale)
    return net.model(net.head(net.conv(net.node("Mul", *operands), 16, 8), 8))


def head(form: str) -> onnx.ModelProto:
    """Return a network that ends in one of the forms that exporters write a head in.

    ``flatten``, ``flatten_axis_minus_3``, ``reshape``, ``reshape_zero`` (0 keeps the batch),
    ``shape_gather`` (the batch read at run time), ``squeeze`` (axes as input),
    ``squeeze_attribute``, ``squeeze_all``, ``reduce_mean``, ``average_pool`` (a window of the
    whole map), ``conv`` (the classifier as a 1x1 convolution), ``matmul`` (and Add), ``gemm``
    (transposed weights, alpha and beta), ``softmax`` or ``softmax_12`` (opset 12's meaning).
    """
    net = Net(("N", 3, 16, 16))
    x = net.node("Relu", net.conv("input", 3, 8, 3, strides=[2, 2]))
    opset = {"softmax_12": 12, "squeeze_attribute": 12}.get(form, 13)
    if form == "reduce_mean":
        flat = net.node("ReduceMean", x, axes=[2, 3], keepdims=0)
        return net.model(net.dense(flat, 8), shapes=[("N", 10)], opset=opset)
    if form == "average_pool":
        pooled = net.node("AveragePool", x, kernel_shape=[8, 8])
    else:
        pooled = net.node("GlobalAveragePool", x)
    if form == "conv":
        x = net.node("Flatten", net.conv(pooled, 8, 10))
        return net.model(x, shapes=[("N", 10)], opset=opset)
    if form == "reshape":
        flat = net.node("Reshape", pooled, net.weight([-1, 8], np.int64))
    elif form == "reshape_zero":
        flat = net.node("Reshape", pooled, net.weight([0, -1], np.int64))
    elif form == "shape_gather":
        batch = net.node("Gather", net.node("Shape", pooled), net.weight(0, np.int64), axis=0)
        batch = net.node("Unsqueeze", batch, net.weight([0], np.int64))
        target = net.node("Concat", batch, net.weight([-1], np.int64), axis=0)
        flat = net.node("Reshape", pooled, target)
    elif form == "squeeze":
        flat = net.node("Squeeze", pooled, net.weight([2, 3], np.int64))
    elif form == "squeeze_attribute":
        flat = net.node("Squeeze", pooled, axes=[2, 3])
    elif form == "flatten_axis_minus_3":
        flat = net.node("Flatten", pooled, axis=-3)
    else:
        flat = net.node("Flatten", pooled)
    if form == "matmul":
        x = net.node("Add", net.node("MatMul", flat, net.normal(8, 10)), net.normal(10))
    elif form == "gemm":
        x = net.node("Gemm", flat, net.normal(10, 8), net.normal(10), alpha=0.5, beta=2.0, transB=1)
    else:
        x = net.dense(flat, 8)
    if form.startswith("softmax"):
        x = net.node("Softmax", x)
    return net.model(x, shapes=[("N", 10)], opset=opset)


def auto_pad(
    mode: str, *, resolution: int = 17, kernel: int = 3, stride: int = 2, dilation: int = 1
) -> onnx.ModelProto:
    """Return full and depthwise convolutions with ``auto_pad`` instead of pads."""
    net = Net((1, 3, resolution, resolution))
    window: dict[str, Any] = {
        "strides": [stride] * 2,
        "dilations": [dilation] * 2,
        "auto_pad": mode,
    }
    x = net.node("Relu", net.conv("input", 3, 8, kernel, **window))
    x = net.node("Relu", net.conv(x, 8, 8, kernel, group=8, **window))
    # A flat output shows a shift by one pixel, which an average over the map would not.
    return net.model(net.node("Flatten", x), shapes=[(1, "P")])


def uneven_pads(pads: Sequence[int] = (0, 0, 1, 1)) -> onnx.ModelProto:
    """Return stride-2 convolutions whose pads differ from side to side."""
    net = Net((1, 3, 16, 16))
    x = net.node("Relu", net.conv("input", 3, 8, 3, strides=[2, 2], pads=pads))
    x = net.node("Relu", net.conv(x, 8, 8, 3, group=8, strides=[2, 2], pads=pads))
    return net.model(net.node("Flatten", x), shapes=[(1, "P")])


def pad_before_conv(mode: str = "constant", value: float = 0.0) -> onnx.ModelProto:
    """Return a Pad before depthwise convolutions; only mode constant, value 0 may be merged."""
    net = Net((1, 8, 16, 16))
    pads = net.weight([0, 0, 0, 0, 0, 0, 1, 1], np.int64)
    x = net.node("Pad", "input", pads, net.weight(value), mode=mode)
    x = net.conv(x, 8, 8, 3, group=8, strides=[2, 2], pads=[0, 0, 0, 0])
    return net.model(net.node("Flatten", x), shapes=[(1, "P")])


def tensorflow_v1(batch: int | str = "unk__6") -> onnx.ModelProto:
    """Return TensorFlow 1's MobileNetV1 as tf2onnx wrote it: NHWC, Pad, Mul and Add, Min.

    Weights are transposed at run time, depthwise weights are reshaped too, batch norm is Mul
    and Add, ReLU6 is Relu and Min, pooling is ReduceMean, the classifier is a convolution.
    """
    net = Net((batch, 33, 33, 3))
    x = net.node("Transpose", "input", perm=[0, 3, 1, 2])
    zeros = net.weight([0, 0, 0, 0, 0, 0, 1, 1], np.int64)
    channels = 3
    for width, stride, depthwise in [(8, 2, False), (8, 1, True), (16, 1, False), (16, 2, True)]:
        group = channels if depthwise else 1
        kernel = 3 if depthwise or channels == 3 else 1
        weight = net.normal(kernel, kernel, channels // group, width, scale=1 / kernel)
        weight = net.node("Transpose", weight, perm=[3, 2, 0, 1])
        if stride == 2:
            x = net.node("Pad", x, zeros)
            pads = [0, 0, 0, 0]
        else:
            pads = [kernel // 2] * 4
        x = net.node("Conv", x, weight, group=group, pads=pads, strides=[stride] * 2)
        x = net.node("Mul", x, net.weight(net.rng.uniform(0.5, 1.5, (1, width, 1, 1))))
        x = net.node("Add", x, net.normal(1, width, 1, 1))
        x = net.relu6(x, "relu_min")
        channels = width
    x = net.conv(net.node("ReduceMean", x, axes=[2, 3], keepdims=1), channels, 10)
    x = net.node("Transpose", x, perm=[0, 2, 3, 1])
    x = net.node("Squeeze", x, net.weight([1, 2], np.int64))
    x = net.node("Softmax", net.node("Reshape", x, net.weight([-1, 10], np.int64)), axis=1)
    return net.model(x, shapes=[(batch, 10)], opset=13)


def channel_multiplier(multiplier: int = 2, group: int = 8) -> onnx.ModelProto:
    """Return a grouped convolution that makes ``multiplier`` channels of each of 8."""
    net = Net((1, 3, 16, 16))
    x = net.node("Relu", net.conv("input", 3, 8, 3))
    x = net.relu6(net.conv(x, 8, 8 * multiplier, 3, group=group))
    return net.model(net.head(net.conv(x, 8 * multiplier, 8), 8))


def batch_norm_apart(form: str) -> onnx.ModelProto:
    """Return a batch norm that must not, or not simply, be folded into a convolution.

    ``shared_conv`` (the convolution's output is used twice), ``shared_weight`` (two
    convolutions with one weight), ``after_add``, ``after_relu``, ``first`` (no convolution
    before it), ``before_padded_conv`` (padding comes between), ``after_dense``.
    """
    net = Net((1, 3, 16, 16))
    if form == "first":
        return net.model(net.head(net.conv(net.batch_norm("input", 3), 3, 8, 3), 8))
    x = net.conv("input", 3, 8, 3, bias=False)
    if form == "shared_conv":
        x = net.node("Add", net.batch_norm(x, 8), x)
    elif form == "shared_weight":
        weight = net.normal(8, 8, 1, 1, scale=0.4)
        left = net.batch_norm(net.node("Conv", x, weight), 8)
        right = net.batch_norm(net.node("Conv", net.node("Relu", x), weight), 8)
        x = net.node("Add", left, right)
    elif form == "after_add":
        x = net.batch_norm(net.node("Add", x, net.conv("input", 3, 8)), 8)
    elif form == "after_relu":
        x = net.batch_norm(net.node("Relu", x), 8)
    elif form == "before_padded_conv":
        x = net.conv(net.batch_norm(net.node("Relu", x), 8), 8, 8, 3, group=8)
    elif form == "after_dense":
        return net.model(net.batch_norm(net.head(x, 8), 10))
    return net.model(net.head(x, 8))


def training_batch_norm(opset: int = 15) -> onnx.ModelProto:
    """Return a batch norm in training mode: it normalises by the batch's own statistics.

    Below opset 14 no attribute says so, but the number of outputs, which is five.
    """
    net = Net((2, 3, 16, 16))
    x = net.conv("input", 3, 8, 3, bias=False)
    mode: dict[str, int] = {"outputs": 5} if opset < 14 else {"outputs": 3, "training_mode": 1}
    return net.model(net.head(net.batch_norm(x, 8, **mode), 8), shapes=[(2, 10)], opset=opset)


def half_weights() -> onnx.ModelProto:
    """Return a float32 network whose weights are stored in half precision, behind Casts."""
    model = tiny_v2()
    for index, weight in enumerate(list(model.graph.initializer)):
        values = numpy_helper.to_array(weight)
        if values.ndim < 2:
            continue
        stored = numpy_helper.from_array(values.astype(np.float16), f"{weight.name}_half")
        cast = helper.make_node("Cast", [stored.name], [weight.name], to=TensorProto.FLOAT)
        model.graph.initializer[index].CopyFrom(stored)
        model.graph.node.insert(0, cast)
    return model


def half() -> onnx.ModelProto:
    """Return a network that computes in half precision throughout."""
    net = Net((1, 3, 16, 16), TensorProto.FLOAT16)
    x = net.node("Relu", net.conv("input", 3, 8, 3, strides=[2, 2]))
    x = net.node("Relu", net.conv(x, 8, 8, 3, group=8))
    model = net.model(net.head(net.conv(x, 8, 16), 16), dtype=TensorProto.FLOAT16)
    for index, weight in enumerate(model.graph.initializer):
        stored = numpy_helper.to_array(weight).astype(np.float16)
        model.graph.initializer[index].CopyFrom(numpy_helper.from_array(stored, weight.name))
    return model


def pixels() -> onnx.ModelProto:
    """Return a network with its preprocessing inside: uint8 NHWC pixels, mean and deviation."""
    net = Net((1, 16, 16, 3), TensorProto.UINT8)
    x = net.node("Cast", "input", to=TensorProto.FLOAT)
    x = net.node("Sub", x, net.weight([123.7, 116.3, 103.5]))
    x = net.node("Div", x, net.weight([58.4, 57.1, 57.4]))
    x = net.node("Transpose", x, perm=[0, 3, 1, 2])
    x = net.relu6(net.conv(x, 3, 8, 3, strides=[2, 2]))
    return net.model(net.head(x, 8))


# Graphs of unusual form -------------------------------------------------------------------


def two_outputs() -> onnx.ModelProto:
    """Return a network that gives its last feature map beside the logits."""
    net = Net((1, 3, 16, 16))
    x = net.relu6(net.conv("input", 3, 8, 3))
    return net.model(net.head(x, 8), x, shapes=[(1, 10), (1, 8, 16, 16)])


def two_inputs() -> onnx.ModelProto:
    """Return a network of an image and a vector, joined before the last layer."""
    net = Net((1, 3, 16, 16))
    net.inputs.append(helper.make_tensor_value_info("age", TensorProto.FLOAT, (1, 4)))
    x = net.head(net.relu6(net.conv("input", 3, 8, 3)), 8, 12)
    return net.model(net.dense(net.node("Concat", x, "age", axis=1), 16))


def unused_input() -> onnx.ModelProto:
    """Return a network with a second input that nothing reads."""
    net = Net((1, 3, 16, 16))
    net.inputs.append(helper.make_tensor_value_info("unused", TensorProto.FLOAT, (1, 4)))
    return net.model(net.head(net.conv("input", 3, 8, 3), 8))


def weights_as_inputs() -> onnx.ModelProto:
    """Return a network whose weights are listed as inputs too, as IR version 3 required."""
    model = tiny_v2()
    for weight in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
        )
    return model


def constants_of_every_kind() -> onnx.ModelProto:
    """Return a network whose weights are Constant nodes with value, value_float, value_ints."""
    net = Net((1, 3, 16, 16))
    x = net.conv("input", 3, 8, 3)
    low = net.node("Constant", value_float=0.0)
    high = net.node("Constant", value=numpy_helper.from_array(np.float32(6)))
    x = net.node("GlobalAveragePool", net.node("Clip", x, low, high))
    x = net.node("Reshape", x, net.node("Constant", value_ints=[1, -1]))
    offsets = net.node("Constant", value_floats=[i / 8 for i in range(8)])
    return net.model(net.dense(net.node("Add", x, offsets), 8))


def computed_pads() -> onnx.ModelProto:
    """Return Pads whose widths are computed from constants, as PyTorch writes ``F.pad``."""
    net = Net((1, 8, 16, 16))
    ints = np.int64
    pairs = net.weight([0, 1, 0, 1], ints)
    zeros = net.node(
        "ConstantOfShape",
        net.weight([4], ints),
        value=numpy_helper.from_array(np.zeros(1, ints)),
    )
    pads = net.node("Reshape", net.node("Concat", pairs, zeros, axis=0), net.weight([-1, 2], ints))
    ends = [net.weight([value], ints) for value in (-1, np.iinfo(ints).min, 0, -1)]
    pads = net.node("Slice", pads, *ends)
    pads = net.node("Reshape", net.node("Transpose", pads, perm=[1, 0]), net.weight([-1], ints))
    x = net.node("Pad", "input", net.node("Cast", pads, to=TensorProto.INT64), net.weight(0))
    x = net.conv(x, 8, 8, 3, group=8, strides=[2, 2], pads=[0, 0, 0, 0])
    return net.model(net.node("Flatten", x), shapes=[(1, "P")])


def computed_shape() -> onnx.ModelProto:
    """Return a Reshape whose shape is computed from the input's, as for a channel shuffle."""
    net = Net((1, 8, 16, 16))
    x = net.conv("input", 8, 8, 3, group=8)
    channels = net.node("Gather", net.node("Shape", x), net.weight([1], np.int64))
    groups = net.weight([2], np.int64)
    half_of_them = net.node("Div", channels, groups)
    area = net.weight([16, 16], np.int64)
    batch = net.weight([1], np.int64)
    x = net.node("Reshape", x, net.node("Concat", batch, groups, half_of_them, area, axis=0))
    x = net.node("Transpose", x, perm=[0, 2, 1, 3, 4])
    x = net.node("Reshape", x, net.node("Concat", batch, channels, area, axis=0))
    return net.model(net.node("Flatten", net.conv(x, 8, 4)), shapes=[(1, "P")])


def no_ops() -> onnx.ModelProto:
    """Return a network strewn with Identity, Dropout and Casts to the type that is there."""
    net = Net((1, 3, 16, 16))
    x = net.node("Identity", net.conv("input", 3, 8, 3))
    x = net.node("Cast", net.node("Relu", x), to=TensorProto.FLOAT)
    x = net.node("Dropout", net.conv(x, 8, 8, 3, group=8), net.weight(0.5))
    return net.model(net.head(x, 8))


def local_function() -> onnx.ModelProto:
    """Return a network in which ReLU6 is a function of the model's own, as ONNX Script writes."""
    net = Net((1, 3, 16, 16))
    x = net.conv("input", 3, 8, 3)
    x = net.node("Relu6", x, domain="example.functions")
    model = net.model(net.head(x, 8), domains=["example.functions"])
    body = Net(())
    zero = body.node("Constant", value_float=0.0)
    six = body.node("Constant", value_float=6.0)
    clipped = body.node("Clip", "x", zero, six)
    function = helper.make_function(
        "example.functions", "Relu6", ["x"], [clipped], body.nodes, [helper.make_opsetid("", 17)]
    )
    model.functions.append(function)
    return model


def strange_names() -> onnx.ModelProto:
    """Return a network whose names are no identifiers: spaces, slashes, colons, UTF-8."""
    net = Net((1, 3, 16, 16))
    x = net.relu6(net.conv("input", 3, 8, 3))
    model = net.model(net.head(x, 8))
    odd = {
        "input": "serving_default/images:0",
        model.graph.output[0].name: "1 Größe",
    }
    for value in (*model.graph.input, *model.graph.output):
        value.name = odd[value.name]
    for index, node in enumerate(model.graph.node):
        node.name = "" if index % 2 else f"a name, {index}"
        node.input[:] = [odd.get(name, name) for name in node.input]
        node.output[:] = [odd.get(name, name) for name in node.output]
    return model


def unsorted() -> onnx.ModelProto:
    """Return an invalid model: its nodes are in reverse order (ONNX Runtime accepts it)."""
    model = tiny_v2()
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def input_as_output() -> onnx.ModelProto:
    """Return a network that hands its input through as a second output."""
    net = Net((1, 3, 16, 16))
    x = net.head(net.conv("input", 3, 8, 3), 8)
    return net.model(x, "input", shapes=[(1, 10), (1, 3, 16, 16)])


def constant_output() -> onnx.ModelProto:
    """Return a network one of whose outputs is a weight."""
    net = Net((1, 3, 16, 16))
    x = net.head(net.conv("input", 3, 8, 3), 8)
    return net.model(x, net.normal(3, 2), shapes=[(1, 10), (3, 2)])


def same_output_twice() -> onnx.ModelProto:
    """Return a network whose two outputs are one value, behind two Identity nodes."""
    net = Net((1, 3, 16, 16))
    x = net.head(net.conv("input", 3, 8, 3), 8)
    left, right = net.node("Identity", x), net.node("Identity", x)
    return net.model(left, right, shapes=[(1, 10), (1, 10)])


# What cannot be compiled, or is no MobileNet ----------------------------------------------


def custom_operator(op: str = "Twist", domain: str = "com.example") -> onnx.ModelProto:
    """Return a network with an operator of a domain that only its author's runtime knows."""
    net = Net((1, 3, 16, 16))
    x = net.node(op, net.conv("input", 3, 8, 3), domain=domain)
    return net.model(net.head(x, 8), domains=[domain])


def fused_conv() -> onnx.ModelProto:
    """Return a network that ONNX Runtime has optimised and saved: com.microsoft.FusedConv."""
    net = Net((1, 3, 16, 16))
    names = ["input", net.normal(8, 3, 3, 3, scale=0.2), net.normal(8)]
    x = net.node("FusedConv", *names, domain="com.microsoft", pads=[1] * 4, activation="Relu")
    return net.model(net.head(x, 8), domains=["com.microsoft"])


def dynamically_quantized() -> onnx.ModelProto:
    """Return a network as ONNX Runtime's ``quantize_dynamic`` writes it, with ConvInteger."""
    net = Net((1, 3, 16, 16))
    quantized = net.node("DynamicQuantizeLinear", "input", outputs=3)
    scale, zero = f"{quantized}_1", f"{quantized}_2"
    weight = net.weight(net.rng.integers(0, 256, (8, 3, 3, 3)), np.uint8)
    x = net.node(
        "ConvInteger", quantized, weight, zero, net.weight(128, np.uint8), pads=[1, 1, 1, 1]
    )
    x = net.node("Cast", x, to=TensorProto.FLOAT)
    x = net.node("Mul", x, net.node("Mul", scale, net.weight(0.01)))
    return net.model(net.head(net.node("Relu", x), 8))


def qoperators(opset: int = 17) -> onnx.ModelProto:
    """Return a network in the QOperator format, with a scale per channel of the weights."""
    net = Net((1, 3, 16, 16))

    def scales(size: int, top: float) -> str:
        return net.weight(net.rng.uniform(top / 2, top, size))

    def integers(low: int, high: int, *shape: int, dtype: npt.DTypeLike = np.int8) -> str:
        return net.weight(net.rng.integers(low, high, shape), dtype)

    def parameters(scale: float, zero: int) -> tuple[str, str]:
        return net.weight(scale), net.weight(zero, np.uint8)

    # An addition of scales in a simple ratio has ties, which ONNX Runtime rounds otherwise.
    image, first, second = parameters(0.03, 130), parameters(0.0517, 10), parameters(0.0611, 120)
    x = net.node("QuantizeLinear", "input", *image)
    weight = integers(-127, 128, 9, 3, 3, 3), scales(9, 0.004), net.weight(np.zeros(9), np.int8)
    bias = integers(-5000, 5000, 9, dtype=np.int32)
    options: dict[str, Any] = {"pads": [1] * 4, "strides": [2, 2]}
    x = net.node("QLinearConv", x, *image, *weight, *first, bias, **options)
    weight = integers(-127, 128, 9, 1, 3, 3), scales(9, 0.006), net.weight(np.zeros(9), np.int8)
    y = net.node("QLinearConv", x, *first, *weight, *second, group=9, pads=[1] * 4)
    domain = {"domain": "com.microsoft"}
    x = net.node("QLinearAdd", x, *first, y, *second, *second, **domain)
    x = net.node("QLinearGlobalAveragePool", x, *second, *second, **domain)
    x = net.node("Flatten", x)
    weight = integers(-127, 128, 9, 10), scales(10, 0.004), net.weight(np.zeros(10), np.int8)
    bias = integers(-500, 500, 10, dtype=np.int32)
    x = net.node("QGemm", x, *second, *weight, bias, **domain)
    return net.model(x, opset=opset, domains=["com.microsoft"])


def detection() -> onnx.ModelProto:
    """Return a network that ends in NonMaxSuppression: its output's length is not known."""
    net = Net((1, 3, 16, 16))
    x = net.conv("input", 3, 8, 3, strides=[2, 2])
    boxes = net.node("Reshape", net.conv(x, 8, 4), net.weight([1, -1, 4], np.int64))
    scores = net.node("Reshape", net.conv(x, 8, 1), net.weight([1, 1, -1], np.int64))
    limits = [net.weight(5, np.int64), net.weight(0.5), net.weight(0.0)]
    chosen = net.node("NonMaxSuppression", boxes, scores, *limits)
    return net.model(chosen, shapes=[("D", 3)], dtype=TensorProto.INT64)


def loop() -> onnx.ModelProto:
    """Return a network with a Loop that doubles its feature map three times."""
    net = Net((1, 3, 16, 16))
    scalar = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["map", "map"], ["doubled"]),
        ],
        "body",
        [
            scalar("index", TensorProto.INT64, ()),
            scalar("go", TensorProto.BOOL, ()),
            scalar("map", TensorProto.FLOAT, (1, 8, 16, 16)),
        ],
        [
            scalar("go_on", TensorProto.BOOL, ()),
            scalar("doubled", TensorProto.FLOAT, (1, 8, 16, 16)),
        ],
    )
    times, go = net.weight(3, np.int64), net.weight(True, np.bool_)
    x = net.node("Loop", times, go, net.conv("input", 3, 8, 3), body=body)
    return net.model(net.head(x, 8))


def condition() -> onnx.ModelProto:
    """Return a network with an If whose branch depends on the input's sum."""
    net = Net((1, 3, 16, 16))
    x = net.conv("input", 3, 8, 3)
    total = net.node("ReduceSum", "input", keepdims=0)
    bright = net.node("Greater", total, net.weight(0))
    shape = (1, 8, 16, 16)
    branches = {
        key: helper.make_graph(
            [helper.make_node(op, [x], [key])],
            key,
            [],
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape)],
        )
        for key, op in {"then_branch": "Relu", "else_branch": "Neg"}.items()
    }
    return net.model(net.head(net.node("If", bright, **branches), 8))


def perceptron() -> onnx.ModelProto:
    """Return a network of matrix products only: no image, no convolution."""
    net = Net((4, 12))
    x = net.node("Relu", net.node("MatMul", "input", net.normal(12, 16)))
    return net.model(net.node("MatMul", x, net.normal(16, 10)), shapes=[(4, 10)])


def audio() -> onnx.ModelProto:
    """Return a one-dimensional depthwise-separable network, as for spoken words."""
    net = Net((1, 4, 50))
    x = net.node("Conv", "input", net.normal(4, 1, 3), group=4, pads=[1, 1], strides=[2])
    x = net.node("Relu", net.node("Conv", x, net.normal(8, 4, 1), net.normal(8)))
    return net.model(net.head(x, 8))


def recurrent() -> onnx.ModelProto:
    """Return an LSTM, which the importer does not know."""
    net = Net((5, 1, 8))
    weights = net.normal(1, 32, 8), net.normal(1, 32, 8)
    x = net.node("LSTM", "input", *weights, hidden_size=8)
    return net.model(x, shapes=[(5, 1, 1, 8)])


def text() -> onnx.ModelProto:
    """Return a model whose input is a string."""
    net = Net((1,), TensorProto.STRING)
    return net.model(net.node("Identity", "input"), shapes=[(1,)], dtype=TensorProto.STRING)


def save_without_data(path: Path) -> None:
    """Write a model to ``path`` whose external weight file is missing."""
    data = path.with_suffix(".data")
    onnx.save(tiny_v2(), path, save_as_external_data=True, location=data.name, size_threshold=0)
    data.unlink()
