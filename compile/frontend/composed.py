"""Replaces operators that are composed of others by these, as ONNX defines them."""

from __future__ import annotations

from collections.abc import Set

import numpy as np
import onnx
import onnx.inliner
from onnx import helper, numpy_helper

from mobilenet_tvm.compile.frontend.check import opset_of
from mobilenet_tvm.compile.frontend.graph import replace_nodes

#: Operators for which TVM's converters are of other domains or incomplete.
DEFINED = frozenset({"AffineGrid", "Attention"})


def expand(model: onnx.ModelProto, known: Set[str]) -> onnx.ModelProto:
    """Replace operators that are not known by their definitions in ONNX, if they have one.

    Parameters
    ----------
    model : onnx.ModelProto
        A checked model without functions; it is not changed.
    known : set of str
        The operators that stay.
    """
    opset = opset_of(model)
    expanded = onnx.ModelProto()
    expanded.CopyFrom(model)
    names = set()
    for node in expanded.graph.node:
        if node.op_type in known or not onnx.defs.has(node.op_type):
            continue
        schema = onnx.defs.get_schema(node.op_type, opset)
        if schema.has_function or schema.has_context_dependent_function:
            names.add(("", node.op_type))
            # The inliner leaves out the attributes' default values.
            present = {attribute.name for attribute in node.attribute}
            defaults = [attribute.default_value for attribute in schema.attributes.values()]
            node.attribute.extend(a for a in defaults if a.name and a.name not in present)
    if not names:
        return model
    # A definition may depend on the types of the inputs.
    typed = onnx.shape_inference.infer_shapes(expanded, data_prop=True)
    typed.graph.value_info.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in typed.graph.initializer
    )
    try:
        return onnx.inliner.inline_selected_functions(typed, sorted(names), False, True)
    except RuntimeError:
        # Some types are not known; the importer names the node.
        return model


def expand_group_norm(graph: onnx.GraphProto) -> None:
    """Replace GroupNormalization of opset 18, which ONNX's checker refuses and runtimes compute.

    It has a factor and an offset per group, as an InstanceNormalization of groups does.

    Parameters
    ----------
    graph : onnx.GraphProto
        The graph, of opset 18 to 20; it is changed.
    """
    nodes = []
    for node in graph.node:
        if node.op_type != "GroupNormalization" or (len(node.input), len(node.output)) != (3, 1):
            nodes.append(node)
            continue
        (data, *factors), (result,) = node.input, node.output
        attributes = {attribute.name: attribute for attribute in node.attribute}
        groups = attributes["num_groups"].i if "num_groups" in attributes else 1
        kept = [attributes["epsilon"]] if "epsilon" in attributes else []
        names = (f"{result}/{part}" for part in ("groups", "grouped", "normal", "shape"))
        shape, grouped, normal, whole = names
        by_group = np.array([0, groups, -1])
        graph.initializer.append(numpy_helper.from_array(by_group, shape))
        norm = helper.make_node("InstanceNormalization", [grouped, *factors], [normal])
        norm.name = node.name
        norm.attribute.extend(kept)
        nodes += [
            helper.make_node("Reshape", [data, shape], [grouped]),
            norm,
            helper.make_node("Shape", [data], [whole]),
            helper.make_node("Reshape", [normal, whole], [result]),
        ]
    replace_nodes(graph, nodes)
