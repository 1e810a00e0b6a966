"""SSE4.1, AVX2 and AVX-512 without VNNI: PMADDWD multiplies pairs of 16-bit integers.

It never saturates. PMADDUBSW multiplies bytes, but its sums of two products have 16 bits: two of
255 * 127 are too large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from mobilenet_tvm.schedules.cpu.dot.base import intrinsic, unpack
from mobilenet_tvm.schedules.cpu.dot.x86 import X86Dot
from mobilenet_tvm.schedules.workloads.dtypes import vector_type

_NAMES = {
    128: "llvm.x86.sse2.pmadd.wd",
    256: "llvm.x86.avx2.pmadd.wd",
    512: "llvm.x86.avx512.pmaddw.d.512",
}


class Pmaddwd(X86Dot):
    """Data are widened to 16 bits once for all outputs, weights as they are loaded."""

    def interleave(self, pixels: Sequence[Any]) -> list[Any]:
        """Return two pixels' widened bytes in pairs, for a quarter of the channels at a time."""
        size = self.channels
        zeros = tirx.Broadcast(tirx.const(0, "uint8"), size)
        shorts = vector_type("int16", size // 2)
        pairs = []
        for high in (False, True):
            first, second = (
                tirx.reinterpret(shorts, unpack(pixel, zeros, high, size, 16)) for pixel in pixels
            )
            pairs += [unpack(first, second, half, size // 2, 8) for half in (False, True)]
        return pairs

    def filter(self, total: Any, data: Any, taps: Any) -> Any:
        """Return sums plus the sums of two products."""
        shorts = vector_type("int16", 2 * self.lanes)
        wide = tirx.reinterpret(shorts, taps) if str(taps.ty) == self.sums_type else taps
        wide = wide.astype(shorts)
        return total + intrinsic(self.sums_type, _NAMES[self.vector_bits], data, wide)

    def taps(self, weights: Any) -> Any:
        """Return two widened taps a lane."""
        wide = weights.astype(vector_type("int16", 2 * self.lanes))
        return tirx.reinterpret(self.sums_type, wide)


def _widths(name: str, bits: int) -> tuple[Pmaddwd, ...]:
    """Return an instruction set, and what is narrower for what is left over."""
    return tuple(
        Pmaddwd(
            name if width == bits else f"{name}-{width}",
            width,
            width / 16,
            group=2,
            depth=2,
            widened=True,
        )
        for width in (512, 256, 128)
        if width <= bits
    )


SSE4, AVX2, AVX512BW = _widths("sse4.1", 128), _widths("avx2", 256), _widths("avx512bw", 512)
