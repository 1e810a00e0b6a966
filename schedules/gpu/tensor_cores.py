"""What tensor cores do with 16x16 matrices of float16, as intrinsics for TensorIR's `tensorize`.

A warp holds such matrices in fragments. It reads and writes them as a whole in shared memory, at
places that are whole multiples of 32 bytes, with rows of whole multiples of 16 bytes. TVM has the
same, but among hundreds of others, which take half a minute to import.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from tvm import s_tir, tirx
from tvm.script import tirx as T  # noqa: N812

#: Rows and columns of a matrix.
SIZE = 16

LOAD_DATA, LOAD_WEIGHTS = "mobilenet_tvm.wmma.load_a", "mobilenet_tvm.wmma.load_b"
FILL, MULTIPLY, STORE = (f"mobilenet_tvm.wmma.{name}" for name in ("fill", "multiply", "store"))

#: The scopes of shared memory. TVM would put results of the same scope in the place of operands
#: after it has set its barriers, since the types differ: a warp overwrote what others still read.
OPERANDS, RESULTS = "shared.dyn", "shared"

#: The scopes of fragments.
DATA, WEIGHTS, SUMS = "wmma.matrix_a", "wmma.matrix_b", "wmma.accumulator"


@functools.cache
def register() -> None:
    """Make the intrinsics known to TVM, once."""
    for name, (what, how) in {
        LOAD_DATA: _move("float16", OPERANDS, DATA, _load),
        LOAD_WEIGHTS: _move("float16", OPERANDS, WEIGHTS, _load),
        STORE: _move("float32", SUMS, RESULTS, _store),
        FILL: _fill(),
        MULTIPLY: _multiply(),
    }.items():
        s_tir.TensorIntrin.register(name, what, how)


def _number(fragment: Any) -> Any:
    """Return which fragment of its array one is: they lie row after row."""
    row = fragment.strides[0]
    place = fragment.elem_offset
    return place // (row * SIZE) * (row // SIZE) + place % row // SIZE


def _load(memory: Any, fragment: Any) -> Any:
    return T.tvm_load_matrix_sync(
        fragment.data,
        SIZE,
        SIZE,
        SIZE,
        _number(fragment),
        memory.access_ptr("r", ptr_type="float16"),
        memory.strides[0],
        "row_major",
        dtype="void",
    )


def _store(fragment: Any, memory: Any) -> Any:
    return T.tvm_store_matrix_sync(
        fragment.data,
        SIZE,
        SIZE,
        SIZE,
        _number(fragment),
        memory.access_ptr("w", ptr_type="float32"),
        memory.strides[0],
        "row_major",
        dtype="void",
    )


def _move(
    dtype: str, start: str, end: str, call: Callable[[Any, Any], Any]
) -> tuple[tirx.PrimFunc, tirx.PrimFunc]:
    """Return that a matrix goes from one memory to another, in TensorIR and as a call."""

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def what(source: T.handle, target: T.handle) -> None:
        a = T.match_buffer(source, (16, 16), dtype, align=64, offset_factor=16, scope=start)
        b = T.match_buffer(target, (16, 16), dtype, align=64, offset_factor=16, scope=end)
        with T.sblock("root"):
            T.reads(a[0:16, 0:16])
            T.writes(b[0:16, 0:16])
            for i, j in T.grid(16, 16):
                with T.sblock("move"):
                    m, n = T.axis.remap("SS", [i, j])
                    b[m, n] = a[m, n]

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def how(source: T.handle, target: T.handle) -> None:
        a_row = T.int32()
        a_column = T.int32()
        b_row = T.int32()
        b_column = T.int32()
        a = T.match_buffer(
            source,
            (16, 16),
            dtype,
            align=64,
            offset_factor=16,
            scope=start,
            strides=[a_row, a_column],
        )
        b = T.match_buffer(
            target,
            (16, 16),
            dtype,
            align=64,
            offset_factor=16,
            scope=end,
            strides=[b_row, b_column],
        )
        with T.sblock("root"):
            T.reads(a[0:16, 0:16])
            T.writes(b[0:16, 0:16])
            T.evaluate(call(a, b))

    return what, how


def _fill() -> tuple[tirx.PrimFunc, tirx.PrimFunc]:
    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def what(target: T.handle) -> None:
        c = T.match_buffer(target, (16, 16), "float32", align=64, offset_factor=16, scope=SUMS)
        with T.sblock("root"):
            T.reads()
            T.writes(c[0:16, 0:16])
            for i, j in T.grid(16, 16):
                with T.sblock("init"):
                    m, n = T.axis.remap("SS", [i, j])
                    c[m, n] = T.float32(0)

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def how(target: T.handle) -> None:
        row = T.int32()
        column = T.int32()
        c = T.match_buffer(
            target,
            (16, 16),
            "float32",
            align=64,
            offset_factor=16,
            scope=SUMS,
            strides=[row, column],
        )
        with T.sblock("root"):
            T.reads()
            T.writes(c[0:16, 0:16])
            T.evaluate(
                T.tvm_fill_fragment(c.data, 16, 16, 16, _number(c), T.float32(0), dtype="void")
            )

    return what, how


def _multiply() -> tuple[tirx.PrimFunc, tirx.PrimFunc]:
    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def what(data: T.handle, weights: T.handle, sums: T.handle) -> None:
        a = T.match_buffer(data, (16, 16), "float16", align=64, offset_factor=16, scope=DATA)
        b = T.match_buffer(weights, (16, 16), "float16", align=64, offset_factor=16, scope=WEIGHTS)
        c = T.match_buffer(sums, (16, 16), "float32", align=64, offset_factor=16, scope=SUMS)
        with T.sblock("root"):
            T.reads(c[0:16, 0:16], a[0:16, 0:16], b[0:16, 0:16])
            T.writes(c[0:16, 0:16])
            for i, j, p in T.grid(16, 16, 16):
                with T.sblock("multiply"):
                    m, n, k = T.axis.remap("SSR", [i, j, p])
                    c[m, n] = c[m, n] + T.cast(a[m, k], "float32") * T.cast(b[k, n], "float32")

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def how(data: T.handle, weights: T.handle, sums: T.handle) -> None:
        a_row = T.int32()
        a_column = T.int32()
        b_row = T.int32()
        b_column = T.int32()
        c_row = T.int32()
        c_column = T.int32()
        a = T.match_buffer(
            data,
            (16, 16),
            "float16",
            align=64,
            offset_factor=16,
            scope=DATA,
            strides=[a_row, a_column],
        )
        b = T.match_buffer(
            weights,
            (16, 16),
            "float16",
            align=64,
            offset_factor=16,
            scope=WEIGHTS,
            strides=[b_row, b_column],
        )
        c = T.match_buffer(
            sums,
            (16, 16),
            "float32",
            align=64,
            offset_factor=16,
            scope=SUMS,
            strides=[c_row, c_column],
        )
        with T.sblock("root"):
            T.reads(c[0:16, 0:16], a[0:16, 0:16], b[0:16, 0:16])
            T.writes(c[0:16, 0:16])
            T.evaluate(
                T.tvm_mma_sync(
                    c.data,
                    _number(c),
                    a.data,
                    _number(a),
                    b.data,
                    _number(b),
                    c.data,
                    _number(c),
                    dtype="void",
                )
            )

    return what, how
