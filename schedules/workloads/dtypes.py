"""The types of a layer's values, and their sizes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

#: The type in which products are accumulated, unless a layer says otherwise.
_ACCUMULATORS = {
    "float32": "float32",
    "float16": "float32",
    "int8": "int32",
    "uint8": "int32",
    "int16": "int32",
}
_DTYPES = {*_ACCUMULATORS.keys(), *_ACCUMULATORS.values()}
_TEXT = re.compile(r"(?:(\w+)|(\w+)\*(\w+)\+(\w+))?(?:->(\w+))?")


@dataclass(frozen=True)
class Types:
    """The types that a layer reads, accumulates and stores, by NumPy's names.

    Parameters
    ----------
    data : str
        Type of the activations that the layer reads.
    weights : str
        Type of the weights and of the epilogue's operands.
    sums : str
        Type of sums over many inputs. The few taps of a depthwise filter may be accumulated in the
        type in which the machine multiplies.
    result : str
        Type of the stored result.
    """

    data: str
    weights: str
    sums: str
    result: str

    @classmethod
    def of(cls, dtype: str) -> Types:
        """Return the types of a layer whose values all have one type, except for its sums.

        Raises
        ------
        ValueError
            If no layer has values of this type.
        """
        if dtype not in _ACCUMULATORS:
            raise ValueError(f"unknown type {dtype!r}")
        return cls(dtype, dtype, _ACCUMULATORS[dtype], dtype)

    @property
    def integer(self) -> bool:
        """Whether the layer multiplies integers."""
        return self.sums == "int32"

    def describe(self, implied: Types, usual: Types) -> str:
        """Return the types as logs write them.

        Parameters
        ----------
        implied : Types
            Types that are not written out.
        usual : Types
            The types that the weights' type alone stands for.
        """
        if self._reads == implied._reads:
            words, result = "", implied.result
        elif self._reads == usual._reads:
            words, result = self.weights, usual.result
        else:
            words, result = f"{self.data}*{self.weights}+{self.sums}", self.data
        return words if self.result == result else f"{words}->{self.result}"

    @classmethod
    def parse(cls, text: str, implied: Types, usual: Callable[[str], Types]) -> Types | None:
        """Read the text written by `describe`; None for any other word.

        Parameters
        ----------
        text : str
            One word.
        implied : Types
            As for `describe`.
        usual : callable
            Maps the weights' type to the types that it alone stands for.
        """
        match = _TEXT.fullmatch(text)
        if match is None or not {*filter(None, match.groups())} <= _DTYPES:
            return None
        alone, data, weights, sums, result = match.groups()
        types = implied
        if alone:
            types = usual(alone)
        elif data:
            types = cls(data, weights, sums, data)
        return replace(types, result=result) if result else types

    @property
    def _reads(self) -> tuple[str, str, str]:
        return self.data, self.weights, self.sums


FLOAT32 = Types.of("float32")


def size_of(dtype: str) -> int:
    """Return the size of one value of a type, in bytes."""
    return np.dtype(dtype).itemsize


def vector_type(dtype: str, lanes: int) -> str:
    """Return TVM's name of the type of a vector, or of a scalar."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def lanes_of(dtype: str) -> int:
    """Return the number of values in a vector of TVM's type, 1 for a scalar."""
    return int(dtype.partition("x")[2] or 1)
