"""What the x86 instruction sets share: unpacking and packing within lanes of 128 bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mobilenet_tvm.schedules.cpu.dot.base import Dot, intrinsic
from mobilenet_tvm.schedules.workloads.dtypes import vector_type

_PACKS = {
    128: ("llvm.x86.sse2.packssdw.128", "llvm.x86.sse2.packuswb.128"),
    256: ("llvm.x86.avx2.packssdw", "llvm.x86.avx2.packuswb"),
    512: ("llvm.x86.avx512.packssdw.512", "llvm.x86.avx512.packuswb.512"),
}


class X86Dot(Dot):
    """Narrows by PACKSSDW and PACKUSWB, which undo the order that unpacking leaves."""

    def narrow(self, parts: Sequence[Any]) -> Any:
        """Return the bytes of a chunk of channels, given values between 0 and 255."""
        first, second = _PACKS[self.vector_bits]
        shorts = vector_type("int16", 2 * self.lanes)
        halves = [intrinsic(shorts, first, *parts[i : i + 2]) for i in (0, 2)]
        return intrinsic(vector_type("int8", self.channels), second, *halves)
