"""Dot products of integers: what an instruction set offers to the integer schedules."""

from __future__ import annotations

import itertools
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

#: Cycles from a dot product to one that adds to its result, and loads that start in a cycle.
DOT_LATENCY = 5
LOADS_PER_CYCLE = 2
#: Cycles to requantise and store a vector of sums, and those that become a vector of bytes.
EPILOGUE_CYCLES = 5
BYTES_CYCLES = 14.0
#: Cycles to interleave a vector of pixels, and to begin a tile of a depthwise filter.
SHUFFLE_CYCLES = 2.0
FILTER_CYCLES = 8.0
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
        Returns some consecutive packed weights of the tile, given an input, how many weights lie
        between the first that begins with it and these, and their number.
    sums : list of Vectors
        For each row, its vectors of sums, as `Dot.begin` arranged them.
    """

    rows: int
    vectors: int
    data: Callable[[int, Any, int], Any]
    weights: Callable[[Any, int, int], Any]
    sums: list[Vectors]

    def update(self, row: int, vector: int, change: Callable[..., Any], *others: Any) -> None:
        """Emit the replacement of a vector of sums by a function of it and of other values."""
        sums = self.sums[row]
        sums[vector] = change(sums[vector], *others)


@dataclass(frozen=True)
class FilterTile:
    """A register tile of a depthwise convolution.

    Parameters
    ----------
    outputs : list of tuple of int
        Row and column of each output.
    rows : int
        Rows of inputs.
    kernel, stride : tuple of int
        Rows and columns of the filter, and from an output to the next.
    pixel : callable
        Returns consecutive bytes of an input, given its row, its column, the first byte and their
        number.
    taps : Vectors
        What `Dot.load_taps` returned: [rows of the filter, offsets, parts].
    offsets : list of int
        Taps that the first pixels of groups meet.
    begin : callable
        Emits the sums of an output before any product.
    end : callable
        Emits what follows the sums of some neighbouring outputs.
    """

    outputs: list[tuple[int, int]]
    rows: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pixel: Callable[[Any, int, int, int], Any]
    taps: Vectors
    offsets: list[int]
    begin: Callable[[], Vectors]
    end: Callable[[dict[tuple[int, int], Vectors]], None]

    def groups(self, dot: Dot) -> list[int]:
        """Return where the groups of pixels of a row of inputs begin."""
        columns = {x * self.stride[1] for _, x in self.outputs}
        return sorted({group for x in columns for group in dot.groups(x, self.kernel[1])})

    def taps_of(
        self, dot: Dot, output: tuple[int, int], row: Any, group: int, filter_row: Any = None
    ) -> list[Any]:
        """Return the taps that a group of pixels meets for an output, by part; may be empty."""
        column = output[1] * self.stride[1]
        if group not in dot.groups(column, self.kernel[1]):
            return []
        meets = row - output[0] * self.stride[0] if filter_row is None else filter_row
        if filter_row is None and not 0 <= meets < self.kernel[0]:
            return []
        parts = len(self.taps) // (self.kernel[0] * len(self.offsets))
        place = (meets * len(self.offsets) + self.offsets.index(group - column)) * parts
        return [self.taps[place + part] for part in range(parts)]


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
    peeled : bool
        Whether the first step of a matrix product is code apart, since sums begin with its result.
    many_tiles : bool
        Whether a task of a matrix product has a loop over tiles. On x86 each tile is a task: a loop
        was slower (784x32x192: 47 us instead of 25), since weights were kept on the stack.
    pixels : int
        Neighbouring pixels that a depthwise filter multiplies at a time. Default: `group`.
    """

    name: str
    vector_bits: int
    macs_per_cycle: float
    group: int = 4
    depth: int = 4
    widened: bool = False
    peeled: bool = False
    many_tiles: bool = False
    pixels: int = 0

    def __post_init__(self) -> None:
        """Have a filter multiply as many pixels as a product inputs, unless it is told."""
        if not self.pixels:
            object.__setattr__(self, "pixels", self.group)

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
            Number of inputs: `depth`, or fewer groups.
        """

    def begin(self, rows: int, vectors: int, start: Callable[[int], Any]) -> list[Vectors]:
        """Emit the sums of a tile before any product, as `multiply` keeps them.

        Parameters
        ----------
        rows, vectors : int
            Its size.
        start : callable
            Returns what a vector of sums begins with.
        """
        sums = [Vectors(vectors, self.sums_type) for _ in range(rows)]
        for row, vector in itertools.product(range(rows), range(vectors)):
            sums[row][vector] = start(vector)
        return sums

    def end(
        self,
        sums: list[Vectors],
        rows: int,  # noqa: ARG002
        vectors: int,  # noqa: ARG002
        start: Callable[[int], Any],  # noqa: ARG002
    ) -> list[Vectors]:
        """Emit what makes of a tile's sums, as `multiply` keeps them, a row of vectors a pixel.

        Parameters
        ----------
        sums : list of Vectors
            What `begin` returned.
        rows, vectors, start
            As for `begin`.
        """
        return sums

    def registers(self, rows: int, vectors: int) -> int:
        """Return the vector registers of a tile of a matrix product, sums and operands."""
        return rows * vectors + vectors + 2

    def cycles(self, rows: int, vectors: int) -> float:
        """Estimate the cycles of a tile of a matrix product for a group of inputs."""
        busy = rows * vectors * self.lanes * self.group / self.macs_per_cycle
        return max(busy, (rows + vectors) / LOADS_PER_CYCLE, DOT_LATENCY)

    def finish_cycles(self, rows: int, vectors: int) -> float:
        """Estimate the cycles to begin, end, requantise and store the sums of such a tile."""
        return EPILOGUE_CYCLES * rows * vectors

    def arrange(self, weights: Array) -> Array:
        """Return weights [panels, groups, vectors, group, lanes] in the order of reading."""
        return np.moveaxis(weights, -2, -1)

    @abstractmethod
    def interleave(self, pixels: Sequence[Any]) -> list[Any]:
        """Return what `filter` multiplies, made of `pixels` vectors of neighbouring pixels' bytes.

        The vectors of sums then hold the channels in the order of `order`.
        """

    @abstractmethod
    def filter(self, total: Any, data: Any, taps: Any) -> Any:
        """Return a vector of sums plus the products of one part of `interleave` and its taps."""

    @property
    def taps_type(self) -> str:
        """TVM's type of a vector of taps, which `filter` takes."""
        return self.sums_type

    @property
    def parts(self) -> int:
        """Vectors of taps for all channels of a group of pixels."""
        return PARTS

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
        bits = 32 // self.pixels * count

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
        """Return weights [pixels, channels] as `filter` reads them: [PARTS, lanes * pixels]."""
        ordered = taps[:, self.order(PARTS)].reshape(len(taps), PARTS, self.lanes)
        return ordered.transpose(1, 2, 0).reshape(PARTS, -1)

    def groups(self, first: int, width: int) -> list[int]:
        """Return where groups of neighbouring pixels begin that hold those of a row of a window.

        Parameters
        ----------
        first, width : int
            The window's first column in the tile, and its width. No pixel is in two groups.
        """
        return list(range(first // self.pixels * self.pixels, first + width, self.pixels))

    def load_taps(self, load: Callable[[int], Any], groups: int, offset: int) -> list[Any]:
        """Return the taps that a group of pixels meets in a row of the filter, by part.

        Parameters
        ----------
        load : callable
            Returns one of the row's vectors of taps, which are [groups, parts].
        groups : int
            Groups of taps in the row.
        offset : int
            Tap that the first pixel of the group meets; may be negative.
        """
        number, skipped = divmod(offset, self.pixels)
        taps = []
        for part in range(PARTS):
            first, second = (
                load(group * PARTS + part) if 0 <= group < groups else None
                for group in (number, number + 1)
            )
            taps.append(self.shifted(first, second, skipped))
        return taps

    def convolve(self, tile: FilterTile) -> None:
        """Emit the products of a tile of a depthwise convolution, and what follows its sums.

        This one interleaves the pixels of a group, and adds their products to the sums of all
        outputs that they reach.
        """
        sums = {output: tile.begin() for output in tile.outputs}
        if all(y == 0 for y, _ in tile.outputs):
            # Each row of the input meets one of the filter: a loop, which takes less code.
            with T.serial(0, tile.rows) as row:
                self.input_row(tile, sums, row, row)
        else:
            for row in range(tile.rows):
                self.input_row(tile, sums, row, None)
        tile.end(sums)

    def input_row(
        self, tile: FilterTile, sums: dict[tuple[int, int], Vectors], row: Any, filter_row: Any
    ) -> None:
        """Emit the products of a row of inputs; None for all rows of the filter that it meets."""
        for group in tile.groups(self):
            pixels = [tile.pixel(row, group + i, 0, self.channels) for i in range(self.pixels)]
            held = [T.bind(part) for part in self.interleave(pixels)]
            for output in tile.outputs:
                taps = tile.taps_of(self, output, row, group, filter_row)
                for part, tap in enumerate(taps):
                    sums[output][part] = self.filter(sums[output][part], held[part], tap)

    def copy_cycles(self, far: bool) -> float:
        """Estimate the cycles to copy a vector of a pixel's bytes, maybe from a far cache."""
        return 7.0 if far else 2.0

    def filter_cycles(
        self,
        outputs: int,
        dots: int,
        loads: int,
        taps: int,  # noqa: ARG002
        registers: int,
    ) -> float:
        """Estimate the cycles of a tile of a depthwise filter.

        Parameters
        ----------
        outputs : int
            Its outputs.
        dots : int
            Its products, each of a group of pixels and taps for all channels of a vector of bytes.
        loads : int
            Pixels in the groups that it reads.
        taps : int
            Groups of taps that it meets.
        registers : int
            Vector registers.
        """
        products = PARTS * dots * self.lanes * self.pixels / self.macs_per_cycle
        many = 0.5 * max(0, PARTS * outputs - registers)
        work = max(products + SHUFFLE_CYCLES * loads, (loads + PARTS * dots) / LOADS_PER_CYCLE)
        return work + many + BYTES_CYCLES * outputs + FILTER_CYCLES

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


def quads(pixels: Sequence[Any], size: int) -> list[Any]:
    """Return four vectors' bytes next to each other, for a quarter of the bytes at a time.

    Parameters
    ----------
    pixels : sequence of Expr
        The vectors.
    size : int
        Bytes of a vector.
    """
    shorts, bytes_type = vector_type("int16", size // 2), vector_type("int8", size)
    found = []
    for high in (False, True):
        first, second = (
            tirx.reinterpret(shorts, unpack(pixels[i], pixels[i + 1], high, size, 16))
            for i in (0, 2)
        )
        found += [
            tirx.reinterpret(bytes_type, unpack(first, second, upper, size // 2, 8))
            for upper in (False, True)
        ]
    return found
