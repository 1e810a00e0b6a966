"""What all schedules share: blocks and loops, epilogues, padding, divisors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import s_tir, te, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV
from tvm.te.tensor import TensorSlice

from mobilenet_tvm.schedules.workloads import CHANNEL_STEPS, TENSOR_STEPS, Epilogue, output_dtype
from mobilenet_tvm.targets.target import Target

#: Starting the threads costs as much as one of them needs for about as many operations.
PARALLEL_FLOPS = 200_000

#: TVM keeps a buffer on the stack, where LLVM makes it registers, if it is smaller than 1024 bytes
#: and of the scope "global". Any other costs an allocation, a clearing and dead stores per tile:
#: 784x32x192 took 104 us with a "local" tile and takes 83 with this (FMA limit 82).
MOST_TILE_BYTES = 1023

#: A schedule returns None for a function that is not its own.
Rule = Callable[[tirx.PrimFunc, Target], s_tir.Schedule | None]


def blocks_of(sch: s_tir.Schedule) -> list[SBlockRV]:
    """Return the leaf blocks of a function in the order in which they run."""
    return list(sch.get_child_blocks(sch.get_sblock("root")))


def iteration_types(sch: s_tir.Schedule, block: SBlockRV) -> str:
    """Return a letter per axis of a block: 'S' for spatial, 'R' for reduction."""
    kinds = {tirx.IterVar.DataPar: "S", tirx.IterVar.CommReduce: "R"}
    return "".join(kinds.get(int(axis.iter_type), "O") for axis in sch.get(block).iter_vars)


def is_reduction(sch: s_tir.Schedule, block: SBlockRV) -> bool:
    """Tell whether a block sums (or otherwise reduces) over an axis."""
    return "R" in iteration_types(sch, block)


def extent(sch: s_tir.Schedule, loop: LoopRV) -> int:
    """Return the static number of iterations of a loop."""
    return int(sch.get(loop).extent)


def divisor_at_most(number: int, limit: int) -> int:
    """Return the largest divisor of `number` that is at most `limit` (at least 1)."""
    return next(d for d in range(min(number, max(limit, 1)), 0, -1) if number % d == 0)


def inline_all_but(sch: s_tir.Schedule, keep: set[str]) -> None:
    """Inline every element-wise block, except the named ones and the one that writes the output."""
    for block in blocks_of(sch):
        name = sch.get(block).name_hint
        if name in keep or is_reduction(sch, block) or sch.get_consumers(block) == []:
            continue
        try:
            sch.compute_inline(block)
        except tvm.s_tir.ScheduleError:
            continue


def epilogue_stage(
    epilogue: Epilogue,
    shape: Sequence[int],
    element: Callable[..., Any],
    name: str = "epilogue",
    dtype: str = "float32",
) -> tuple[list[te.Tensor], te.Tensor]:
    """Return a layer's last stage, all steps of an epilogue, and the tensors that they read.

    Parameters
    ----------
    epilogue : Epilogue
        The steps, in order.
    shape : sequence of int
        Of the output; channels come last.
    element : callable
        Gives the sum at an output element's indices. The steps compute in its type.
    name : str
        Of the stage's block.
    dtype : str
        Of the tensors, and of the output but for a step that says otherwise.
    """
    shapes = {
        **dict.fromkeys(CHANNEL_STEPS, (shape[-1],)),
        **dict.fromkeys(TENSOR_STEPS, tuple(shape)),
    }
    operands = [
        te.placeholder(shapes[step.op], dtype, name=f"{step.op}_{index}")
        for index, step in enumerate(epilogue)
        if step.op in shapes
    ]

    def stored(*indices: Any) -> Any:
        value = element(*indices)
        type_ = str(value.dtype if isinstance(value, TensorSlice) else value.ty)
        tensors = iter(operands)
        for step in epilogue:
            operand = None
            if step.op in shapes:
                place = indices[-1] if step.op in CHANNEL_STEPS else indices
                operand = next(tensors)[place].astype(type_)
            value = step.apply(value, operand, type_)
        return value.astype(output_dtype(epilogue, dtype))

    return operands, te.compute(tuple(shape), stored, name=name)


def keep_in_registers(sch: s_tir.Schedule, unrolled: Sequence[Any], vectorized: Any) -> None:
    """Unroll the loops of a tile and vectorise its innermost, so that it becomes registers."""
    for loop in unrolled:
        sch.unroll(loop)
    sch.vectorize(vectorized)


def sum_in_registers(
    sch: s_tir.Schedule,
    block: SBlockRV,
    start: LoopRV,
    unrolled: Sequence[LoopRV],
    tile: Sequence[LoopRV],
    lanes: int,
) -> None:
    """Hold a tile's sums in registers while what is summed passes by.

    Parameters
    ----------
    sch : Schedule
        Changed in place.
    block : SBlockRV
        Adds to the sums.
    start : LoopRV
        The outermost loop over what is summed: before it, the sums are cleared.
    unrolled : sequence of LoopRV
        Inner ones of these loops.
    tile : sequence of LoopRV
        The tile's, inside all of these, channels last.
    lanes : int
        Length of a vector; divides the tile's channels.
    """
    vector, lane = sch.split(tile[-1], [None, lanes])
    keep_in_registers(sch, [*unrolled, *tile[:-1], vector], lane)
    init = sch.decompose_reduction(block, start)
    *cleared, lane = sch.get_loops(init)[-len(tile) - 1 :]
    keep_in_registers(sch, cleared, lane)


def load_in_pairs(sch: s_tir.Schedule, block: SBlockRV, loop: LoopRV) -> list[LoopRV]:
    """Split a loop into pairs, and load both elements of a pair at once.

    For 64-bit ARM, whose multiply-add takes an element of a vector: half as many loads.

    Parameters
    ----------
    sch : Schedule
        Changed in place.
    block : SBlockRV
        Reads its first operand along that operand's last axis.
    loop : LoopRV
        The block's loop over that axis, or an even part of it.

    Returns
    -------
    list of LoopRV
        Over the pairs, over the two elements.
    """
    pair, element = sch.split(loop, [None, 2])
    # TVM keeps small arrays of the scope 'global' on the stack, where LLVM makes registers of
    # them; those of 'local' come from the heap.
    copy = sch.cache_read(block, 0, "global")
    sch.compute_at(copy, pair, preserve_unit_loops=True)
    *rows, vector = sch.get_loops(copy)[-len(sch.get(copy).iter_vars) :]
    keep_in_registers(sch, rows, vector)
    return [pair, element]


def replace_body(
    func: tirx.PrimFunc, loop_var: tirx.Var, change: Callable[[Any], Any]
) -> tirx.PrimFunc:
    """Return a scheduled function with another body in one loop; it cannot be scheduled further.

    Parameters
    ----------
    func : PrimFunc
        From a schedule.
    loop_var : Var
        Of the loop.
    change : callable
        Takes the loop's body and returns the new one.
    """

    def changed(stmt: Any) -> Any:
        if isinstance(stmt, tirx.SeqStmt):
            return tirx.SeqStmt([changed(part) for part in stmt.seq])
        if not isinstance(stmt, tirx.For):
            return stmt
        body = change(stmt.body) if stmt.loop_var.same_as(loop_var) else changed(stmt.body)
        parts = (stmt.loop_var, stmt.min, stmt.extent, stmt.kind, body, stmt.thread_binding)
        return tirx.For(*parts, stmt.annotations)

    root = func.body.block
    block = s_tir.SBlock(
        root.iter_vars,
        root.reads,
        root.writes,
        root.name_hint,
        changed(root.body),
        root.init,
        root.alloc_buffers,
        root.match_buffers,
        root.annotations,
    )
    body = s_tir.SBlockRealize([], tirx.const(True, "bool"), block)
    return tirx.PrimFunc(func.params, body, func.ret_type, attrs=func.attrs)


def padded(data: te.Tensor, padding: Sequence[int], nchw: bool = False) -> te.Tensor:
    """Return a picture with a border of zeros: top, left, bottom, right; NHWC unless `nchw`."""
    top, left, bottom, right = padding
    rows, columns = (2, 3) if nchw else (1, 2)
    shape = [int(extent) for extent in data.shape]
    height, width = shape[rows], shape[columns]
    shape[rows] += top + bottom
    shape[columns] += left + right
    if shape == [int(extent) for extent in data.shape]:
        return data

    def element(*indices: Any) -> Any:
        source = list(indices)
        source[rows] -= top
        source[columns] -= left
        inside = []
        for axis, before, after, extent in (
            (rows, top, bottom, height),
            (columns, left, right, width),
        ):
            inside += [indices[axis] >= before] if before else []
            inside += [indices[axis] < before + extent] if after else []
        return tirx.if_then_else(tirx.all(*inside), data[tuple(source)], tirx.const(0.0, "float32"))

    return te.compute(tuple(shape), element, name="pad")


def divisors(number: int, limit: int) -> list[int]:
    """Return the divisors of a number that are at most `limit`, ascending."""
    return [d for d in range(1, min(number, limit) + 1) if number % d == 0]
