"""What depthwise layers and pooling share: windows over each channel, in vectors of channels.

Channels that are no whole number of vectors are computed in two pieces, of which the second, a
shorter vector, may overlap the first.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir.expr import TensorLoad, TensorRegion

from mobilenet_tvm.schedules.base import Decision as BaseDecision
from mobilenet_tvm.schedules.cpu.base import PARALLEL_FLOPS, CpuSchedule
from mobilenet_tvm.schedules.cpu.registers import keep_in_registers, sum_in_registers
from mobilenet_tvm.schedules.loops import with_body
from mobilenet_tvm.schedules.workloads import Depthwise, WindowPool
from mobilenet_tvm.targets.target import Target


@dataclass(frozen=True)
class Decision(BaseDecision):
    """How to compute windows.

    Parameters
    ----------
    tile_y, tile_x : int
        Rows and columns of the output tile; divide the output's extents.
    tile_c : int
        Channels of the tile; divides the channels, or those that fill whole vectors.
    channels_outside : bool
        Whether the loop over channel tiles is the outermost: better for small images with
        many channels, whose weights then stay in registers.
    """

    tile_y: int
    tile_x: int
    tile_c: int
    channels_outside: bool


W = TypeVar("W", Depthwise, WindowPool)
D = TypeVar("D", bound=Decision)


@dataclass(frozen=True)
class Piece:
    """Neighbouring channels, in whole vectors.

    Parameters
    ----------
    first, channels : int
        Where they begin, and how many they are.
    lanes : int
        Length of a vector.
    """

    first: int
    channels: int
    lanes: int


def ragged_pieces(channels: int, lanes: int) -> list[Piece]:
    """Return channels as whole vectors, and the rest as a shorter one.

    Parameters
    ----------
    channels : int
        How many there are.
    lanes : int
        Length of a vector register, a power of two.

    Returns
    -------
    list of Piece
        Two pieces; or a single one if the channels are whole vectors, of less than a register if
        there are few.
    """
    lanes = min(lanes, 1 << (channels.bit_length() - 1))
    rest = channels % lanes
    found = [Piece(0, channels - rest, lanes)]
    if rest:
        shorter = 1 << (rest - 1).bit_length()
        found.append(Piece(channels - shorter, shorter, shorter))
    return found


class WindowSchedule(CpuSchedule[W, D]):
    """Keeps a tile of rows x columns x channels in registers while iterating over a window."""

    dilates = True

    @abstractmethod
    def function(self, workload: W, target: Target) -> tirx.PrimFunc:
        """Return the function with blocks `depthwise`, which reduces windows, and `epilogue`."""

    def scheduled(
        self, workload: W, decision: D, pieces: Sequence[Piece], target: Target
    ) -> tirx.PrimFunc:
        """Return the scheduled function of a layer that is computed in pieces."""
        parts = []
        for piece in pieces:
            part = replace(workload, channels=piece.channels)
            sch = s_tir.Schedule(self.function(part, target))
            tile = replace(decision, tile_c=min(decision.tile_c, piece.channels))
            _schedule(sch, tile, piece.lanes, workload.flops >= PARALLEL_FLOPS)
            parts.append(sch.mod["main"])
        if len(parts) == 1:
            return parts[0]
        return _side_by_side(
            self.function(workload, target), parts, [piece.first for piece in pieces]
        )


def _schedule(sch: s_tir.Schedule, decision: Decision, lanes: int, parallel: bool) -> None:
    total, result = sch.get_sblock("depthwise"), sch.get_sblock("epilogue")
    n, y, x, c = sch.get_loops(result)
    y_tiles, y_tile = sch.split(y, [None, decision.tile_y])
    x_tiles, x_tile = sch.split(x, [None, decision.tile_x])
    c_tiles, c_vector, c_lane = sch.split(c, [None, decision.tile_c // lanes, lanes])
    outer, inner = (c_tiles, y_tiles) if decision.channels_outside else (y_tiles, c_tiles)
    sch.reorder(n, outer, inner, x_tiles, y_tile, x_tile, c_vector, c_lane)
    # Only the outer loop is parallel: where the inner one runs over rows, LLVM peels the border.
    bands = sch.fuse(n, outer)
    if parallel:
        sch.parallel(bands)
    sch.compute_at(total, x_tiles, preserve_unit_loops=True)
    # Padding is a condition on the address. It is constant across a vector, so LLVM hoists it out
    # of the unrolled tile: on x86 twice as fast as a padded copy of the input.
    for block in sch.get_producers(total):
        sch.compute_inline(block)

    *_, ty, tx, tc, ry, rx = sch.get_loops(total)
    sch.reorder(ry, rx, ty, tx, tc)
    sum_in_registers(sch, total, ry, [ry, rx], [ty, tx, tc], lanes)
    keep_in_registers(sch, [y_tile, x_tile, c_vector], c_lane)


def _side_by_side(
    whole: tirx.PrimFunc, parts: Sequence[tirx.PrimFunc], firsts: Sequence[int]
) -> tirx.PrimFunc:
    """Return a function that computes pieces of the channels of each band of rows in turn.

    Parameters
    ----------
    whole : PrimFunc
        The layer, whose parameters have all channels.
    parts : sequence of PrimFunc
        The scheduled pieces, each with one outer loop, over the same bands.
    firsts : sequence of int
        Their first channels.
    """
    loop = parts[0].body.block.body
    bodies, kept = [], []
    for part, first in zip(parts, firsts, strict=True):
        own = part.body.block.body
        new: dict[Any, Any] = dict(zip(part.params, whole.params, strict=True))
        sliced = {
            full
            for small, full in new.items()
            if [*map(int, small.ty.shape)] != [*map(int, full.ty.shape)]
        }
        new[own.loop_var] = loop.loop_var

        bodies.append(_moved(own.body, new, sliced, first))
        kept += part.body.block.alloc_buffers
    both = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, tirx.SeqStmt(bodies))
    return with_body(whole, both, kept)


def _moved(body: tirx.Stmt, new: dict[Any, Any], sliced: set[Any], first: int) -> tirx.Stmt:
    """Return code with other variables, and with a first channel added in some tensors."""

    def place(indices: Sequence[Any]) -> list[Any]:
        return [*indices[:-1], indices[-1] + first]

    def load(node: TensorLoad) -> Any:
        return tirx.BufferLoad(node.source, place(node.indices)) if node.source in sliced else node

    def store(node: tirx.BufferStore) -> Any:
        if node.buffer not in sliced:
            return node
        return tirx.BufferStore(node.buffer, node.value, place(node.indices))

    def region(node: TensorRegion) -> Any:
        if node.source not in sliced:
            return node
        *outer, last = node.region
        channels = tvm.ir.Range.from_min_extent(last.min + first, last.extent)
        return tirx.BufferRegion(node.source, [*outer, channels])

    moves = [
        (tirx.Var, lambda var: new.get(var, var)),
        (TensorLoad, load),
        (tirx.BufferStore, store),
        (TensorRegion, region),
    ]
    return tvm_ffi.structural_map(body, moves)
