"""What the x86 instruction sets share: unpacking and packing within lanes of 128 bits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from mobilenet_tvm.schedules.cpu.dot.base import Dot, Tile, broadcast, intrinsic
from mobilenet_tvm.schedules.workloads.dtypes import vector_type
from mobilenet_tvm.schedules.workloads.epilogue import MAGIC

_PACKS = {
    128: ("llvm.x86.sse2.packssdw.128", "llvm.x86.sse2.packuswb.128"),
    256: ("llvm.x86.avx2.packssdw", "llvm.x86.avx2.packuswb"),
    512: ("llvm.x86.avx512.packssdw.512", "llvm.x86.avx512.packuswb.512"),
}
_ROUND = {128: "llvm.x86.sse2.cvtps2dq", 256: "llvm.x86.avx.cvt.ps2dq.256"}
#: Vectors of 32-bit integers that make one of bytes.
_FOUR = 4


class X86Dot(Dot):
    """Quantises by CVTPS2DQ, PACKSSDW and PACKUSWB: they round half to even, and saturate.

    Four vectors of a row make one of bytes, or two vectors of each of two rows, or one of four.
    Packing works within lanes of 128 bits, so the outputs of a row are assigned to its vectors in
    such an order that they come out as they should: four at a time.
    """

    def load_weights(self, tile: Tile, k: Any) -> list[Any]:
        """Return a vector of weights for a group of inputs of each vector of outputs."""
        size = self.lanes * self.group
        return [tile.weights(k, vector * size, size) for vector in range(tile.vectors)]

    def multiply(self, tile: Tile, k: Any, inputs: int) -> None:
        """Emit the multiply-adds: a row's group is broadcast, and meets each vector."""
        group = self.group
        data_type = vector_type("int16" if self.widened else "int8", self.lanes * group)
        for first in range(0, inputs, group):
            weights = self.load_weights(tile, k + first)
            for row in range(tile.rows):
                data = broadcast(tile.data(row, k + first, group), data_type, self.lanes)
                for vector, weight in enumerate(weights):
                    tile.update(row, vector, self.filter, data, weight)

    def order(self, vectors: int) -> list[int]:
        """Return the outputs of neighbouring vectors of sums, in the order of their lanes."""
        together = next(count for count in (4, 2, 1) if vectors % count == 0)
        lanes = self.lanes
        return [
            first * lanes + (4 * together) * (lane // 4) + 4 * part + lane % 4
            for first in range(0, vectors, together)
            for part in range(together)
            for lane in range(lanes)
        ]

    def narrow(
        self, rows: Sequence[Sequence[Any]], numbers: Any, dtype: str, interleaved: bool
    ) -> list[Any]:
        """Emit the quantisation of rows of vectors, and return the bytes of each row in order."""
        vectors = len(rows[0])
        together = next(count for count in (4, 2, 1) if vectors % count == 0)
        together = together if interleaved else 1
        high = _FOUR // together
        found: list[list[Any]] = [[] for _ in rows]
        for top, left in itertools.product(range(0, len(rows), high), range(0, vectors, together)):
            numbers_of_rows = range(top, min(top + high, len(rows)))
            parts = [rows[row][left + i] for row in numbers_of_rows for i in range(together)]
            parts += parts[:1] * (_FOUR - len(parts))
            values = self._bytes(parts, numbers, dtype)
            for place, row in enumerate(numbers_of_rows):
                found[row].append(self._row(values, place, together))
        size = vectors * self.lanes
        return [
            row[0] if len(row) == 1 else T.bind(tirx.Shuffle(row, list(range(size))))
            for row in found
        ]

    def _bytes(self, parts: Sequence[Any], numbers: Any, dtype: str) -> Any:
        """Emit the quantisation of four vectors; their bytes are interleaved four at a time."""
        first, second = _PACKS[self.vector_bits]
        shorts, size = vector_type("int16", 2 * self.lanes), self.channels
        zero = tirx.reinterpret("int32", tirx.const(MAGIC, "float32"))
        zero = zero - tirx.reinterpret("int32", numbers[2])
        low, high = (
            tirx.Broadcast((numbers[i].astype("int32") + zero).astype(dtype), size) for i in (0, 1)
        )
        zeros = tirx.Broadcast(zero.astype("int16"), 2 * self.lanes)
        halves = []
        for i in (0, 2):
            packed = intrinsic(shorts, first, *map(self._rounded, parts[i : i + 2]))
            name = f"llvm.sadd.sat.v{2 * self.lanes}i16"
            halves.append(intrinsic(shorts, name, packed, zeros))
        narrow = intrinsic(vector_type("int8", size), second, *halves)
        values = tirx.reinterpret(vector_type(dtype, size), narrow)
        return T.bind(tirx.min(tirx.max(values, low), high))

    def _rounded(self, value: Any) -> Any:
        """Return float32 values as integers, rounded half to even."""
        if self.vector_bits in _ROUND:
            return intrinsic(self.sums_type, _ROUND[self.vector_bits], value)
        nothing = tirx.Broadcast(tirx.const(0, "int32"), self.lanes)
        mask, current = tirx.const(-1, "int16"), tirx.const(4, "int32")
        name = "llvm.x86.avx512.mask.cvtps2dq.512"
        return intrinsic(self.sums_type, name, value, nothing, mask, current)

    def _row(self, values: Any, place: int, together: int) -> Any:
        """Return the bytes of one of the rows whose vectors were packed together."""
        if together == _FOUR:
            return values
        # A lane of 128 bits has a few bytes of each row.
        size = 4 * together
        order = [
            16 * lane + size * place + index
            for lane in range(self.lanes // 4)
            for index in range(size)
        ]
        return T.bind(tirx.Shuffle([values], order))
