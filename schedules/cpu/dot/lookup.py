"""Table lookups: each byte of a vector is replaced by one of 256."""

from __future__ import annotations

import functools
from typing import Any

from tvm import tirx

from mobilenet_tvm.schedules.cpu.dot.base import intrinsic
from mobilenet_tvm.schedules.workloads.dtypes import vector_type
from mobilenet_tvm.targets.target import Target

_PSHUFB = {
    16: "llvm.x86.ssse3.pshuf.b.128",
    32: "llvm.x86.avx2.pshuf.b",
    64: "llvm.x86.avx512.pshuf.b.512",
}


def lookup_width(target: Target) -> int:
    """Return the number of bytes that a target looks up at a time."""
    return 16 if target.architecture == "aarch64" else target.vector_bits // 8


def lookup(table: Any, values: Any, target: Target) -> Any:
    """Return a vector of bytes mapped by a table.

    Parameters
    ----------
    table : Buffer
        256 bytes, which the bytes of the values index.
    values : Expr
        As many as `lookup_width` says.
    target : Target
        Its instructions.

    Returns
    -------
    Expr
        A vector of the values' type.
    """
    width = lookup_width(target)
    index = tirx.reinterpret(vector_type("uint8", width), values)
    find = _by_tbl if target.architecture == "aarch64" else _by_pshufb
    if "+avx512vbmi" in target.features:
        find = _by_vpermi2b
    return tirx.reinterpret(str(values.ty), find(table, index, width))


def _repeated(values: Any, lanes: int, width: int) -> Any:
    """Return a vector that repeats the given bytes."""
    copies = width // lanes
    return values if copies == 1 else tirx.Shuffle([values] * copies, list(range(width)))


def _part(table: Any, start: int, size: int, dtype: str = "uint8") -> Any:
    values = table[tirx.Ramp(start, 1, size)]
    return tirx.reinterpret(vector_type(dtype, size), values)


def _by_vpermi2b(table: Any, index: Any, width: int) -> Any:
    """Look up halves of the table by VPERMI2B, and choose one by the highest bit."""
    vector = vector_type("int8", width)
    index = tirx.reinterpret(vector, index)
    name = "llvm.x86.avx512.vpermi2var.qi.512"
    halves = [
        intrinsic(
            vector,
            name,
            _part(table, start, 64, "int8"),
            index,
            _part(table, start + 64, 64, "int8"),
        )
        for start in (0, 128)
    ]
    return tirx.Select(index < tirx.Broadcast(tirx.const(0, "int8"), width), halves[1], halves[0])


def _by_pshufb(table: Any, index: Any, width: int) -> Any:
    """Look up each row of 16 by PSHUFB, and choose among the rows by the higher bits, in a tree."""
    vector = vector_type("int8", width)
    low = tirx.reinterpret(vector, tirx.bitwise_and(index, _all(15, width)))

    def row(number: int) -> Any:
        values = _repeated(_part(table, 16 * number, 16, "int8"), 16, width)
        return intrinsic(vector, _PSHUFB[width], values, low)

    def choose(first: int, bit: int) -> Any:
        if bit < 16:
            return row(first)
        zero = _all(0, width)
        chosen = tirx.bitwise_and(index, _all(bit, width)) != zero
        return tirx.Select(chosen, choose(first + bit // 16, bit // 2), choose(first, bit // 2))

    return choose(0, 128)


def _by_tbl(table: Any, index: Any, width: int) -> Any:
    """Look up quarters of the table by TBL and TBX, which leaves what is not in its quarter."""
    vector = vector_type("int8", width)

    def quarter(number: int) -> list[Any]:
        return [_part(table, 64 * number + 16 * i, 16, "int8") for i in range(4)]

    def place(number: int) -> Any:
        moved = index - _all(64 * number, width) if number else index
        return tirx.reinterpret(vector, moved)

    first = intrinsic(vector, "llvm.aarch64.neon.tbl4.v16i8", *quarter(0), place(0))
    return functools.reduce(
        lambda found, number: intrinsic(
            vector, "llvm.aarch64.neon.tbx4.v16i8", found, *quarter(number), place(number)
        ),
        (1, 2, 3),
        first,
    )


def _all(value: int, width: int) -> Any:
    return tirx.Broadcast(tirx.const(value, "uint8"), width)
