"""How each quantised operator is replaced."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from mobilenet_tvm.compile.frontend.expansion import Expansion, Parameters

MICROSOFT = "com.microsoft"

Rule = Callable[[Expansion], None]


def _conv(node: Expansion) -> None:
    last = bool(node.attributes.get("channels_last", 0))
    data, weight = node.parameters(1, 2), node.parameters(4, 5, axis=0)
    rank = _rank(node, 3) if last else 0
    x = node.to_nchw(node.input(0), rank) if last else node.input(0)
    inputs = [
        node.dequantize("x", x, data),
        node.dequantize("w", node.input(3), weight),
        node.bias(8, data, weight),
    ]
    window = node.chosen("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    y = node.compute("Conv", list(filter(None, inputs)), **window)
    node.quantize(y, 6, channels_last=last, rank=rank)


def _matmul(node: Expansion) -> None:
    a = node.dequantized("a", 0)
    b = node.dequantize("b", node.input(3), node.parameters(4, 5, axis=_columns(node, 3)))
    node.quantize(node.compute("MatMul", [a, b]), 6)


def _gemm(node: Expansion) -> None:
    alpha = float(node.attributes.get("alpha", 1.0))
    transposed = bool(node.attributes.get("transB", 0))
    data, weight = node.parameters(1, 2), node.parameters(4, 5, axis=0 if transposed else 1)
    inputs = [
        node.dequantize("a", node.input(0), data),
        node.dequantize("b", node.input(3), weight),
        node.bias(6, data, weight, alpha),
    ]
    if inputs[2] is None and node.graph.opset < 11:
        # Gemm demands a bias.
        node.needs_opset_13()
    attributes = node.chosen("alpha", "transA", "transB")
    output = "" if node.optional(7) else node.node.output[0]
    y = node.compute("Gemm", list(filter(None, inputs)), output, **attributes)
    if node.optional(7):
        node.input(8)
        node.quantize(y, 7)


def _matmul_to_float(node: Expansion) -> None:
    a = node.dequantize("a", node.input(0), node.parameters(2, 4))
    weight = node.parameters(3, 5, axis=_columns(node, 1))
    _float_matmul(node, a, node.dequantize("b", node.input(1), weight), node.optional(6))


def _dynamic_matmul(node: Expansion) -> None:
    if node.graph.opset < 11:
        raise node.refuse(f"opset {node.graph.opset} has no DynamicQuantizeLinear; 11 has it")
    name = f"{node.name}_quantize_a"
    parts = [node.graph.unique(f"{name}_{part}") for part in ("y", "scale", "zero_point")]
    quantize = onnx.helper.make_node("DynamicQuantizeLinear", [node.input(0)], parts, name)
    node.graph.nodes.append(quantize)
    a = node.dequantize("a", parts[0], Parameters(parts[1], parts[2], None))
    weight = node.parameters(2, 3, axis=_columns(node, 1))
    _float_matmul(node, a, node.dequantize("b", node.input(1), weight), node.optional(4))


def _float_matmul(node: Expansion, a: str, b: str, bias: str) -> None:
    output = node.node.output[0]
    if not bias:
        node.compute("MatMul", [a, b], output)
    else:
        y = node.compute("MatMul", [a, b])
        node.graph.add("Add", [y, bias], f"{node.name}_bias", output)


def _elementwise(op: str, roles: str, *attributes: str) -> Rule:
    """Return the rule of an operator whose inputs, one letter each, have one scale each."""

    def expand(node: Expansion) -> None:
        inputs = [node.dequantized(role, 3 * place) for place, role in enumerate(roles)]
        node.quantize(node.compute(op, inputs, **node.chosen(*attributes)), 3 * len(roles))

    return expand


def _pool(op: str, *attributes: str) -> Rule:
    """Return the rule of a pooling operator, whose attribute `channels_last` may be set."""

    def expand(node: Expansion) -> None:
        last = bool(node.attributes.get("channels_last", 0))
        # Global pooling has no window that would tell the number of axes; images have four.
        rank = 2 + len(node.attributes.get("kernel_shape", (1, 1)))
        x = node.to_nchw(node.input(0), rank) if last else node.input(0)
        pooled = node.compute(
            op, [node.dequantize("x", x, node.parameters(1, 2))], **node.chosen(*attributes)
        )
        node.quantize(pooled, 3, channels_last=last, rank=rank)

    return expand


def _mean(node: Expansion) -> None:
    x, chosen = node.dequantized("x", 0), node.chosen("axes", "keepdims")
    inputs = [x]
    if node.graph.opset >= 18 and "axes" in chosen:
        axes = np.array(chosen.pop("axes"), np.int64)
        inputs.append(node.graph.constant(axes, f"{node.name}_axes"))
    node.quantize(node.compute("ReduceMean", inputs, **chosen), 3)


def _softmax(node: Expansion) -> None:
    x, axis = node.dequantized("x", 0), int(node.attributes.get("axis", -1))
    flat = int(node.attributes.get("opset", 13)) < 13
    if axis == -1 or flat == (node.graph.opset < 13):
        node.quantize(node.compute("Softmax", [x], axis=axis), 3)
        return
    if not flat:
        raise node.refuse(f"opset 13's meaning of axis {axis} in opset {node.graph.opset}")
    # Up to opset 12, Softmax works on a matrix: the axes before the given one, and the others.
    parts = {part: f"{node.name}_{part}" for part in ("shape", "flatten", "reshape")}
    names = {part: node.graph.unique(name) for part, name in parts.items()}
    node.graph.add("Shape", [x], parts["shape"], names["shape"])
    node.graph.add("Flatten", [x], parts["flatten"], names["flatten"], axis=axis)
    y = node.compute("Softmax", [names["flatten"]], axis=-1)
    node.graph.add("Reshape", [y, names["shape"]], parts["reshape"], names["reshape"])
    node.quantize(names["reshape"], 3)


def _concat(node: Expansion) -> None:
    places = range(2, len(node.node.input), 3)
    inputs = [node.dequantized(f"x{number}", place) for number, place in enumerate(places)]
    node.quantize(node.compute("Concat", inputs, **node.chosen("axis")), 0)


def _where(node: Expansion) -> None:
    inputs = [node.input(0), node.dequantized("x", 1), node.dequantized("y", 4)]
    node.quantize(node.compute("Where", inputs), 7)


def _standard(op: str) -> Rule:
    """Return the rule of com.microsoft's form of a standard operator."""

    def expand(node: Expansion) -> None:
        node.convert(op, node.parameters(1, 2, axis=node.attributes.get("axis")))

    return expand


