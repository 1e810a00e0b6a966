"""Finds the layers of an ONNX graph that have parameters, whatever exported it."""

from collections.abc import Iterator

import onnx

from mobilenet_tvm.compile.models.layers import NORM_PARTS

_ROLES = {
    "BatchNormalization": NORM_PARTS,
    "Conv": ("weight", "bias"),
    "Gemm": ("weight", "bias"),
}


def layers(graph: onnx.GraphProto) -> Iterator[tuple[onnx.NodeProto, dict[str, str]]]:
    """Iterate over the nodes that have parameters, in the graph's order.

    Parameters
    ----------
    graph
        Any graph; ONNX guarantees that its nodes are in topological order.

    Yields
    ------
    node
        A Conv, BatchNormalization, Gemm or MatMul node.
    names
        Names of the values that are its `weight`, `bias`, `running_mean` and
        `running_var`, as far as it has them. The bias of a MatMul is what the
        Add after it adds.
    """
    added = {name: node for node in graph.node if node.op_type == "Add" for name in node.input}
    for node in graph.node:
        if node.op_type == "MatMul":
            names = {"weight": node.input[1]}
            if add := added.get(node.output[0]):
                names["bias"] = next((n for n in add.input if n != node.output[0]), "")
        elif node.op_type in _ROLES:
            names = dict(zip(_ROLES[node.op_type], node.input[1:], strict=False))
        else:
            continue
        yield node, {role: name for role, name in names.items() if name}


def constants(
    graph: onnx.GraphProto, through: tuple[str, ...] = ("Identity",)
) -> dict[str, onnx.TensorProto]:
    """Find the constants of a graph.

    Parameters
    ----------
    graph
        Any graph.
    through
        Operators whose output counts as their first input.

    Returns
    -------
    dict
        By name: initialisers, outputs of Constant nodes, and the outputs of
        operators in `through` that are applied to either.
    """
    known = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            known[node.output[0]] = node.attribute[0].t
        elif node.op_type in through and node.input[0] in known:
            known[node.output[0]] = known[node.input[0]]
    return known
