"""Dot products of integers: what an instruction set offers to the integer schedules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from mobilenet_tvm.schedules.workloads.dtypes import vector_type
from mobilenet_tvm.schedules.workloads.epilogue import quantized

Array = np.ndarray[Any, Any]

#: Vectors of sums of the channels in one vector of bytes.
PARTS = 4


class Vectors:
    """A few vectors in registers: an array on the stack, which LLVM promotes.

    An array of vectors would do, but TVM fails where it lets two of them share memory.

    Parameters
    ----------
    count : int
        Number of vectors.
    dtype : str
        TVM's type of a vector.
    """

    def __init__(self, count: int, dtype: str) -> None:
        scalar, _, lanes = dtype.partition("x")
        self._count, self._lanes = count, int(lanes or 1)
        self._buffer = T.alloc_buffer((count * self._lanes,), scalar)

    def __len__(self) -> int:
        """Return the number of vectors."""
        return self._count

    def __getitem__(self, index: Any) -> Any:
        """Return a vector."""
        return self._buffer[self._place(index)]

    def __setitem__(self, index: Any, value: Any) -> None:
        """Emit the store of a vector."""
        T.buffer_store(self._buffer, value, [self._place(index)])

    def _place(self, index: Any) -> Any:
        lanes = self._lanes
        return T.ramp(index * lanes, 1, lanes) if lanes > 1 else index


@dataclass(frozen=True)
class Tile:
    """A register tile of a matrix product.

    Parameters
    ----------
    rows, vectors : int
        Rows of data and vectors of outputs.
    data : callable
        Returns some consecutive inputs of a row: a vector, given the row, the first input and the
        number of inputs.
    weights : callable
        Returns the packed weights of a vector of outputs for a group of inputs, given the vector
        and the group's first input.
    sums : list of Vectors
        For each row, its vectors of sums.
    """

    rows: int
    vectors: int
    data: Callable[[int, Any, int], Any]
    weights: Callable[[int, Any], Any]
    sums: list[Vectors]

    def update(self, row: int, vector: int, change: Callable[..., Any], *others: Any) -> None:
        """Emit the replacement of a vector of sums by a function of it and of other values."""
        sums = self.sums[row]
        sums[vector] = change(sums[vector], *others)


@dataclass(frozen=True)
class Dot(ABC):
    """An instruction set's way to multiply integers and add the products to 32-bit sums.

    Parameters
    ----------
    name : str
        As decisions and targets name it.
    vector_bits : int
        Width of its vectors.
    macs_per_cycle : float
        Multiply-adds that a core starts in a cycle.
    group : int
        Inputs that are multiplied at a time for each sum, and so neighbouring pixels of a depthwise
        filter.
    depth : int
        Inputs that a step of a matrix product takes, a multiple of `group`, where there are enough.
    widened : bool
        Whether a matrix product reads data of 16 bits, to which they are converted first.
    """

    name: str
    vector_bits: int
    macs_per_cycle: float
    group: int = 4
    depth: int = 4
    widened: bool = False

    @property
    def lanes(self) -> int:
        """Sums in a vector."""
        return self.vector_bits // 32

    @property
    def channels(self) -> int:
        """Bytes in a vector."""
        return self.vector_bits // 8

    @property
    def sums_type(self) -> str:
        """TVM's type of a vector of sums."""
        return vector_type("int32", self.lanes)

    @abstractmethod
    def multiply(self, tile: Tile, k: Any, inputs: int) -> None:
        """Emit the multiply-adds of all sums of a tile with some inputs, `group` or `depth`.

        Parameters
        ----------
        tile : Tile
            The sums, and the data and weights to read.
        k : Expr
            The first input.
        inputs : int
            Number of inputs.
        """

    def arrange(self, weights: Array) -> Array:
        """Return weights [..., group, lanes] in the order in which a vector holds them."""
        return np.moveaxis(weights, -2, -1)

    @abstractmethod
    def interleave(self, pixels: Sequence[Any]) -> list[Any]:
        """Return what `filter` multiplies, made of `group` vectors of neighbouring pixels' bytes.

        The vectors of sums then hold the channels in the order of `order`.
        """

    @abstractmethod
    def filter(self, total: Any, data: Any, taps: Any) -> Any:
        """Return a vector of sums plus the products of one part of `interleave` and its taps."""

    @property
    def taps_type(self) -> str:
        """TVM's type of a vector of taps, which `filter` takes."""
        return self.sums_type

    @abstractmethod
    def taps(self, weights: Any) -> Any:
        """Return weights of a part, as `arrange_taps` stores them, as `filter` takes them."""

    def shifted(self, first: Any, second: Any | None, count: int) -> Any:
        """Return taps from the given place on in each lane of two vectors; None stands for zeros.

        Parameters
        ----------
        first, second : Expr or None
            Taps of neighbouring groups.
        count : int
            How many taps of the first are left out, less than a group.
        """
        if count == 0:
            return first
        bits = 32 // self.group * count

        def moved(value: Any, left: bool, by: int) -> Any:
            shift = tirx.Broadcast(tirx.const(by, "uint32"), self.lanes)
            unsigned = tirx.reinterpret(vector_type("uint32", self.lanes), value)
            result = unsigned << shift if left else unsigned >> shift
            return tirx.reinterpret(self.sums_type, result)

        parts = [moved(first, False, bits)] if first is not None else []
        parts += [moved(second, True, 32 - bits)] if second is not None else []
        return parts[0] if len(parts) == 1 else tirx.bitwise_or(*parts)

    def order(self, vectors: int) -> list[int]:
        """Return the outputs of neighbouring vectors of sums, in the order of their lanes.

        It is what `narrow` undoes: as they come, or another order that is cheaper.
        """
        return list(range(vectors * self.lanes))

    def arrange_taps(self, taps: Array) -> Array:
        """Return weights [group, channels] as `filter` reads them: [PARTS, lanes * group]."""
        ordered = taps[:, self.order(PARTS)].reshape(len(taps), PARTS, self.lanes)
        return ordered.transpose(1, 2, 0).reshape(PARTS, -1)

    def narrow(
        self, rows: Sequence[Sequence[Any]], numbers: Any, dtype: str, interleaved: bool
    ) -> list[Any]:
        """Emit the quantisation of rows of vectors, and return the bytes of each row in order.

        Parameters
        ----------
        rows : sequence of sequence of Expr
            float32, below 2^31 in magnitude.
        numbers : sequence of Expr
            The values of `quantization_bounds`.
        dtype : str
            The type of the bytes.
        interleaved : bool
            Whether the lanes of a row are in the order of `order`.
        """
        del interleaved
        real, small = (vector_type(kind, self.lanes) for kind in ("float32", dtype))
        narrowed = []
        for row in rows:
            parts = [quantized(value, numbers, real).astype(small) for value in row]
            size = len(parts) * self.lanes
            whole = parts[0] if len(parts) == 1 else tirx.Shuffle(parts, list(range(size)))
            narrowed.append(T.bind(whole))
        return narrowed


def broadcast(values: Any, dtype: str, lanes: int) -> Any:
    """Return a few bytes or shorts, together 32 bits, repeated in each lane of a vector."""
    word = tirx.Broadcast(tirx.reinterpret("int32", values), lanes)
    return tirx.reinterpret(dtype, word)


def intrinsic(dtype: str, name: str, *arguments: Any) -> Any:
    """Return a call of an intrinsic of LLVM without side effects."""
    return T.call_llvm_pure_intrin(dtype, name, *arguments)


def unpack(left: Any, right: Any, high: bool, elements: int, lane: int) -> Any:
    """Interleave the low or high halves of the lanes of two vectors.

    Parameters
    ----------
    left, right : Expr
        Vectors of one type.
    high : bool
        Whether to take the high halves.
    elements : int
        Elements of a vector.
    lane : int
        Elements of a lane.
    """
    half = lane // 2
    places = []
    for start in range(0, elements, lane):
        first = start + half * high
        for index in range(first, first + half):
            places += [index, elements + index]
    return tirx.Shuffle([left, right], places)
