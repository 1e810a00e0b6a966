"""ARMv8.6 with matrix products of bytes: SMMLA multiplies two rows by two outputs."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from mobilenet_tvm.schedules.cpu.dot.arm import NEON, half, in_pairs, join, pieces
from mobilenet_tvm.schedules.cpu.dot.base import Array, Tile, Vectors, intrinsic
from mobilenet_tvm.schedules.cpu.dot.dotprod import Dotprod


class I8mm(Dotprod):
    """SMMLA for matrix products, SDOT for depthwise filters.

    A vector of sums has two outputs of two rows: those of an even row and the next one are kept
    together, first two outputs, then the two others. A last row alone is paired with itself.
    """

    def begin(self, rows: int, vectors: int, start: Callable[[int], Any]) -> list[Vectors]:
        """Emit the sums of pairs of rows before any product."""
        sums = [Vectors(vectors, self.sums_type) for _ in range(rows + rows % 2)]
        for vector in range(vectors):
            both = T.bind(start(vector))
            for row, values in enumerate(sums):
                outputs = half(both, bool(row % 2))
                values[vector] = join([outputs, outputs])
        return sums

    def end(
        self,
        sums: list[Vectors],
        rows: int,
        vectors: int,
        start: Callable[[int], Any],
    ) -> list[Vectors]:
        """Emit the separation of the rows of each pair."""
        del start
        ended = [Vectors(vectors, self.sums_type) for _ in range(rows)]
        for row, vector in itertools.product(range(rows), range(vectors)):
            pair = [T.bind(sums[row // 2 * 2 + part][vector]) for part in range(2)]
            ended[row][vector] = join([half(part, bool(row % 2)) for part in pair])
        return ended

    def registers(self, rows: int, vectors: int) -> int:
        """Return the vector registers of a tile: sums, loads of all rows, and weights."""
        even = rows + rows % 2
        return even * vectors + even + 3

    def cycles(self, rows: int, vectors: int) -> float:
        """Estimate the cycles of a tile for a group."""
        even = rows + rows % 2
        return even * vectors + even + vectors + 1

    def finish_cycles(self, rows: int, vectors: int) -> float:
        """Estimate the instructions to begin, end, requantise and store the sums of a tile."""
        return rows * vectors + super().finish_cycles(rows, vectors)

    def multiply(self, tile: Tile, k: Any, inputs: int) -> None:
        """Emit the multiply-adds: two rows' eight inputs meet those of two outputs."""
        for first, count in pieces(inputs, self.depth, self.group):
            rows = [T.bind(tile.data(row, k + first, count)) for row in range(tile.rows)]
            groups = range(count // self.group)
            pairs = [
                [T.bind(_group(rows[row], rows[min(row + 1, tile.rows - 1)], g)) for g in groups]
                for row in range(0, tile.rows, 2)
            ]
            weights = in_pairs(
                functools.partial(tile.weights, k + first),
                self.channels,
                2 * len(groups) * tile.vectors,
            )
            places = itertools.product(groups, range(tile.vectors), range(2))
            for (group, vector, part), weight in zip(places, weights, strict=True):
                for number, pair in enumerate(pairs):
                    tile.update(2 * number + part, vector, _product, pair[group], weight)

    def arrange(self, weights: Array) -> Array:
        """Return weights as eight inputs of an output after the other."""
        return weights.swapaxes(-2, -1)


def _product(total: Any, data: Any, weights: Any) -> Any:
    """Return sums plus products, by one instruction."""
    return intrinsic("int32x4", f"{NEON}.smmla.v4i32.v16i8", total, data, weights)


def _group(first: Any, second: Any, group: int) -> Any:
    """Return a group of eight inputs of two rows."""
    count = int(str(first.ty).partition("x")[2])
    lanes = range(8 * group, 8 * group + 8)
    return tirx.Shuffle([first, second], [*lanes, *(count + lane for lane in lanes)])


I8MM = I8mm("i8mm", 128, 32, group=8, depth=16, many_tiles=True, pixels=4)
