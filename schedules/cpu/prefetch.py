"""Prefetches weights: the next panel comes into the cache while the present one is used."""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx
from tvm.s_tir.schedule import LoopRV

from mobilenet_tvm.schedules.loops import extent, replace_body
from mobilenet_tvm.schedules.workloads import size_of

#: In bytes.
CACHE_LINE = 64


def prefetch_next_panel(
    sch: s_tir.Schedule, loop: LoopRV, panel: Any, tile: Any, tiles: int
) -> tirx.PrimFunc:
    """Return a schedule's function with prefetches at the head of a loop over inputs.

    Each tile of pixels that uses a panel brings its share of the next one, so that the traffic
    is even. Weights are read once per inference and so come from the last cache or from memory:
    49x160x960 with cold weights took 145 us and takes 135.

    Parameters
    ----------
    sch : Schedule
        Its function's second parameter is the packed weights, [panels, inputs, tile_n].
    loop : LoopRV
        Runs over a panel's inputs, some at a time.
    panel, tile : Expr
        Which panel is used, and by which of `tiles` tiles; in terms of the loops around.
    tiles : int
        How many tiles of pixels use a panel one after the other.
    """
    func = sch.mod["main"]
    weight = func.params[1]
    _, inputs, tile_n = (int(size) for size in weight.shape)
    line_values = CACHE_LINE // size_of(str(weight.ty.dtype))
    steps = extent(sch, loop)
    step = sch.get(loop).loop_var
    # A tile's share of the panel: some lines per step, or one line for so many steps, a power of
    # two, which divides by a shift.
    share = -(-inputs * tile_n // (line_values * tiles))
    lines = -(-share // steps)
    steps_per_line = 1 << max(0, (steps // share).bit_length() - 1)

    def prefetch(line: int) -> tirx.Evaluate:
        place = (tile * share + step // steps_per_line * lines + line) * line_values
        # The last panel's successor lies outside; a prefetch there does nothing.
        element = tirx.BufferLoad(weight, [panel + 1, place // tile_n, place % tile_n])
        address = tirx.call_intrin("handle", "tirx.address_of", element)
        # To be read, of high locality, data.
        return tirx.Evaluate(tirx.call_intrin("void", "tirx.prefetch", address, 0, 3, 1))

    def inserted(body: Any) -> Any:
        return tirx.SeqStmt([*map(prefetch, range(lines)), body])

    return replace_body(func, step, inserted)
