"""Rewrites quantised operators as float ones between DequantizeLinear and QuantizeLinear."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import version_converter

from mobilenet_tvm.compile.frontend.check import first_line, opset_of, unsupported
from mobilenet_tvm.compile.frontend.expansion import Expansion
from mobilenet_tvm.compile.frontend.qdq_graph import QdqGraph
from mobilenet_tvm.compile.frontend.qoperator_rules import MICROSOFT, RULES

#: The first opset with QuantizeLinear, and the first one with a scale per channel.
_QUANTIZED, _PER_CHANNEL = 10, 13


def expand_qoperators(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace the operators of the QOperator format, so that QDQ is the only quantised format.

    ONNX Runtime writes either format. Here QLinearConv, QLinearMatMul, and most of the quantised
    operators of the domain com.microsoft become DequantizeLinear, a float operator and
    QuantizeLinear. Where that needs a scale per channel, which opset 13 has brought, an older
    model is converted to opset 13. ConvInteger, MatMulInteger and DynamicQuantizeLinear stay.

    Parameters
    ----------
    model : onnx.ModelProto
        A valid model; it is not changed.

    Returns
    -------
    onnx.ModelProto
        A model with the same inputs and outputs, or the given one if it has no such operator.

    Raises
    ------
    UserError
        If a variant of an operator is not supported; the message names the node.
    """
    quantized = [node for node in model.graph.node if _key(node) in RULES]
    if not quantized:
        return model
    opset = opset_of(model)
    if opset < _QUANTIZED:
        first = quantized[0]
        reason = f"opset {opset} has no QuantizeLinear; {_QUANTIZED} is the first that does"
        raise unsupported(first.op_type, first.name or first.output[0], reason)
    graph = QdqGraph(model.graph, opset)
    for node in model.graph.node:
        rule = RULES.get(_key(node))
        if rule is None:
            graph.keep(node)
        else:
            rule(Expansion(graph, node))
    expanded = onnx.ModelProto()
    expanded.CopyFrom(model)
    del expanded.graph.node[:]
    expanded.graph.node.extend(graph.nodes)
    expanded.graph.initializer.extend(graph.initializers)
    # Up to version 3, initialisers had to be inputs.
    expanded.ir_version = max(expanded.ir_version, 4)
    _drop_unused(expanded, {name for node in quantized for name in node.input})
    if graph.needs_opset_13 and opset < _PER_CHANNEL:
        _convert(expanded, graph.needs_opset_13)
    return expanded


def _key(node: onnx.NodeProto) -> tuple[str, str]:
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type)


def _drop_unused(model: onnx.ModelProto, candidates: set[str]) -> None:
    """Remove initialisers that only replaced operators read, and the domain if it is unused."""
    graph = model.graph
    used = {name for node in _nodes(graph) for name in node.input}
    used.update(value.name for value in graph.output)
    unused = {tensor.name for tensor in graph.initializer} & candidates - used
    for values in (graph.initializer, graph.input):
        for index in reversed(range(len(values))):
            if values[index].name in unused:
                del values[index]
    domains = {node.domain for node in _nodes(graph)}
    domains.update(function.domain for function in model.functions)
    domains.update(node.domain for function in model.functions for node in function.node)
    if MICROSOFT not in domains:
        for index in reversed(range(len(model.opset_import))):
            if model.opset_import[index].domain == MICROSOFT:
                del model.opset_import[index]


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of its subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                yield from _nodes(subgraph)


def _convert(model: onnx.ModelProto, cause: onnx.NodeProto) -> None:
    """Convert a model to opset 13 in place."""
    try:
        converted = version_converter.convert_version(model, _PER_CHANNEL)
    except (RuntimeError, ValueError) as error:
        reason = f"opset {opset_of(model)} cannot be converted to {_PER_CHANNEL}"
        raise unsupported(
            cause.op_type, cause.name or cause.output[0], f"{reason}: {first_line(error)}"
        ) from None
    # The converter also completes the shapes of outputs.
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(converted.graph.node)
    model.graph.initializer.extend(converted.graph.initializer)
    for imported in model.opset_import:
        if imported.domain in ("", "ai.onnx"):
            imported.version = _PER_CHANNEL
