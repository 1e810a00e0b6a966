"""ARMv8.0: NEON's long multiplications, A53, A72 and all later cores.

Two products of a byte and a weight of at most 127 in magnitude fit 16 bits.
"""

from __future__ import annotations

import functools
import itertools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from mobilenet_tvm.schedules.cpu.dot.arm import (
    NEON as NAMES,
)
from mobilenet_tvm.schedules.cpu.dot.arm import (
    ArmDot,
    half,
    in_pairs,
    long_product,
    pieces,
    splat,
)
from mobilenet_tvm.schedules.cpu.dot.base import PARTS, Array, FilterTile, Tile, Vectors, intrinsic


class NeonDot(ArmDot):
    """Computes a depthwise filter one output after the other, so that its inputs stay loaded."""

    def interleave(self, pixels: Sequence[Any]) -> list[Any]:
        """Return a pixel as it is."""
        return list(pixels)

    def taps(self, weights: Any) -> Any:
        """Return weights as they are."""
        return weights

    @property
    def parts(self) -> int:
        """Vectors of taps for all channels of a pixel."""
        return 1

    def filter_cycles(
        self, outputs: int, dots: int, loads: int, taps: int, registers: int
    ) -> float:
        """Estimate the instructions of a tile of a depthwise filter."""
        held = loads + taps + 3 * PARTS
        return 4.2 * dots + loads + taps / 2 + 27 * outputs + 2 * max(0, held - registers) + 5

    def load_taps(self, load: Callable[[int], Any], groups: int, offset: int) -> list[Any]:
        """Return a tap for all channels."""
        del groups
        return [load(offset)]

    def convolve(self, tile: FilterTile) -> None:
        """Emit all products of an output, and what follows, before those of the next."""
        places = list(itertools.product(range(tile.rows), tile.groups(self)))
        held = {}
        for output in tile.outputs:
            met = []
            for place in places:
                taps = tile.taps_of(self, output, *place)
                if taps:
                    if place not in held:
                        held[place] = T.bind(tile.pixel(*place, 0, self.channels))
                    met.append((held[place], taps[0]))
            sums = tile.begin()
            self.add(sums, met)
            tile.end({output: sums})

    def input_row(
        self, tile: FilterTile, sums: dict[tuple[int, int], Vectors], row: Any, filter_row: Any
    ) -> None:
        """Emit the products of a row of inputs; None for all rows of the filter that it meets."""
        for output in tile.outputs:
            met = []
            for group in tile.groups(self):
                taps = tile.taps_of(self, output, row, group, filter_row)
                met += [(T.bind(tile.pixel(row, group, 0, self.channels)), tap) for tap in taps]
            self.add(sums[output], met)

    @abstractmethod
    def add(self, sums: Vectors, products: list[tuple[Any, Any]]) -> None:
        """Emit the addition of products of vectors of bytes and of taps."""


