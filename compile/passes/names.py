"""Variable names that identify the ONNX node of a value."""

from __future__ import annotations

import re

from tvm import relax

#: Attribute of an imported module with the names of the ONNX nodes, in graph order.
NODE_NAMES = "onnx_node_names"

#: A block builder appends digits to a name that is already in use.
_NAME = re.compile(r"(.+)_([0-9]+)_n[0-9]*")


def variable_name(operator: str, index: int) -> str:
    """Return the name for the result of a node, from its operator and its index in the graph."""
    return f"{operator}_{index}_n"


def stem(name: str) -> str:
    """Return a variable's name without the digits that a block builder has appended."""
    return _NAME.sub(lambda match: variable_name(match[1], int(match[2])), name)


def node_index(var: relax.Var) -> int | None:
    """Return the index of the node that a variable comes from, or None if it is unknown."""
    match = _NAME.fullmatch(var.name)
    return int(match[2]) if match else None
