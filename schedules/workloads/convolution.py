"""A full convolution with few input channels: the stem."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
from mobilenet_tvm.schedules.workloads.window import Window


@dataclass(frozen=True)
class Convolution(Workload):
    """A full convolution with few input channels: a stem, which may read an NCHW image."""

    operator = "conv2d"

    batch: int
    height: int
    width: int
    inputs: int
    outputs: int
    window: Window
    reads_nchw: bool = False
    epilogue: Epilogue = ()
    types: Types = FLOAT32

    @classmethod
    def usual(cls, dtype: str) -> Types:
        """Return the types of a stem in a network of a given type; its input image is float32."""
        types = Types.of(dtype)
        return replace(types, data="float32") if dtype == "float16" else types

    @property
    def output(self) -> tuple[int, int]:
        """Height and width of the output."""
        return self.window.output(self.height, self.width)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output."""
        return (self.batch, *self.output, self.outputs)

    @property
    def weights(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the weights, as `pack` takes them."""
        return ((*self.window.kernel, self.inputs, self.outputs),)

    @property
    def flops(self) -> int:
        """Floating-point operations; padded positions are counted as computed."""
        rows, columns = self.output
        return 2 * self.batch * rows * columns * self.outputs * self.window.taps * self.inputs

    @property
    def bytes(self) -> int:
        """Bytes of data, weights and output, each counted once."""
        rows, columns = self.output
        image = size_of(self.types.data) * self.height * self.width * self.inputs
        result = rows * columns * self.outputs * output_bytes(self)
        weights = size_of(self.types.weights) * self.window.taps * self.inputs * self.outputs
        return self.batch * (image + result) + weights

    def __str__(self) -> str:
        """Return the workload as logs write it."""
        layout = "nchw" if self.reads_nchw else "nhwc"
        size = f"conv2d {self.batch}x{self.height}x{self.width}x{self.inputs}->{self.outputs}"
        return described(f"{size} {self.window} {layout}", self)

    @classmethod
    def from_text(cls, text: str) -> Convolution:
        """Read a workload back from its text."""
        extents = f"{EXTENT}x{EXTENT}x{EXTENT}x{EXTENT}->{EXTENT}"
        pattern = f"conv2d {extents} (k[^ ]+ s[^ ]+ p[^ ]+) (nchw|nhwc)"
        (*sizes, window, layout), tail = matched(pattern, text, cls.operator)
        batch, height, width, inputs, outputs = map(int, sizes)
        image = (batch, height, width, inputs, outputs, Window.parse(window))
        found = cls(*image, layout == "nchw", *read_tail(tail, cls))
        if min(found.output) < 1:
            raise ValueError("a conv2d without an output")
        return found
