"""A convolution in which each output reads all channels, or those of its group."""

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
from mobilenet_tvm.schedules.workloads.window import WINDOW, Window

#: A stem reads at most so many channels.
MAX_STEM_INPUTS = 8


@dataclass(frozen=True)
class Convolution(Workload):
    """A convolution over channels, whole or in groups; a stem may read an NCHW image."""

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
    groups: int = 1

    @classmethod
    def usual(cls, dtype: str) -> Types:
        """Return the types of a stem in a network of a given type; its input image is float32."""
        types = Types.of(dtype)
        return replace(types, data="float32") if dtype == "float16" else types

    def in_type(self, dtype: str) -> Convolution:
        """Return the same layer in a network of another type, in which only a stem is special."""
        return replace(self, types=self.usual(dtype) if self.is_stem else Types.of(dtype))

    @property
    def dilated(self) -> bool:
        """Whether positions of the window have steps between them."""
        return self.window.dilated

    @property
    def is_stem(self) -> bool:
        """Whether it reads so few channels, as an image has, that they can be unrolled."""
        return self.inputs <= MAX_STEM_INPUTS and self.groups == 1 and not self.dilated

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
        return ((*self.window.kernel, self.inputs // self.groups, self.outputs),)

    @property
    def flops(self) -> int:
        """Floating-point operations; padded positions are counted as computed."""
        rows, columns = self.output
        products = self.outputs * self.window.taps * (self.inputs // self.groups)
        return 2 * self.batch * rows * columns * products

    @property
    def bytes(self) -> int:
        """Bytes of data, weights and output, each counted once."""
        rows, columns = self.output
        image = size_of(self.types.data) * self.height * self.width * self.inputs
        result = rows * columns * self.outputs * output_bytes(self)
        weights = self.window.taps * (self.inputs // self.groups) * self.outputs
        return self.batch * (image + result) + size_of(self.types.weights) * weights

    def __str__(self) -> str:
        """Return the workload as logs write it."""
        layout = "nchw" if self.reads_nchw else "nhwc"
        size = f"conv2d {self.batch}x{self.height}x{self.width}x{self.inputs}->{self.outputs}"
        groups = f" g{self.groups}" if self.groups > 1 else ""
        return described(f"{size} {self.window}{groups} {layout}", self)

    @classmethod
    def from_text(cls, text: str) -> Convolution:
        """Read a workload back from its text."""
        extents = f"{EXTENT}x{EXTENT}x{EXTENT}x{EXTENT}->{EXTENT}"
        pattern = f"conv2d {extents} {WINDOW}(?: g{EXTENT})? (nchw|nhwc)"
        (*sizes, window, groups, layout), tail = matched(pattern, text, cls.operator)
        batch, height, width, inputs, outputs = map(int, sizes)
        image = (batch, height, width, inputs, outputs, Window.parse(window))
        found = cls(*image, layout == "nchw", *read_tail(tail, cls), int(groups or 1))
        if min(found.output) < 1:
            raise ValueError("a conv2d without an output")
        if found.inputs % found.groups or found.outputs % found.groups:
            raise ValueError("a conv2d whose groups do not divide its channels")
        return found
