"""Tensor core operations on 16x16 float16 matrices, as intrinsics for TensorIR's `tensorize`.

A warp holds such matrices in fragments. It loads them from and stores them to shared memory as a
whole, at addresses aligned to 32 bytes, with row strides that are multiples of 16 bytes. TVM has
the same intrinsics, but among hundreds of others that take half a minute to import.
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

#: The scopes of shared memory. If both were the same, TVM would reuse the memory of the operands
#: for the results, whose type differs, after inserting barriers: a warp then overwrote data that
#: others were still reading.
OPERANDS, RESULTS = "shared.dyn", "shared"

#: The scopes of fragments.
DATA, WEIGHTS, SUMS = "wmma.matrix_a", "wmma.matrix_b", "wmma.accumulator"


@functools.cache
def register() -> None:
    """Register the intrinsics with TVM, once."""
    for name, (desc, impl) in {
        LOAD_DATA: _move("float16", OPERANDS, DATA, _load),
        LOAD_WEIGHTS: _move("float16", OPERANDS, WEIGHTS, _load),
        STORE: _move("float32", SUMS, RESULTS, _store),
        FILL: _fill(),
        MULTIPLY: _multiply(),
    }.items():
        s_tir.TensorIntrin.register(name, desc, impl)


def _fragment_index(fragment: Any) -> Any:
    """Return the index of a fragment in its array, in row-major order."""
    row = fragment.strides[0]
    place = fragment.elem_offset
    return place // (row * SIZE) * (row // SIZE) + place % row // SIZE


def _load(memory: Any, fragment: Any) -> Any:
    return T.tvm_load_matrix_sync(
        fragment.data,
        SIZE,
        SIZE,
        SIZE,
        _fragment_index(fragment),
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
        _fragment_index(fragment),
        memory.access_ptr("w", ptr_type="float32"),
        memory.strides[0],
        "row_major",
        dtype="void",
    )


def _move(
    dtype: str, start: str, end: str, call: Callable[[Any, Any], Any]
) -> tuple[tirx.PrimFunc, tirx.PrimFunc]:
    """Return the copy of a matrix between two scopes, in TensorIR and as a call."""

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def desc(source: T.handle, target: T.handle) -> None:
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
    def impl(source: T.handle, target: T.handle) -> None:
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

    return desc, impl


def _fill() -> tuple[tirx.PrimFunc, tirx.PrimFunc]:
    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def desc(target: T.handle) -> None:
        c = T.match_buffer(target, (16, 16), "float32", align=64, offset_factor=16, scope=SUMS)
        with T.sblock("root"):
            T.reads()
            T.writes(c[0:16, 0:16])
            for i, j in T.grid(16, 16):
                with T.sblock("init"):
                    m, n = T.axis.remap("SS", [i, j])
                    c[m, n] = T.float32(0)

    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def impl(target: T.handle) -> None:
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
                T.tvm_fill_fragment(
                    c.data, 16, 16, 16, _fragment_index(c), T.float32(0), dtype="void"
                )
            )

    return desc, impl


def _multiply() -> tuple[tirx.PrimFunc, tirx.PrimFunc]:
    @T.prim_func(s_tir=True)  # type: ignore[untyped-decorator]
    def desc(data: T.handle, weights: T.handle, sums: T.handle) -> None:
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
    def impl(data: T.handle, weights: T.handle, sums: T.handle) -> None:
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
                    _fragment_index(c),
                    a.data,
                    _fragment_index(a),
                    b.data,
                    _fragment_index(b),
                    c.data,
                    _fragment_index(c),
                    dtype="void",
                )
            )

    return desc, impl
