"""Global average pooling."""

from __future__ import annotations

from dataclasses import dataclass

from mobilenet_tvm.schedules.workloads.base import (
    EXTENT,
    Workload,
    described,
    matched,
    output_bytes,
    read_tail,
)
from mobilenet_tvm.schedules.workloads.dtypes import FLOAT32, Types, size_of
from mobilenet_tvm.schedules.workloads.epilogue import Epilogue


@dataclass(frozen=True)
class GlobalPool(Workload):
    """The mean over each channel's pixels: [batch, pixels, channels] to [batch, channels]."""

    operator = "global_pool"

    batch: int
    pixels: int
    channels: int
    epilogue: Epilogue = ()
    types: Types = FLOAT32

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output."""
        return (self.batch, self.channels)

    @property
    def weights(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the weights; there are none."""
        return ()

    @property
    def flops(self) -> int:
        """Floating-point operations."""
        return self.batch * self.pixels * self.channels

    @property
    def bytes(self) -> int:
        """Bytes of data and output, each counted once."""
        size = self.pixels * size_of(self.types.data) + output_bytes(self)
        return self.batch * self.channels * size

    def __str__(self) -> str:
        """Return the workload as logs write it."""
        return described(f"global_pool {self.batch}x{self.pixels}x{self.channels}", self)

    @classmethod
    def from_text(cls, text: str) -> GlobalPool:
        """Read a workload back from its text."""
        pattern = f"global_pool {EXTENT}x{EXTENT}x{EXTENT}"
        sizes, tail = matched(pattern, text, cls.operator)
        batch, pixels, channels = map(int, sizes)
        return cls(batch, pixels, channels, *read_tail(tail, cls))
