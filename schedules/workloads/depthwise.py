"""A depthwise convolution: one filter per channel."""

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
from mobilenet_tvm.schedules.workloads.window import WINDOW, Window


@dataclass(frozen=True)
class Depthwise(Workload):
    """A depthwise convolution in NHWC."""

    operator = "depthwise"

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
    def output(self) -> tuple[int, int]:
        """Height and width of the output."""
        return self.window.output(self.height, self.width)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output."""
        return (self.batch, *self.output, self.channels)

    @property
    def weights(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the weights, as `pack` takes them."""
        return ((*self.window.kernel, self.channels),)

    @property
    def flops(self) -> int:
        """Floating-point operations; padded positions are counted as computed."""
        rows, columns = self.output
        return 2 * self.batch * rows * columns * self.channels * self.window.taps

    @property
    def bytes(self) -> int:
        """Bytes of data, weights and output, each counted once."""
        rows, columns = self.output
        read = size_of(self.types.data) * self.batch * self.height * self.width
        taps = size_of(self.types.weights) * self.window.taps
        return self.channels * (read + taps + self.batch * rows * columns * output_bytes(self))

    def __str__(self) -> str:
        """Return the workload as logs write it."""
        size = f"depthwise {self.batch}x{self.height}x{self.width}x{self.channels}"
        return described(f"{size} {self.window}", self)

    @classmethod
    def from_text(cls, text: str) -> Depthwise:
        """Read a workload back from its text."""
        pattern = f"depthwise {EXTENT}x{EXTENT}x{EXTENT}x{EXTENT} {WINDOW}"
        (*sizes, window), tail = matched(pattern, text, cls.operator)
        batch, height, width, channels = map(int, sizes)
        found = cls(batch, height, width, channels, Window.parse(window), *read_tail(tail, cls))
        if min(found.output) < 1:
            raise ValueError("a depthwise without an output")
        return found
