"""Pooling over a window: the maximum or the mean of each channel's values in it."""

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
from mobilenet_tvm.schedules.workloads.depthwise import Depthwise
from mobilenet_tvm.schedules.workloads.dtypes import FLOAT32, Types, size_of
from mobilenet_tvm.schedules.workloads.epilogue import Epilogue
from mobilenet_tvm.schedules.workloads.window import WINDOW, Window

#: What is computed: the maximum, the mean where padding counts as zeros, and the mean of what is
#: inside the picture.
KINDS = ("max", "mean", "mean_inside")


@dataclass(frozen=True)
class WindowPool(Workload):
    """A pooling in NHWC, of a kind in `KINDS`."""

    operator = "window_pool"

    kind: str
    batch: int
    height: int
    width: int
    channels: int
    window: Window
    epilogue: Epilogue = ()
    types: Types = FLOAT32

    @property
    def dilated(self) -> bool:
        """Whether positions of the window have steps between them."""
        return self.window.dilated

    @property
    def filter(self) -> Depthwise:
        """The depthwise convolution with the same windows."""
        size = (self.batch, self.height, self.width, self.channels)
        return Depthwise(*size, self.window, types=self.types)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output."""
        return self.filter.output_shape

    @property
    def weights(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the weights; there are none."""
        return ()

    @property
    def flops(self) -> int:
        """Comparisons or additions; padded positions are counted as computed."""
        return self.filter.flops // 2

    @property
    def bytes(self) -> int:
        """Bytes of data and output, each counted once."""
        rows, columns = self.filter.output
        read = size_of(self.types.data) * self.height * self.width
        return self.batch * self.channels * (read + rows * columns * output_bytes(self))

    def __str__(self) -> str:
        """Return the workload as logs write it."""
        size = f"{self.batch}x{self.height}x{self.width}x{self.channels}"
        return described(f"window_pool {self.kind} {size} {self.window}", self)

    @classmethod
    def from_text(cls, text: str) -> WindowPool:
        """Read a workload back from its text."""
        pattern = f"window_pool ({'|'.join(KINDS)}) {EXTENT}x{EXTENT}x{EXTENT}x{EXTENT} {WINDOW}"
        (kind, *sizes, window), tail = matched(pattern, text, cls.operator)
        batch, height, width, channels = map(int, sizes)
        size = (batch, height, width, channels)
        found = cls(kind, *size, Window.parse(window), *read_tail(tail, cls))
        if min(found.filter.output) < 1:
            raise ValueError("a pooling without an output")
        return found
