"""ARMv8.2 with dot products: SDOT multiplies four by four bytes a lane, A55, A76 and later."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from mobilenet_tvm.schedules.cpu.dot.arm import NEON, ArmDot, in_pairs, pieces, splat
from mobilenet_tvm.schedules.cpu.dot.base import PARTS, FilterTile, Tile, Vectors, intrinsic, quads
from mobilenet_tvm.schedules.workloads.dtypes import vector_type

#: Vectors of interleaved pixels, or of taps, that stay in registers beside all others.
_HELD = 16


class Dotprod(ArmDot):
    """SDOT by a lane: a load of 16 inputs of a row serves four groups."""

    def registers(self, rows: int, vectors: int) -> int:
        """Return the vector registers of a tile: sums, a load of each row, and weights."""
        return rows * vectors + rows + 3

    def cycles(self, rows: int, vectors: int) -> float:
        """Estimate the cycles of a tile for a group: loads, too, keep a small core from it."""
        return rows * vectors + rows / 4 + vectors / 2 + 1

    def filter_cycles(
        self, outputs: int, dots: int, loads: int, taps: int, registers: int
    ) -> float:
        """Estimate the instructions of a tile of a depthwise filter."""
        sums = PARTS * outputs
        products = PARTS * dots + 3 * loads + 0.75 * PARTS * taps + 27 * outputs + 5
        if PARTS * taps <= _HELD:
            return products + 4 * max(0, sums + PARTS * taps + 8 - registers)
        held = PARTS * loads // self.pixels
        if held > _HELD:
            products += loads + 2 * max(0, held // 2 - _HELD)
        return products + 2 * max(0, sums - _HELD)

    def multiply(self, tile: Tile, k: Any, inputs: int) -> None:
        """Emit the multiply-adds: a vector of weights meets a lane of each row."""
        size = self.channels
        for first, count in pieces(inputs, size, self.group):
            words = vector_type("int32", count // self.group)
            rows = [
                T.bind(tirx.reinterpret(words, tile.data(row, k + first, count)))
                for row in range(tile.rows)
            ]
            groups = range(count // self.group)
            weights = in_pairs(
                functools.partial(tile.weights, k + first),
                size,
                len(groups) * tile.vectors,
            )
            for (group, vector), weight in zip(
                itertools.product(groups, range(tile.vectors)), weights, strict=True
            ):
                for row, words in enumerate(rows):
                    data = tirx.reinterpret(weight.ty, splat(words, group, self.lanes))
                    tile.update(row, vector, self.filter, weight, data)

    def groups(self, first: int, width: int) -> list[int]:
        """Return where groups begin: at even pixels, or multiples of four, where those suffice."""
        spare = -width % self.pixels
        step = next(step for step in (4, 2, 1) if step <= spare + 1)
        return list(range(first // step * step, first + width, self.pixels))

    def interleave(self, pixels: Sequence[Any]) -> list[Any]:
        """Return four pixels' bytes next to each other, for a quarter of the channels at a time."""
        return quads(pixels, self.channels)

    def filter(self, total: Any, data: Any, taps: Any) -> Any:
        """Return sums plus products, by one instruction."""
        taps = tirx.reinterpret("int8x16", taps)
        return intrinsic("int32x4", f"{NEON}.sdot.v4i32.v16i8", total, data, taps)

    def taps(self, weights: Any) -> Any:
        """Return four taps a lane."""
        return tirx.reinterpret(self.sums_type, weights)

    def convolve(self, tile: FilterTile) -> None:
        """Emit the products of a tile, so that taps are loaded rarely, and what follows."""
        sums = {output: tile.begin() for output in tile.outputs}
        if len(tile.taps) <= _HELD:
            # The taps stay in registers.
            for row in range(tile.rows):
                self.input_row(tile, sums, row, None)
        else:
            self._by_part(tile, sums)
        tile.end(sums)

    def _by_part(self, tile: FilterTile, sums: dict[tuple[int, int], Vectors]) -> None:
        """Emit the products of one part of the channels after the other.

        So the taps of a part are loaded once for all outputs. Where not all interleaved pixels fit
        the registers, those of half the channels are made at a time.
        """
        places = list(itertools.product(range(tile.rows), tile.groups(self)))
        halves = [range(PARTS)]
        if PARTS * len(places) > _HELD:
            halves = [range(PARTS // 2), range(PARTS // 2, PARTS)]
        for parts in halves:
            held = {place: self._held(tile, place, parts) for place in places}
            for part, output, place in itertools.product(parts, tile.outputs, places):
                taps = tile.taps_of(self, output, *place)
                if taps:
                    data = held[place][part - parts[0]]
                    sums[output][part] = self.filter(sums[output][part], data, taps[part])

    def _held(self, tile: FilterTile, place: tuple[int, int], parts: range) -> list[Any]:
        """Emit the interleaving of a group of pixels, for some parts of the channels."""
        (row, group), size = place, len(parts) * self.lanes
        pixels = [
            tile.pixel(row, group + i, parts[0] * self.lanes, size) for i in range(self.pixels)
        ]
        if size < self.channels:
            # As words, or LLVM would join the halves of two pixels first.
            words = [tirx.Broadcast(tirx.reinterpret("int64", pixel), 2) for pixel in pixels]
            pixels = [tirx.reinterpret("int8x16", word) for word in words]
        return [T.bind(part) for part in self.interleave(pixels)[: len(parts)]]


DOTPROD = Dotprod("dotprod", 128, 16, group=4, depth=16, many_tiles=True)
