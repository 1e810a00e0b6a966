"""Base class of workloads, and their text form, which is the key of tuning logs."""

from __future__ import annotations

import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from mobilenet_tvm.schedules.workloads.dtypes import FLOAT32, Types, size_of
from mobilenet_tvm.schedules.workloads.epilogue import Epilogue, Step, residuals

#: Regular expression of an extent.
EXTENT = "([1-9][0-9]{0,8})"

#: Workloads that are kept by their text: a log has many records of the same ones.
_KEPT = 4096

W = TypeVar("W", bound="Workload")

#: Workload classes by operator.
OPERATORS: dict[str, type[Workload]] = {}


class Workload(ABC):
    """What a layer computes, independent of how.

    Subclasses are frozen dataclasses that name their operator; defining one registers it with
    `parse`.
    """

    #: The first word of the text.
    operator: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Register the operator."""
        super().__init_subclass__(**kwargs)
        OPERATORS[cls.operator] = cls

    @property
    @abstractmethod
    def epilogue(self) -> Epilogue:
        """The steps applied to the result."""

    @property
    @abstractmethod
    def types(self) -> Types:
        """The types that it reads, accumulates and stores; if fused, those of its last layer."""

    @property
    @abstractmethod
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output, as the layer's function stores it."""

    @property
    @abstractmethod
    def weights(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the weights, as `pack` takes them."""

    @property
    @abstractmethod
    def flops(self) -> int:
        """Floating-point operations, a multiply-add counting as two."""

    @property
    @abstractmethod
    def bytes(self) -> int:
        """Bytes of data, weights and output, each counted once."""

    @abstractmethod
    def __str__(self) -> str:
        """Return the workload as logs write it."""

    @classmethod
    @abstractmethod
    def from_text(cls, text: str) -> Workload:
        """Read a workload of this operator back from its text; `parse` checks the result.

        Raises
        ------
        ValueError
            If no workload has this text.
        """

    @property
    def dtype(self) -> str:
        """The type in which the network keeps the layer's values: that of its weights."""
        return self.types.weights

    @property
    def gates(self) -> int:
        """Number of images whose data are multiplied by a factor per channel; 0 for none."""
        return 0

    @property
    def dilated(self) -> bool:
        """Whether positions of a window have steps between them."""
        return False

    @property
    def reads(self) -> str:
        """The data type that its first layer reads."""
        return self.types.data

    @classmethod
    def usual(cls, dtype: str) -> Types:
        """Return the types of such a layer in a network of a given type."""
        return Types.of(dtype)

    @classmethod
    def fuse(cls, parts: Sequence[Workload]) -> Workload | None:  # noqa: ARG003
        """Fuse consecutive layers into one of this operator; None if they do not match."""
        return None

    def followed_by(self: W, epilogue: Epilogue, types: Types) -> W:
        """Return the same layer with another epilogue and the types that go with it."""
        return replace(self, epilogue=epilogue, types=types)  # type: ignore[type-var]

    def in_type(self: W, dtype: str) -> W:
        """Return the same layer in a network of another type."""
        return replace(self, types=type(self).usual(dtype))  # type: ignore[type-var]

    def without_gates(self: W) -> W:
        """Return the same layer on data that have already been multiplied."""
        return self


@functools.lru_cache(_KEPT)
def parse(text: str) -> Workload:
    """Read a workload back from its text.

    Parameters
    ----------
    text : str
        As returned by `str`, in which the bounds of a clip have six digits.

    Returns
    -------
    Workload
        The workload with that text.

    Raises
    ------
    ValueError
        If no workload has this text.
    """
    operator = text.partition(" ")[0]
    if operator not in OPERATORS:
        raise ValueError(f"unknown operator {operator!r}")
    workload = OPERATORS[operator].from_text(text)
    if str(workload) != text:
        raise ValueError(f"malformed {operator} workload")
    return workload


def described(size: str, workload: Workload, implied: Types = FLOAT32) -> str:
    """Return a workload's text: the text of its size followed by its types and steps.

    Parameters
    ----------
    size : str
        The operator and its extents.
    workload : Workload
        The layer.
    implied : Types
        Types that are not written out. Logs older than the second type name none.
    """
    usual = type(workload).usual(workload.types.weights)
    words = [size, workload.types.describe(implied, usual), *map(str, workload.epilogue)]
    return " ".join(filter(None, words))


def matched(pattern: str, text: str, operator: str) -> tuple[list[str], list[str]]:
    """Split a workload's text into the groups of a pattern for its size, and the remaining words.

    Raises
    ------
    ValueError
        If the pattern does not match.
    """
    match = re.fullmatch(f"{pattern}((?: [^ ]+)*)", text)
    if match is None:
        raise ValueError(f"malformed {operator} workload")
    *groups, rest = match.groups(default="")
    return groups, rest.split()


def read_tail(
    words: Sequence[str], kind: type[Workload], implied: Types = FLOAT32
) -> tuple[Epilogue, Types]:
    """Read the words after a workload's size: its types and steps.

    Parameters
    ----------
    words : sequence of str
        As `described` writes them.
    kind : type
        The workload's class.
    implied : Types
        Types to assume where none are named.
    """
    types = Types.parse(words[0], implied, kind.usual) if words else None
    steps = words if types is None else words[1:]
    return tuple(map(Step.parse, steps)), types or implied


def output_bytes(workload: Workload) -> int:
    """Return the bytes read or written per output: its residuals and the output itself."""
    types = workload.types
    residual = types.result if types.integer else types.weights
    return residuals(workload.epilogue) * size_of(residual) + size_of(types.result)
