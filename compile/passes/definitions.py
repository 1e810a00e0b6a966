"""Definitions of operators in loops: for what Relax lacks, cannot fuse, or loses NaN in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax, te, tirx, topi
from tvm.ir import Op, _ffi_api, register_op_attr
from tvm.relax.transform.legalize_ops.common import register_legalize
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T  # noqa: N812

from mobilenet_tvm.schedules.limits import maximum, minimum
from mobilenet_tvm.schedules.workloads import Step

#: TVM's number for operators each of whose results depends on one place in the input.
_INJECTIVE = 2


def topk(data: te.Tensor, k: int, largest: bool, dtype: str) -> te.Tensor:
    """Return the indices of the k largest or smallest values of each row, best first.

    Each row is read once; the index of what is better than the worst value so far is inserted into
    a sorted list of k. Of equal values, the first one is better, as in ONNX.

    Parameters
    ----------
    data : Tensor
        [rows, columns].
    k : int
        At most the number of columns.
    largest : bool
        Whether large values are better.
    dtype : str
        Type of the indices.
    """
    rows, columns = (int(extent) for extent in data.shape)

    def body(source: Any, target: Any) -> Any:
        values, best = T.buffer_proxy(source), T.buffer_proxy(target)

        def is_better(row: Any, value: Any, place: Any) -> Any:
            other = values[row * columns + best[place].astype("int32")]
            return value > other if largest else value < other

        with IRBuilder() as builder:
            with T.parallel(0, rows) as row, T.serial(0, columns) as column:
                place = T.buffer_proxy(T.decl_buffer([1], "int32", scope="local"))
                first, last = row * k, row * k + k - 1
                value = values[row * columns + column]
                with T.If(tirx.any(column < k, is_better(row, value, last))), T.Then():
                    place[0] = first + tirx.min(column, k - 1)
                    with T.While(tirx.all(place[0] > first, is_better(row, value, place[0] - 1))):
                        best[place[0]] = best[place[0] - 1]
                        place[0] = place[0] - 1
                    best[place[0]] = column.astype(dtype)
            return builder.get()

    indices = tirx.decl_buffer((rows, k), dtype, "indices", layout=None)
    return te.extern(
        [(rows, k)],
        [data],
        lambda inputs, outputs: body(inputs[0], outputs[0]),
        dtype=[dtype],
        out_buffers=[indices],
        name="topk",
    )


def _topk(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Define TopK as the importer writes it: the indices along the last axis of a matrix."""
    attrs = call.attrs
    return builder.call_te(topk, call.args[0], int(attrs.k), bool(attrs.largest), str(attrs.dtype))


