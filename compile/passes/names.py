"""Names of variables, which say from which ONNX node a value comes."""

from __future__ import annotations

import re

from tvm import relax

#: The attribute of an imported module: the names of the ONNX nodes, in the graph's order.
NODE_NAMES = "onnx_node_names"

#: A builder adds digits to a name that it has already.
_NAME = re.compile(r"(.+)_([0-9]+)_n[0-9]*")


def variable_name(operator: str, index: int) -> str:
    """Return a name for what a node computes, from its operator and its place in the graph."""
    return f"{operator}_{index}_n"


def stem(name: str) -> str:
    """Return a variable's name without the digits that a builder has added."""
    return _NAME.sub(lambda match: variable_name(match[1], int(match[2])), name)


def node_index(var: relax.Var) -> int | None:
    """Return the place of the node that a variable comes from; None where that is not known."""
    match = _NAME.fullmatch(var.name)
    return int(match[2]) if match else None
