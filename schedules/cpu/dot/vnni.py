"""AVX-512 VNNI and AVX-VNNI: VPDPBUSD multiplies four unsigned by four signed bytes a lane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from mobilenet_tvm.schedules.cpu.dot.base import intrinsic, quads
from mobilenet_tvm.schedules.cpu.dot.x86 import X86Dot
from mobilenet_tvm.schedules.workloads.dtypes import vector_type


class Vnni(X86Dot):
    """VPDPBUSD, which does not saturate."""

    def interleave(self, pixels: Sequence[Any]) -> list[Any]:
        """Return four pixels' bytes next to each other, for a quarter of the channels at a time."""
        return quads(pixels, self.channels)

    def filter(self, total: Any, data: Any, taps: Any) -> Any:
        """Return sums plus products, by one instruction."""
        bytes_type = vector_type("int8", self.channels)
        name = f"llvm.x86.avx512.vpdpbusd.{self.vector_bits}"
        return intrinsic(self.sums_type, name, total, data, tirx.reinterpret(bytes_type, taps))

    def taps(self, weights: Any) -> Any:
        """Return four taps a lane."""
        return tirx.reinterpret(self.sums_type, weights)


#: By width: Cascade Lake, Ice Lake, Zen 4 and later; narrower ones compute what is left over.
AVX512_VNNI = tuple(
    Vnni(f"avx512-vnni{suffix}", bits, bits / 4)
    for suffix, bits in (("", 512), ("-256", 256), ("-128", 128))
)
#: Alder Lake and later, without AVX-512.
AVX_VNNI = tuple(
    Vnni(f"avx-vnni{suffix}", bits, bits / 4) for suffix, bits in (("", 256), ("-128", 128))
)
