"""Register tiles: loops that are unrolled, vectorised and accumulated in vector registers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import s_tir
from tvm.s_tir.schedule import LoopRV, SBlockRV

from mobilenet_tvm.schedules.cpu.base import vector_lanes
from mobilenet_tvm.schedules.loops import divisors
from mobilenet_tvm.schedules.workloads import Types, size_of
from mobilenet_tvm.targets.target import Target

#: TVM allocates a buffer on the stack, where LLVM promotes it to registers, if it is smaller than
#: 1024 bytes and of scope "global". Any other costs an allocation, clearing and dead stores per
#: tile: 784x32x192 took 104 us with a "local" tile and takes 83 us with this (FMA limit 82).
MAX_TILE_BYTES = 1023
#: Bytes that an in-order core loads per cycle.
IN_ORDER_LOAD_BYTES = 8
#: The fewest inputs of a matrix product that are worth unrolling.
MIN_UNROLLED = 4


def fits_stack(values: int, dtype: str) -> bool:
    """Return whether LLVM promotes a tile of `values` values of a type to registers."""
    return values * size_of(dtype) <= MAX_TILE_BYTES


def fits_registers(target: Target, rows: int, vectors: int) -> bool:
    """Return whether the sums of a matrix product's tile, its weights and its data fit.

    For the data, FMLA takes a lane of a register, and x86 broadcasts. On ARM two more registers let
    LLVM load ahead; without them it spills in some loops.
    """
    data = rows + 2 if target.architecture == "aarch64" else 1
    return rows * vectors + vectors + data <= target.vector_registers


def tile_widths(vectors: int, most: int) -> list[int]:
    """Return how many vectors of a layer's outputs a register tile may have, ascending.

    They divide the vectors. A number without small divisors is padded, by an eighth at most: a
    detector's 546 outputs are 35 vectors of 16, and one at a time each multiply-add needs a
    broadcast of its own.

    Parameters
    ----------
    vectors : int
        All the layer's.
    most : int
        The most of a tile.
    """
    widths = divisors(vectors, most)
    if widths == [1]:
        widths += [w for w in range(2, most + 1) if 8 * (-vectors % w) <= vectors > w]
    return widths


def cycles_per_input(target: Target, lanes: int, rows: int, vectors: int, types: Types) -> float:
    """Estimate the cycles of a register tile for an input of each row.

    Parameters
    ----------
    target : Target
        Units, latency and ports.
    lanes : int
        Length of a vector.
    rows, vectors : int
        The tile.
    types : Types
        The layer's.
    """
    # Units of half the width issue twice as often, up to two per cycle.
    rate = min(2, target.fma_per_cycle * vector_lanes(types, target) // lanes)
    multiply = max(rows * vectors / rate, target.fma_latency)
    if not target.in_order:
        return max(multiply, (rows + vectors) / 2)
    # An in-order core does not overlap loads.
    read = size_of(types.data) * rows + size_of(types.weights) * vectors * lanes
    return multiply + read / IN_ORDER_LOAD_BYTES


def keep_in_registers(sch: s_tir.Schedule, unrolled: Sequence[Any], vectorized: Any) -> None:
    """Unroll the loops of a tile and vectorise the innermost, so that it is kept in registers."""
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
    """Hold a tile's sums in registers during a reduction.

    Parameters
    ----------
    sch : Schedule
        Changed in place.
    block : SBlockRV
        The block that accumulates the sums.
    start : LoopRV
        The outermost reduction loop; the sums are cleared before it.
    unrolled : sequence of LoopRV
        Reduction loops to unroll.
    tile : sequence of LoopRV
        The loops of the tile, inside all of these, channels last.
    lanes : int
        Vector length; divides the tile's channels.
    """
    vector, lane = sch.split(tile[-1], [None, lanes])
    keep_in_registers(sch, [*unrolled, *tile[:-1], vector], lane)
    init = sch.decompose_reduction(block, start)
    *cleared, lane = sch.get_loops(init)[-len(tile) - 1 :]
    keep_in_registers(sch, cleared, lane)


def together(types: Types, target: Target) -> int:
    """Return how many of a layer's values are loaded at once for multiply-adds that take one.

    An in-order core would wait for the second half of a whole register.
    """
    if target.architecture != "aarch64":
        return 1
    loaded = IN_ORDER_LOAD_BYTES if target.in_order else target.vector_bits // 8
    return loaded // size_of(types.data)


def unrolled_inputs(inputs: int, types: Types, target: Target) -> int:
    """Return how many inputs of a matrix product an iteration of its innermost loop takes."""
    group = together(types, target)
    counts = (count for count in (2 * group, group, MIN_UNROLLED) if count >= MIN_UNROLLED)
    return next((count for count in counts if inputs % count == 0), 1)


def load_together(sch: s_tir.Schedule, block: SBlockRV, loop: LoopRV, count: int) -> list[LoopRV]:
    """Split a loop into groups, and load the elements of a group at once.

    For 64-bit ARM, whose multiply-add can take a lane of a vector: this takes fewer loads.

    Parameters
    ----------
    sch : Schedule
        Changed in place.
    block : SBlockRV
        A block that reads its first operand of several axes along the last one.
    loop : LoopRV
        The block's loop over that axis, or over a part of it.
    count : int
        Elements of a group; 1 leaves the loop as it is.

    Returns
    -------
    list of LoopRV
        The loops over the groups and over their elements.
    """
    if count == 1:
        return [loop]
    group, element = sch.split(loop, [None, count])
    # TVM allocates small arrays of scope 'global' on the stack, where LLVM promotes them to
    # registers; those of scope 'local' come from the heap.
    reads = [len(region.region) for region in sch.get(block).reads]
    copy = sch.cache_read(block, next(i for i, axes in enumerate(reads) if axes > 1), "global")
    sch.compute_at(copy, group, preserve_unit_loops=True)
    *rows, vector = sch.get_loops(copy)[-len(sch.get(copy).iter_vars) :]
    keep_in_registers(sch, rows, vector)
    return [group, element]


def tile_features(
    rows: float, vectors: float, broadcasts: float, loads: float, target: Target
) -> dict[str, float]:
    """Describe a register tile: its sums, and the reads of one reduction step."""
    sums = rows * vectors
    return {
        "sums": sums,
        "vectors": vectors,
        "sums_share": sums / target.vector_registers,
        "pressure": (sums + vectors + 1) / target.vector_registers,
        "reads_per_sum": (broadcasts + loads) / sums,
        "busy": sums / (target.fma_latency * target.fma_per_cycle),
    }
