"""Softmax along the last axis: a row at a time, in vectors of its elements where they are whole."""

from __future__ import annotations

from tvm import s_tir, tirx

from mobilenet_tvm.schedules.fallback.elementwise import PARALLEL_ELEMENTS, lanes_of
from mobilenet_tvm.schedules.loops import blocks_of, divisor_at_most, extent, iterations
from mobilenet_tvm.targets.target import Target

#: Blocks of TVM's softmax: maxima, exponentials, their sums, and what these divide.
BLOCKS = tuple(f"T_softmax_{name}" for name in ("maxelem", "exp", "expsum", "norm"))
#: The shortest vector for which a row is divided.
MIN_LANES = 4
#: Elements of a row for each of which there is code.
MOST_UNROLLED = 4


def apply(func: tirx.PrimFunc, target: Target) -> s_tir.Schedule | None:
    """Schedule a softmax along the last axis; return None for any other function.

    In vectors of rows, which read every element by itself, and with each exponential twice, 484
    rows of 80 took 118 us, and take 29; 6825 rows of 2 took 47 us, and take 10.
    """
    sch = s_tir.Schedule(func)
    if tuple(sch.get(block).name_hint for block in blocks_of(sch)) != BLOCKS:
        return None
    maximum, exponential, total, result = blocks_of(sch)
    *outer, last = sch.get_loops(result)
    if int(sch.get(result).annotations["axis"]) != len(outer) or not outer:
        return None
    size, work = extent(sch, last), iterations(sch, result)
    lanes = divisor_at_most(size, lanes_of(sch, result, target))
    of_lanes = []
    if lanes >= MIN_LANES:
        # The maximum and the sum of a row are taken of each lane first.
        for block in (maximum, total):
            _, lane = sch.split(sch.get_loops(block)[-1], [None, lanes])
            of_lanes.append(sch.rfactor(lane, len(outer)))
    row = sch.fuse(*outer)
    if work >= PARALLEL_ELEMENTS:
        sch.parallel(row)
    for block in (total, *of_lanes[1:], exponential, maximum, *of_lanes[:1]):
        sch.compute_at(block, row, preserve_unit_loops=True)
    if lanes >= MIN_LANES:
        for block in (result, exponential):
            sch.vectorize(sch.split(sch.get_loops(block)[-1], [None, lanes])[1])
    elif size <= MOST_UNROLLED:
        for block in (maximum, exponential, total, result):
            sch.unroll(sch.get_loops(block)[-1])
    for block in of_lanes:
        _, lane, *_, vector = sch.get_loops(block)
        sch.reorder(vector, lane)
        sch.vectorize(lane)
    return sch
