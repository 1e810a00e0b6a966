"""Instruction sets that multiply integers, by the names that targets use."""

from __future__ import annotations

from mobilenet_tvm.schedules.cpu.dot.base import Dot, Tile
from mobilenet_tvm.schedules.cpu.dot.dotprod import DOTPROD
from mobilenet_tvm.schedules.cpu.dot.i8mm import I8MM
from mobilenet_tvm.schedules.cpu.dot.neon import NEON, NEON_SHORT
from mobilenet_tvm.schedules.cpu.dot.pmaddwd import AVX2, AVX512BW, SSE4
from mobilenet_tvm.schedules.cpu.dot.vnni import AVX512_VNNI, AVX_VNNI
from mobilenet_tvm.schedules.workloads import Types
from mobilenet_tvm.targets.target import Target

#: Instruction sets by the name that a target has: for weights of 8 bits and of 16. The first is
#: the widest; the others compute what is left over.
SETS: dict[str, tuple[tuple[Dot, ...], tuple[Dot, ...]]] = {
    "avx512-vnni": (AVX512_VNNI, AVX512BW),
    "avx512bw": (AVX512BW, AVX512BW),
    "avx-vnni": (AVX_VNNI, AVX2),
    "avx2": (AVX2, AVX2),
    "sse4.1": (SSE4, SSE4),
    "neon": ((NEON,), (NEON_SHORT,)),
    "dotprod": ((DOTPROD,), (NEON_SHORT,)),
    "i8mm": ((I8MM,), (NEON_SHORT,)),
}
#: All of them by their own names.
DOTS: dict[str, Dot] = {dot.name: dot for sets in SETS.values() for dots in sets for dot in dots}


def dots_of(target: Target, types: Types) -> tuple[Dot, ...]:
    """Return what multiplies a layer's integers on a target, the widest first; may be empty."""
    if not types.integer or target.dot not in SETS:
        return ()
    if types.weights not in ("int8", "int16") or types.data not in (target.bytes_type, "float32"):
        return ()
    narrow, wide = SETS[target.dot]
    return narrow if types.weights == "int8" else wide


__all__ = ["DOTS", "Dot", "Tile", "dots_of"]
