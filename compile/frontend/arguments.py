"""Inputs and attributes of ONNX nodes, as converters read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from mobilenet_tvm.compile.passes.values import constant_value, shape_of

Array = np.ndarray[Any, Any]
Attributes = dict[str, Any]


def optional(inputs: Sequence[Any], index: int) -> Any:
    """Return an input, or None if it is left out."""
    return inputs[index] if index < len(inputs) else None


def given(inputs: Sequence[Any], index: int, what: str) -> Array | None:
    """Return a constant input, or None if it is left out or empty.

    Raises
    ------
    NotImplementedError
        If it is computed at run time.
    """
    expr = optional(inputs, index)
    if expr is None or (isinstance(expr.ty, relax.TensorType) and 0 in shape_of(expr)):
        return None
    value = constant_value(expr)
    if value is None:
        raise NotImplementedError(f"{what} computed at run time")
    return value


def integers(inputs: Sequence[Any], index: int, what: str) -> list[int] | None:
    """Return a constant input as a list of integers, or None if it is left out or empty."""
    value = given(inputs, index, what)
    return None if value is None else [int(number) for number in value.reshape(-1)]


def integer(inputs: Sequence[Any], index: int, what: str) -> int:
    """Return a constant input that is one integer and must be there."""
    value = integers(inputs, index, what)
    if value is None or len(value) != 1:
        raise NotImplementedError(f"{what} is not a single number")
    return value[0]


def text(attributes: Attributes, name: str, default: str) -> str:
    """Return an attribute that is a string."""
    value = attributes.get(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def dtype_of(expr: Any) -> str:
    """Return the element type of a tensor expression."""
    return str(expr.ty.dtype)