class Smlal(NeonDot):
    """SMULL, SMLAL and SADALP: each sum of a matrix product has a vector of partial sums."""

    @property
    def taps_type(self) -> str:
        """TVM's type of a vector of taps."""
        return "int8x16"

    def begin(self, rows: int, vectors: int, start: Callable[[int], Any]) -> list[Vectors]:
        """Emit the partial sums of a tile before any product: zeros."""
        del start
        count = vectors * self.lanes
        sums = [Vectors(count, self.sums_type) for _ in range(rows)]
        for row, index in itertools.product(sums, range(count)):
            row[index] = tirx.Broadcast(tirx.const(0, "int32"), self.lanes)
        return sums

    def end(
        self, sums: list[Vectors], rows: int, vectors: int, start: Callable[[int], Any]
    ) -> list[Vectors]:
        """Emit the sums of partial sums, which are added to what they begin with."""
        ended = [Vectors(vectors, self.sums_type) for _ in range(rows)]
        for vector in range(vectors):
            first = T.bind(start(vector))
            for row in range(rows):
                parts = [sums[row][vector * self.lanes + lane] for lane in range(self.lanes)]
                while len(parts) > 1:
                    parts = [_added(*parts[i : i + 2]) for i in range(0, len(parts), 2)]
                ended[row][vector] = parts[0] + first
        return ended

    def registers(self, rows: int, vectors: int) -> int:
        """Return the vector registers of a tile: sums, a load of each row, weights, products."""
        return rows * vectors * self.lanes + rows + 7

    def cycles(self, rows: int, vectors: int) -> float:
        """Estimate the cycles of a tile for a group."""
        outputs = vectors * self.lanes
        return 1.5 * rows * outputs + 0.5 * (rows + outputs) + 1

    def finish_cycles(self, rows: int, vectors: int) -> float:
        """Estimate the cycles to begin, end, requantise and store the sums of a tile."""
        return 7 * rows * vectors + super().finish_cycles(rows, vectors)

    def multiply(self, tile: Tile, k: Any, inputs: int) -> None:
        """Emit the multiply-adds: two products in 16 bits, whose pairs are added to 32."""
        for first, count in pieces(inputs, 2 * self.group, self.group):
            rows = [T.bind(tile.data(row, k + first, count)) for row in range(tile.rows)]
            loaded = in_pairs(
                functools.partial(tile.weights, k + first),
                count,
                tile.vectors * self.lanes,
            )
            for output, weights in enumerate(loaded):
                for row, data in enumerate(rows):
                    tile.update(row, output, _with_pairs, data, weights)

    def arrange(self, weights: Array) -> Array:
        """Return weights as 16 inputs of an output after the other, at the end 8."""
        panels, groups, vectors, group, lanes = weights.shape
        both = weights[:, : groups // 2 * 2].reshape(panels, -1, 2, vectors, group, lanes)
        last = weights[:, groups // 2 * 2 :]
        parts = [both.transpose(0, 1, 3, 5, 2, 4), np.moveaxis(last, -2, -1)]
        return np.concatenate([part.reshape(panels, -1) for part in parts], axis=1)

    def filter(self, total: Any, data: Any, taps: Any) -> Any:
        """Return sums plus products that fill 16 bits: SADDW."""
        return total + long_product(data, taps).astype(self.sums_type)

    def add(self, sums: Vectors, products: list[tuple[Any, Any]]) -> None:
        """Emit the addition of products, two at a time in 16 bits."""
        for first in range(0, len(products), 2):
            for high in (False, True):
                total = None
                for data, taps in products[first : first + 2]:
                    product = long_product(half(data, high), half(taps, high))
                    total = product if total is None else total + product
                short = T.bind(total)
                for upper in (False, True):
                    part = 2 * high + upper
                    sums[part] = sums[part] + half(short, upper).astype(self.sums_type)


class SmlalShort(NeonDot):
    """SMLAL by a lane, for weights of 16 bits and data that are widened."""

    @property
    def taps_type(self) -> str:
        """TVM's type of a vector of taps."""
        return "int16x16"

    def registers(self, rows: int, vectors: int) -> int:
        """Return the vector registers of a tile: sums, a load of each row, and two of weights."""
        return rows * vectors + rows + 2

    def multiply(self, tile: Tile, k: Any, inputs: int) -> None:
        """Emit the multiply-adds: a vector of weights meets a lane of each row."""
        size = self.lanes * self.group
        for first, count in pieces(inputs, self.depth, self.group):
            rows = [T.bind(tile.data(row, k + first, count)) for row in range(tile.rows)]
            groups = range(0, count, self.group)
            for group, vector in itertools.product(groups, range(tile.vectors)):
                both = T.bind(tile.weights(k + first + group, vector * size, size))
                for row, high in itertools.product(range(tile.rows), (False, True)):
                    data, weights = splat(rows[row], group + high, self.lanes), half(both, high)
                    tile.update(row, vector, self.filter, weights, data)

    def arrange(self, weights: Array) -> Array:
        """Return weights as they are: a vector of outputs for each input."""
        return weights

    def filter(self, total: Any, data: Any, taps: Any) -> Any:
        """Return sums plus products."""
        return total + long_product(data, taps)

    def add(self, sums: Vectors, products: list[tuple[Any, Any]]) -> None:
        """Emit the addition of products of widened data."""
        for data, taps in products:
            for high in (False, True):
                wide = half(data, high).astype("int16x8")
                for upper in (False, True):
                    part, tap = 2 * high + upper, half(half(taps, high), upper)
                    sums[part] = self.filter(sums[part], half(wide, upper), tap)


def _added(left: Any, right: Any) -> Any:
    """Return the sums of the pairs of two vectors."""
    return intrinsic("int32x4", f"{NAMES}.addp.v4i32", left, right)


def _with_pairs(total: Any, data: Any, weights: Any) -> Any:
    """Return partial sums plus products, pairs of which are added: SADALP."""
    pairs = intrinsic("int32x4", f"{NAMES}.saddlp.v4i32.v8i16", _product(data, weights))
    return total + pairs


def _product(data: Any, weights: Any) -> Any:
    """Return eight products of bytes, or sums of two."""
    if "x16" not in str(data.ty):
        return long_product(data, weights)
    low, high = (long_product(half(data, part), half(weights, part)) for part in (False, True))
    return low + high


NEON = Smlal("neon", 128, 8, group=8, depth=32, peeled=True, many_tiles=True, pixels=1)
NEON_SHORT = SmlalShort("neon-16", 128, 4, group=2, depth=8, widened=True, pixels=1)
