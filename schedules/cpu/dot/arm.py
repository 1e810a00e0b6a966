"""What the 64-bit ARM instruction sets share: requantisation by NEON, and parts of vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from mobilenet_tvm.schedules.cpu.dot.base import Dot, intrinsic
from mobilenet_tvm.schedules.workloads.dtypes import lanes_of, vector_type
from mobilenet_tvm.schedules.workloads.epilogue import MAGIC

#: The prefix of the intrinsics' names.
NEON = "llvm.aarch64.neon"


class ArmDot(Dot):
    """Quantises four vectors of sums, in the order of their outputs, to one of bytes."""

    def finish_cycles(self, rows: int, vectors: int) -> float:
        """Estimate the instructions to begin, requantise and store the sums of a tile."""
        packed = rows * (vectors // 4)
        stores = float(packed)
        if rest := vectors % 4:
            packed += -(-rows // (4 // rest))
            stores += rows * {1: 3.5, 2: 1.75, 3: 3.0}[rest]
        return 5 * rows * vectors + 6 * packed + stores + 2 * vectors

    def copy_cycles(self, far: bool) -> float:
        """Estimate the instructions to copy a vector of a pixel's bytes."""
        del far
        return 2.75

    def narrow(
        self, rows: Sequence[Sequence[Any]], numbers: Any, dtype: str, interleaved: bool
    ) -> list[Any]:
        """Emit the quantisation of rows of vectors, and return the bytes of each row in order.

        Rounding comes before the bounds, which are integers, so the result is the same. Conversions
        saturate, and no zero point takes a value between the bounds out of 16 bits.
        """
        del interleaved
        zero = tirx.const(_bits(MAGIC), "int32") - tirx.reinterpret("int32", numbers[2])
        limits = [(bound.astype("int32") + zero).astype(dtype) for bound in numbers[:2]]
        zeros = tirx.Broadcast(zero.astype("int16"), 8)
        found: list[list[Any]] = [[] for _ in rows]
        vectors = len(rows[0])
        for left in range(0, vectors, 4):
            count = min(4, vectors - left)
            # One or two vectors of a row are quantised together with those of other rows.
            high = 4 // count
            for top in range(0, len(rows), high):
                together = range(top, min(top + high, len(rows)))
                parts = [value for row in together for value in rows[row][left : left + count]]
                values = T.bind(_bytes(parts, zeros, limits))
                for place, row in enumerate(together):
                    found[row].append(_lanes(values, 4 * count * place, 4 * count))
        return [parts[0] if len(parts) == 1 else T.bind(join(parts)) for parts in found]


def _bytes(values: Sequence[Any], zeros: Any, limits: Sequence[Any]) -> Any:
    """Return up to four vectors quantised, perhaps followed by others."""
    shorts = [
        intrinsic(
            "int16x4",
            f"{NEON}.sqxtn.v4i16",
            intrinsic("int32x4", f"{NEON}.fcvtns.v4i32.v4f32", value),
        )
        for value in values
    ]
    halves = []
    for first in range(0, len(shorts), 2):
        pair = join([shorts[first], shorts[min(first + 1, len(shorts) - 1)]])
        moved = intrinsic("int16x8", f"{NEON}.sqadd.v8i16", pair, zeros)
        halves.append(intrinsic("int8x8", f"{NEON}.sqxtn.v8i8", moved))
    whole = join(halves)
    kind = str(whole.ty)
    size = lanes_of(kind)
    for name, limit in zip(("smax", "smin"), limits, strict=True):
        whole = intrinsic(kind, f"{NEON}.{name}.v{size}i8", whole, tirx.Broadcast(limit, size))
    return whole


def _lanes(value: Any, first: int, count: int) -> Any:
    """Return some neighbouring lanes of a vector."""
    if count == lanes_of(str(value.ty)):
        return value
    return T.bind(tirx.Shuffle([value], list(range(first, first + count))))


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.int32))


def join(values: Sequence[Any]) -> Any:
    """Return vectors as one."""
    if len(values) == 1:
        return values[0]
    count = sum(lanes_of(str(value.ty)) for value in values)
    return tirx.Shuffle(list(values), list(range(count)))


def half(value: Any, high: bool) -> Any:
    """Return the low or high half of a vector."""
    lanes = lanes_of(str(value.ty)) // 2
    return tirx.Shuffle([value], list(range(lanes * high, lanes * high + lanes)))


def splat(value: Any, lane: int, lanes: int) -> Any:
    """Return a lane of a vector, or a scalar, in all lanes."""
    if lanes_of(str(value.ty)) == 1:
        return tirx.Broadcast(value, lanes)
    copies = -(-lanes // lanes_of(str(value.ty)))
    return tirx.Shuffle([value] * copies, [lane] * lanes)


def long_product(left: Any, right: Any) -> Any:
    """Return the products of the elements of two vectors of 64 bits, twice as wide: SMULL."""
    narrow = str(left.ty)
    bits, lanes = int(narrow.partition("x")[0].removeprefix("int")), lanes_of(narrow)
    wide = vector_type(f"int{2 * bits}", lanes)
    return intrinsic(wide, f"{NEON}.smull.v{lanes}i{2 * bits}", left, right)


def pieces(inputs: int, widest: int, narrowest: int) -> Iterator[tuple[int, int]]:
    """Yield first inputs and numbers of inputs: as many as a load can take, then fewer."""
    first, size = 0, widest
    while first < inputs:
        while first + size > inputs and size > narrowest:
            size //= 2
        yield first, size
        first += size


def in_pairs(load: Callable[[int, int], Any], size: int, count: int) -> Iterator[Any]:
    """Yield neighbouring vectors of bytes, two of which are loaded by one instruction.

    Parameters
    ----------
    load : callable
        Returns bytes, given the first and their number.
    size : int
        Bytes of a vector.
    count : int
        How many vectors there are.
    """
    for first in range(0, count - 1, 2):
        both = T.bind(load(first * size, 2 * size))
        yield T.bind(half(both, False))
        yield T.bind(half(both, True))
    if count % 2:
        yield T.bind(load((count - 1) * size, size))
