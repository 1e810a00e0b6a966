"""Direct NHWC convolution: a tile of pixels x channels in registers, vectors of channels."""

from __future__ import annotations

from tvm import s_tir, tirx

from mobilenet_tvm.schedules.fallback.elementwise import lanes_of, vectorize_and_parallelize
from mobilenet_tvm.schedules.loops import blocks_of, divisor_at_most, extent, inline_all_but
from mobilenet_tvm.targets.target import Target

#: Names of the blocks of NHWC convolutions in TVM's operator inventory (TOPI).
CONVOLUTIONS = ("conv2d_nhwc", "group_conv2d_nhwc")


def apply(func: tirx.PrimFunc, target: Target) -> s_tir.Schedule | None:
    """Schedule a convolution with its padding and its fused epilogue.

    Each thread computes rows of the output; in a row, a tile of pixels x channels stays in
    registers during the whole reduction and passes through the epilogue as it is stored.

    Parameters
    ----------
    func : PrimFunc
        Its blocks are an optional padded copy, the convolution, then element-wise blocks.
    target : Target
        Determines the vector width and the number of registers.

    Returns
    -------
    Schedule or None
        None if the function holds no NHWC convolution.
    """
    sch = s_tir.Schedule(func)
    names = [sch.get(block).name_hint for block in blocks_of(sch)]
    found = [name for name in names if name in CONVOLUTIONS]
    if len(found) != 1:
        return None
    name = found[0]
    pads = [n for n in names if n.startswith("pad_temp") and _pads(sch, n)]
    inline_all_but(sch, keep=set(pads))
    conv = sch.get_sblock(name)
    if not sch.get_consumers(conv):
        # Without an epilogue, copying out of the registers needs a block of its own.
        sch.cache_write(conv, 0, "global")
    output = sch.get_output_blocks("root")[0]
    for pad in pads:
        vectorize_and_parallelize(sch, sch.get_sblock(pad), target)

    batch, row, column, channel = sch.get_loops(output)
    lanes = lanes_of(sch, conv, target)
    vector = divisor_at_most(extent(sch, channel), 2 * lanes)
    # Leave four registers for the operands of the multiply-adds.
    vectors = -(-vector // lanes)
    pixels = divisor_at_most(extent(sch, column), (target.vector_registers - 4) // vectors)
    channel_tile, channel_vector = sch.split(channel, [None, vector])
    column_tile, column_pixel = sch.split(column, [None, pixels])
    sch.reorder(batch, row, column_tile, channel_tile, column_pixel, channel_vector)
    sch.parallel(sch.fuse(batch, row))
    sch.unroll(column_pixel)
    sch.vectorize(channel_vector)

    sch.compute_at(conv, channel_tile, preserve_unit_loops=True)
    *_, n, y, x, c, ry, rx, rc = sch.get_loops(conv)
    sch.reorder(ry, rx, rc, n, y, x, c)
    sch.unroll(x)
    sch.vectorize(c)
    init = sch.decompose_reduction(conv, ry)
    *_, x_init, c_init = sch.get_loops(init)
    sch.vectorize(c_init)
    sch.unroll(x_init)
    return sch


def _pads(sch: s_tir.Schedule, name: str) -> bool:
    """Return whether a `pad_temp` block really pads; TVM creates one for every convolution."""
    block = sch.get(sch.get_sblock(name))
    source, copy = block.reads[0].source, block.writes[0].source
    return [int(e) for e in source.shape] != [int(e) for e in copy.shape]
