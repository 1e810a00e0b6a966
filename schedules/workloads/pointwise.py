"""A 1x1 convolution or a dense layer."""

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


@dataclass(frozen=True)
class Pointwise(Workload):
    """A matrix product: [pixels, inputs] times [inputs, outputs].

    With `gates`, one vector per image, the data are first multiplied by them: a factor per input,
    as in squeeze-and-excitation (source: Hu and others, 2018, arXiv 1709.01507).
    """

    operator = "pointwise"

    pixels: int
    inputs: int
    outputs: int
    epilogue: Epilogue = ()
    types: Types = FLOAT32
    gates: int = 0

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output."""
        return (self.pixels, self.outputs)

    @property
    def weights(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the weights, as `pack` takes them."""
        return ((self.inputs, self.outputs),)

    @property
    def flops(self) -> int:
        """Floating-point operations, a multiply-add counting as two."""
        gated = self.pixels * self.inputs if self.gates else 0
        return 2 * self.pixels * self.inputs * self.outputs + gated

    @property
    def bytes(self) -> int:
        """Bytes of data, weights and output, each counted once."""
        data = size_of(self.types.data) * (self.pixels + self.gates) * self.inputs
        weights = size_of(self.types.weights) * self.inputs * self.outputs
        return data + weights + self.pixels * self.outputs * output_bytes(self)

    def without_gates(self) -> Pointwise:
        """Return the same layer on data that have already been multiplied."""
        return replace(self, gates=0)

    def __str__(self) -> str:
        """Return the workload as logs write it."""
        gates = f" gates({self.gates})" if self.gates else ""
        return described(f"pointwise {self.pixels}x{self.inputs}x{self.outputs}{gates}", self)

    @classmethod
    def from_text(cls, text: str) -> Pointwise:
        """Read a workload back from its text."""
        pattern = rf"pointwise {EXTENT}x{EXTENT}x{EXTENT}(?: gates\({EXTENT}\))?"
        (pixels, inputs, outputs, gates), tail = matched(pattern, text, cls.operator)
        found = cls(int(pixels), int(inputs), int(outputs), *read_tail(tail, cls), int(gates or 0))
        if found.gates and found.pixels % found.gates:
            raise ValueError("a pointwise workload whose pixels are not a multiple of its gates")
        return found