def _take(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Define Take as a map of indices, so that it is fused; TVM's analysis does not see that."""
    return builder.call_te(
        topi.take,
        *call.args,
        call.attrs.axis,
        mode=call.attrs.mode,
        primfunc_attrs={"op_pattern": _INJECTIVE},
    )


def _cumulative(function: Callable[..., te.Tensor]) -> Callable[..., relax.Expr]:
    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        axis = None if call.attrs.axis is None else int(call.attrs.axis)
        return builder.call_te(
            function, call.args[0], axis, str(call.ty.dtype), bool(call.attrs.exclusive)
        )

    return legalize


def define_step(builder: relax.BlockBuilder, step: Step, data: relax.Expr) -> relax.Expr:
    """Define an element-wise operator as the step of an epilogue, which it is where it is fused."""

    def compute(x: te.Tensor) -> te.Tensor:
        return te.compute(x.shape, lambda *i: step.apply(x[i], dtype=str(x.dtype)), name=step.op)

    return builder.call_te(compute, data, primfunc_name_hint=step.op)


def register_step(name: str) -> None:
    """Register an element-wise operator `mobilenet.STEP`, defined as the step of an epilogue."""
    full = f"relax.{name}"
    _ffi_api.RegisterOp(full, name)
    _ffi_api.OpSetNumInputs(Op.get(full), 1)
    register_op_attr(full, "FInferType", lambda call, _: call.args[0].ty)
    register_op_attr(full, "FPurity", True)
    step = Step(name.removeprefix("mobilenet."))
    register_legalize(full)(lambda builder, call: define_step(builder, step, call.args[0]))


def call_step(name: str, data: relax.Expr) -> relax.Call:
    """Return a call of an operator that `register_step` registered."""
    return relax.Call(Op.get(f"relax.{name}"), [data])


def _relu(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    return define_step(builder, Step("relu"), call.args[0])


def _clip(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    data, low, high = call.args
    if not str(data.ty.dtype).startswith("float"):
        return builder.call_te(topi.clip, data, low, high)
    return define_step(builder, Step("clip", (float(low.value), float(high.value))), data)


def _limit(name: str, limit: Callable[[Any, Any, str], Any]) -> Callable[..., relax.Expr]:
    """Return the definition of Maximum or Minimum."""

    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        dtype = str(call.ty.dtype)

        def element(x: te.Tensor, place: Sequence[Any]) -> Any:
            last = place[len(place) - len(x.shape) :]
            return x[tuple(0 if int(n) == 1 else i for n, i in zip(x.shape, last, strict=True))]

        def compute(left: te.Tensor, right: te.Tensor) -> te.Tensor:
            return te.compute(
                call.ty.shape.values,
                lambda *place: limit(element(left, place), element(right, place), dtype),
                name=name,
            )

        return builder.call_te(compute, *call.args, primfunc_name_hint=name)

    return legalize


def _extreme(
    name: str, native: Callable[[Any, Any], Any], bound: float
) -> Callable[..., relax.Expr]:
    """Return the definition of Max or Min along axes, of which an infinity is the bound.

    Those of TVM start with a finite number, beyond which is what is masked with an infinity.
    """

    def identity(kind: Any) -> Any:
        dtype = str(kind)
        if dtype.startswith("float"):
            return tirx.const(bound, dtype)
        return tirx.min_value(dtype) if bound < 0 else tirx.max_value(dtype)

    reducer = te.comm_reducer(lambda left, right: native(left, right), identity, name)

    def compute(data: te.Tensor, axes: Sequence[int], keepdims: bool) -> te.Tensor:
        reduced = {axis: te.reduce_axis((0, data.shape[axis]), f"k{axis}") for axis in axes}
        shape = [1 if axis in reduced else n for axis, n in enumerate(data.shape)]
        kept = [axis for axis in range(len(shape)) if keepdims or axis not in reduced]

        def element(*places: Any) -> Any:
            place = dict(zip(kept, places, strict=True)) | reduced
            return reducer(
                data[tuple(place[axis] for axis in range(len(shape)))], axis=[*reduced.values()]
            )

        return te.compute([shape[axis] for axis in kept], element, name=name)

    def legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        rank = len(call.args[0].ty.shape.values)
        axes = range(rank) if call.attrs.axis is None else [int(a) % rank for a in call.attrs.axis]
        return builder.call_te(
            compute, call.args[0], sorted(axes), bool(call.attrs.keepdims), primfunc_name_hint=name
        )

    return legalize


#: What `LegalizeOps` uses instead of Relax's definitions, by operator.
DEFINITIONS: dict[str, Callable[[relax.BlockBuilder, relax.Call], relax.Expr]] = {
    "relax.take": _take,
    "relax.topk": _topk,
    "relax.cumsum": _cumulative(topi.cumsum),
    "relax.cumprod": _cumulative(topi.cumprod),
    "relax.nn.relu": _relu,
    "relax.clip": _clip,
    "relax.max": _extreme("max", tirx.max, -math.inf),
    "relax.min": _extreme("min", tirx.min, math.inf),
    "relax.maximum": _limit("maximum", maximum),
    "relax.minimum": _limit("minimum", minimum),
}
