"""What schedules that emit loops over vectors share: parameters, loads, stores, conditions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T  # noqa: N812

from mobilenet_tvm.schedules.base import D, Schedule, W
from mobilenet_tvm.targets.target import Target


class EmittedSchedule(Schedule[W, D]):
    """A schedule whose functions are emitted as loops over vectors."""

    def default(self, workload: W, target: Target) -> D:
        """Choose the first decision with the fewest cycles in a model of its instructions."""
        return min(
            self.decisions(workload, target),
            key=lambda decision: self.cycles(workload, decision, target),
        )

    def build(self, workload: W, decision: D, target: Target) -> tirx.PrimFunc:
        """Return the scheduled function."""
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name("main")
            T.func_attr({"tirx.noalias": True})
            self.emit(workload, decision, target)
        return builder.get()

    @abstractmethod
    def emit(self, workload: W, decision: D, target: Target) -> None:
        """Emit the function's parameters and body."""


def parameter(name: str, size: int, dtype: str) -> Any:
    """Emit a parameter: a flat tensor."""
    return T.arg(name, T.Buffer((size,), dtype, align=64))


def load(buffer: Any, index: Any, lanes: int) -> Any:
    """Return consecutive elements of a flat tensor."""
    return buffer[T.ramp(index, 1, lanes)] if lanes > 1 else buffer[index]


def store(buffer: Any, index: Any, values: Any, lanes: int, count: int) -> None:
    """Emit the store of the first `count` of a vector's lanes."""
    if count == lanes:
        T.buffer_store(buffer, values, [T.ramp(index, 1, lanes) if lanes > 1 else index])
        return
    values, first = T.bind(values), 0
    while first < count:
        size = 1 << ((count - first).bit_length() - 1)
        part = tirx.Shuffle([values], list(range(first, first + size)))
        place = index + first
        T.buffer_store(buffer, part, [T.ramp(place, 1, size) if size > 1 else place])
        first += size


def load_some(buffer: Any, index: Any, lanes: int, count: int) -> Any:
    """Return a vector whose first `count` lanes are loaded, and no byte behind them."""
    if count == lanes:
        return load(buffer, index, lanes)
    parts, first = [], 0
    while first < count:
        size = 1 << ((count - first).bit_length() - 1)
        parts.append(load(buffer, index + first, size))
        first += size
    zeros = tirx.Broadcast(tirx.const(0, str(buffer.ty.dtype)), lanes)
    return tirx.Shuffle([*parts, zeros], list(range(lanes)))


def repeated(values: Any, copies: int, lanes: int) -> Any:
    """Return a vector of some lanes that repeats a shorter one."""
    return values if copies == 1 else tirx.Shuffle([values] * copies, list(range(lanes)))


def either(whole: Any, size: int, rest: int, total: int, emit: Callable[[int], None]) -> None:
    """Emit the code for a whole tile, or for the last, which is smaller, by a condition.

    Parameters
    ----------
    whole : Expr
        Whether the tile is whole.
    size, rest, total : int
        Elements of a whole tile, of the last if it is smaller, else 0, and of all.
    emit : callable
        Emits the code for a number of elements.
    """
    if not rest or total < size:
        emit(min(size, total))
        return
    with T.If(whole):
        with T.Then():
            emit(size)
        with T.Else():
            emit(rest)
