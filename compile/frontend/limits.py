"""Bounds on what a model may make the compiler do, so that none takes forever or all memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mobilenet_tvm.targets.errors import UserError

Array = np.ndarray[Any, Any]

#: Most nodes of a model, with functions expanded, and most of those that are left to compute once
#: constants are folded: of these, 5,000 take half a minute.
MAX_NODES, MAX_COMPUTED = 50_000, 8_000
#: Most functions inside functions, and subgraphs inside subgraphs.
MAX_DEPTH = 32
#: Most elements that folding may add to a network's constants: 256 MB of float32.
MAX_FOLDED = 1 << 26
#: Most elements of one value, which TVM counts in 32 bits.
MAX_ELEMENTS = (1 << 31) - 1
#: Most elements of a tensor that gives a shape.
MAX_SHAPE = 1024


def check_size(model: onnx.ModelProto, origin: str) -> None:
    """Reject a model that has too many nodes once its functions are expanded.

    Parameters
    ----------
    model : onnx.ModelProto
        The model, with functions.
    origin : str
        The model's name in error messages, such as its path.

    Raises
    ------
    UserError
        If it has, or its functions call themselves.
    """
    functions = {(each.domain, each.name): each for each in model.functions}
    counts: dict[tuple[str, str], int] = {}

    def count(nodes: Iterable[onnx.NodeProto], depth: int) -> int:
        if depth > MAX_DEPTH:
            raise UserError(
                f"{origin}: more than {MAX_DEPTH} functions or subgraphs inside each other; "
                "export the model again, with functions inlined"
            )
        total = 0
        for node in nodes:
            key = node.domain, node.op_type
            if key in functions and key not in counts:
                counts[key] = count(functions[key].node, depth + 1)
            total += counts.get(key, 1)
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs):
                    total += count(graph.node, depth + 1)
        return total

    total = count(model.graph.node, 0)
    if total > MAX_NODES:
        raise UserError(
            f"{origin}: {total} nodes, of which {MAX_NODES} can be compiled; "
            "give a smaller network, or a part of it"
        )


class FoldingBudget:
    """Counts the elements that folding adds to a network's constants.

    Parameters
    ----------
    opset_import : iterable of OperatorSetIdProto
        The model's operator sets.
    """

    def __init__(self, opset_import: Iterable[onnx.OperatorSetIdProto]) -> None:
        self._opsets = list(opset_import)
        self._left = MAX_FOLDED

    def spend(self, node: onnx.NodeProto, constants: Mapping[str, Array]) -> None:
        """Count the elements that a node's outputs have beyond those of its inputs.

        Parameters
        ----------
        node : onnx.NodeProto
            A node that is going to be folded.
        constants : mapping of str to ndarray
            Its inputs, by name.

        Raises
        ------
        UserError
            If they are too many.
        """
        inputs = {name: constants[name] for name in dict.fromkeys(node.input) if name}
        added = self._output_size(node, inputs) - sum(array.size for array in inputs.values())
        self._left -= max(added, 0)
        if self._left < 0:
            raise UserError(
                f"node '{node.name or node.output[0]}' ({node.op_type}): with it, constants have "
                f"over {MAX_FOLDED} more elements than in the file, which is the most; compile "
                "what is before it with --until, or export the model without it"
            )

    def _output_size(self, node: onnx.NodeProto, inputs: Mapping[str, Array]) -> int:
        """Return how many elements ONNX's inference finds that a node's outputs have."""
        kind = helper.np_dtype_to_tensor_dtype
        graph = helper.make_graph(
            [node],
            "node",
            [
                helper.make_tensor_value_info(name, kind(array.dtype), array.shape)
                for name, array in inputs.items()
            ],
            [onnx.ValueInfoProto(name=name) for name in node.output if name],
            # The values of shapes; those of weights make no difference.
            [
                numpy_helper.from_array(array, name)
                for name, array in inputs.items()
                if array.size <= MAX_SHAPE
            ],
        )
        model = helper.make_model(graph, opset_imports=self._opsets, ir_version=8)
        outputs = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
        shapes = [output.type.tensor_type.shape.dim for output in outputs]
        return sum(math.prod(dim.dim_value for dim in dims) for dims in shapes)


def check_computed(model: onnx.ModelProto) -> None:
    """Reject a folded model of which too many nodes are left to compute.

    Raises
    ------
    UserError
        If there are.
    """
    count = len(model.graph.node)
    if count > MAX_COMPUTED:
        raise UserError(
            f"{count} nodes, of which {MAX_COMPUTED} can be compiled; compile parts of the network "
            "with --until"
        )