def _rank(node: Expansion, place: int) -> int:
    """Return the number of axes of an input that must be a constant."""
    array = node.graph.array(node.input(place))
    if array is None:
        raise node.refuse("a weight that is computed at run time")
    return array.ndim


def _columns(node: Expansion, place: int) -> int | None:
    """Return the axis of a matrix's columns, or None if it is not a constant."""
    array = node.graph.array(node.input(place))
    return None if array is None else array.ndim - 1


#: How each operator is replaced, by domain and name.
RULES: dict[tuple[str, str], Rule] = {
    ("", "QLinearConv"): _conv,
    ("", "QLinearMatMul"): _matmul,
    **{
        (MICROSOFT, name): rule
        for name, rule in {
            "DequantizeLinear": _standard("DequantizeLinear"),
            "DynamicQuantizeMatMul": _dynamic_matmul,
            "MatMulIntegerToFloat": _matmul_to_float,
            "QGemm": _gemm,
            "QLinearAdd": _elementwise("Add", "ab"),
            "QLinearAveragePool": _pool(
                "AveragePool", "auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads",
                "strides",
            ),
            "QLinearConcat": _concat,
            "QLinearConv": _conv,
            "QLinearGlobalAveragePool": _pool("GlobalAveragePool"),
            "QLinearLeakyRelu": _elementwise("LeakyRelu", "x", "alpha"),
            "QLinearMul": _elementwise("Mul", "ab"),
            "QLinearReduceMean": _mean,
            "QLinearSigmoid": _elementwise("Sigmoid", "x"),
            "QLinearSoftmax": _softmax,
            "QLinearWhere": _where,
            "QuantizeLinear": _standard("QuantizeLinear"),
        }.items()
    },
}  # fmt: skip
