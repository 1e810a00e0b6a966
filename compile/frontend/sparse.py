"""Turns sparse tensors of ONNX graphs into dense ones."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper


def make_dense(graph: onnx.GraphProto) -> None:
    """Replace sparse initialisers, and sparse values of Constant nodes, by dense tensors."""
    for sparse in graph.sparse_initializer:
        graph.initializer.append(_dense(sparse, sparse.values.name))
    del graph.sparse_initializer[:]
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "sparse_value":
                value = onnx.helper.make_attribute(
                    "value", _dense(attribute.sparse_tensor, node.output[0])
                )
                attribute.CopyFrom(value)


def _dense(sparse: onnx.SparseTensorProto, name: str) -> onnx.TensorProto:
    values = numpy_helper.to_array(sparse.values)
    # Indices are places in the flat tensor, or one coordinate per axis.
    indices = numpy_helper.to_array(sparse.indices)
    shape = tuple(sparse.dims)
    dense = np.zeros(shape, values.dtype)
    places = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
    dense.reshape(-1)[places] = values
    return numpy_helper.from_array(dense, name)
