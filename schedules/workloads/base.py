"""What all workloads share: their text, which is the key of decisions and of tuning logs."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from mobilenet_tvm.schedules.workloads.dtypes import FLOAT32, Types, size_of
from mobilenet_tvm.schedules.workloads.epilogue import Epilogue, Step, residuals

#: An extent in a pattern.
EXTENT = "([1-9][0-9]{0,8})"

W = TypeVar("W", bound="Workload")

#: All workloads by operator.
OPERATORS: dict[str, type[Workload]] = {}


class Workload(ABC):
    """What a fused layer computes, apart from how.

    Subclasses are frozen dataclasses that name their operator; importing one makes `parse` know it.
    """

    #: The first word of the text.
    operator: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Make the operator known."""
        super().__init_subclass__(**kwargs)
        OPERATORS[cls.operator] = cls

    @property
    @abstractmethod
    def epilogue(self) -> Epilogue:
        """The steps on the result."""

    @property
    @abstractmethod
    def types(self) -> Types:
        """The types of what it reads, adds up and stores; of a fused one's last layer."""

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
            If there is none of this text.
        """

    @property
    def dtype(self) -> str:
        """The type in which the network keeps its values there: the weights'."""
        return self.types.weights

    @property
    def gates(self) -> int:
        """Pictures for each of which the data are multiplied by a factor per channel."""
        return 0

    @property
    def reads(self) -> str:
        """The type of the data that the first of its layers reads."""
        return self.types.data

    @classmethod
    def usual(cls, dtype: str) -> Types:
        """Return the types that such a layer has in a network of some type."""
        return Types.of(dtype)

    @classmethod
    def fuse(cls, parts: Sequence[Workload]) -> Workload | None:  # noqa: ARG003
        """Return layers, each read by the next alone, as one of this operator, if it is that."""
        return None

    def followed_by(self: W, epilogue: Epilogue, types: Types) -> W:
        """Return the same layer with another epilogue, and what it then stores."""
        return replace(self, epilogue=epilogue, types=types)  # type: ignore[type-var]

    def in_type(self: W, dtype: str) -> W:
        """Return the same layer in a network of another type."""
        return replace(self, types=type(self).usual(dtype))  # type: ignore[type-var]

    def without_gates(self: W) -> W:
        """Return the same layer on data that are multiplied already."""
        return self


def parse(text: str) -> Workload:
    """Read a workload back from its text.

    Parameters
    ----------
    text : str
        What `str` gave; a clip's bounds have six digits there.

    Returns
    -------
    Workload
        One of the same text.

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
        raise ValueError(f"a {operator} of unknown form")
    return workload


def described(size: str, workload: Workload, implied: Types = FLOAT32) -> str:
    """Return a workload's text from that of its size: with its types and steps.

    Parameters
    ----------
    size : str
        The operator and its extents.
    workload : Workload
        The layer.
    implied : Types
        What needs no words. Logs from before there was another type name none.
    """
    usual = type(workload).usual(workload.types.weights)
    words = [size, workload.types.describe(implied, usual), *map(str, workload.epilogue)]
    return " ".join(filter(None, words))


def matched(pattern: str, text: str, operator: str) -> tuple[list[str], list[str]]:
    """Split a workload's text into the groups of a pattern for its size, and the words behind it.

    Raises
    ------
    ValueError
        If the pattern does not fit.
    """
    match = re.fullmatch(f"{pattern}((?: [^ ]+)*)", text)
    if match is None:
        raise ValueError(f"a {operator} of unknown form")
    *groups, rest = match.groups(default="")
    return groups, rest.split()


def read_tail(
    words: Sequence[str], kind: type[Workload], implied: Types = FLOAT32
) -> tuple[Epilogue, Types]:
    """Read the words behind a workload's size: its types and steps.

    Parameters
    ----------
    words : sequence of str
        As `described` writes them.
    kind : type
        The workload's.
    implied : Types
        What is meant where no types are named.
    """
    types = Types.parse(words[0], implied, kind.usual) if words else None
    steps = words if types is None else words[1:]
    return tuple(map(Step.parse, steps)), types or implied


def output_bytes(workload: Workload) -> int:
    """Return what is read or written per output: its residuals, and itself."""
    types = workload.types
    return residuals(workload.epilogue) * size_of(types.weights) + size_of(types.result)
