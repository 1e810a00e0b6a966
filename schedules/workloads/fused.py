"""Fused layers: one function computes several layers without storing what is between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mobilenet_tvm.schedules.workloads.base import (
    EXTENT,
    Workload,
    described,
    matched,
    parse,
    read_tail,
)
from mobilenet_tvm.schedules.workloads.convolution import Convolution
from mobilenet_tvm.schedules.workloads.depthwise import Depthwise
from mobilenet_tvm.schedules.workloads.dtypes import FLOAT32, Types, size_of
from mobilenet_tvm.schedules.workloads.epilogue import Epilogue
from mobilenet_tvm.schedules.workloads.pointwise import Pointwise
from mobilenet_tvm.schedules.workloads.window import Window


@dataclass(frozen=True)
class DepthwisePointwise(Workload):
    """A depthwise convolution fused with the pointwise one that reads its result.

    `epilogue` and `types` are those of the pointwise layer.
    """

    operator = "depthwise_pointwise"

    depthwise: Depthwise
    outputs: int
    epilogue: Epilogue = ()
    types: Types = FLOAT32

    @property
    def pointwise(self) -> Pointwise:
        """The pointwise half as a separate layer."""
        first = self.depthwise
        pixels = first.batch * first.output[0] * first.output[1]
        return Pointwise(pixels, first.channels, self.outputs, self.epilogue, self.types)

    @property
    def dilated(self) -> bool:
        """Whether positions of the depthwise half's window have steps between them."""
        return self.depthwise.dilated

    @property
    def reads(self) -> str:
        """The data type that the depthwise half reads."""
        return self.depthwise.types.data

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output."""
        return (*self.depthwise.output_shape[:-1], self.outputs)

    @property
    def weights(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the weights, as `pack` takes them."""
        return (*self.depthwise.weights, *self.pointwise.weights)

    @property
    def flops(self) -> int:
        """Floating-point operations of both halves."""
        return self.depthwise.flops + self.pointwise.flops

    @property
    def bytes(self) -> int:
        """Bytes of data, weights and output, each counted once, and none between the halves."""
        between = size_of(self.types.data) * self.pointwise.pixels * self.depthwise.channels
        return self.depthwise.bytes + self.pointwise.bytes - 2 * between

    @classmethod
    def fuse(cls, parts: Sequence[Workload]) -> DepthwisePointwise | None:
        """Fuse a depthwise layer and the only layer that reads it, a pointwise one."""
        match parts:
            case [Depthwise() as first, Pointwise(gates=0) as last]:
                return cls(first, last.outputs, last.epilogue, last.types)
        return None

    def in_type(self, dtype: str) -> DepthwisePointwise:
        """Return the same layers in a network of another type."""
        return replace(super().in_type(dtype), depthwise=self.depthwise.in_type(dtype))

    def __str__(self) -> str:
        """Return the workload as logs write it."""
        size = f"depthwise_pointwise {self.depthwise} -> {self.outputs}"
        return described(size, self, Types.of(self.depthwise.dtype))

    @classmethod
    def from_text(cls, text: str) -> DepthwisePointwise:
        """Read a workload back from its text."""
        pattern = f"depthwise_pointwise (depthwise .+) -> {EXTENT}"
        (first, outputs), tail = matched(pattern, text, cls.operator)
        depthwise = Depthwise.from_text(first)
        return cls(depthwise, int(outputs), *read_tail(tail, cls, Types.of(depthwise.dtype)))


@dataclass(frozen=True)
class PointwiseDepthwise(Workload):
    """A pointwise convolution fused with the depthwise one that reads its result."""

    operator = "pointwise_depthwise"

    pointwise: Pointwise
    depthwise: Depthwise

    @property
    def types(self) -> Types:
        """The types of the depthwise half."""
        return self.depthwise.types

    @property
    def dilated(self) -> bool:
        """Whether positions of the depthwise half's window have steps between them."""
        return self.depthwise.dilated

    @property
    def reads(self) -> str:
        """The data type that the pointwise half reads."""
        return self.pointwise.types.data

    @property
    def epilogue(self) -> Epilogue:
        """The steps applied to the depthwise half's result."""
        return self.depthwise.epilogue

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output."""
        return self.depthwise.output_shape

    @property
    def weights(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the weights, as `pack` takes them."""
        return (*self.pointwise.weights, *self.depthwise.weights)

    @property
    def flops(self) -> int:
        """Floating-point operations of both halves; recomputed rows are counted once."""
        return self.pointwise.flops + self.depthwise.flops

    @property
    def bytes(self) -> int:
        """Bytes of data, weights and output, each counted once, and none between the halves."""
        between = size_of(self.types.data) * self.pointwise.pixels * self.pointwise.outputs
        return self.pointwise.bytes + self.depthwise.bytes - 2 * between

    @classmethod
    def fuse(cls, parts: Sequence[Workload]) -> PointwiseDepthwise | None:
        """Fuse a pointwise layer and the only layer that reads it, a depthwise one."""
        match parts:
            case [Pointwise(gates=0) as first, Depthwise() as last]:
                return cls(first, last)
        return None

    def in_type(self, dtype: str) -> PointwiseDepthwise:
        """Return the same layers in a network of another type."""
        return PointwiseDepthwise(self.pointwise.in_type(dtype), self.depthwise.in_type(dtype))

    def __str__(self) -> str:
        """Return the workload as logs write it."""
        return f"pointwise_depthwise {self.pointwise} -> {self.depthwise}"

    @classmethod
    def from_text(cls, text: str) -> PointwiseDepthwise:
        """Read a workload back from its text."""
        parts = [parse(part) for part in text.removeprefix(f"{cls.operator} ").split(" -> ", 1)]
        match parts:
            case [Pointwise(gates=0) as first, Depthwise() as last]:
                pixels = last.batch * last.height * last.width
                if (first.pixels, first.outputs) == (pixels, last.channels):
                    return cls(first, last)
        raise ValueError("a pointwise_depthwise whose layers do not fit together")


@dataclass(frozen=True)
class Block(Workload):
    """A convolution (1x1 or a stem) fused with the depthwise and pointwise layers that follow."""

    operator = "block"

    first: Convolution
    halves: DepthwisePointwise

    @property
    def types(self) -> Types:
        """The types of the block's last layer."""
        return self.halves.types

    @property
    def dilated(self) -> bool:
        """Whether positions of a window have steps between them."""
        return self.first.dilated or self.halves.dilated

    @property
    def reads(self) -> str:
        """The data type that the convolution reads."""
        return self.first.types.data

    @property
    def epilogue(self) -> Epilogue:
        """The steps applied to the block's result."""
        return self.halves.epilogue

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output."""
        return self.halves.output_shape

    @property
    def weights(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the weights, as `pack` takes them."""
        return (*self.first.weights, *self.halves.weights)

    @property
    def flops(self) -> int:
        """Floating-point operations of all three layers; recomputed rows are counted once."""
        return self.first.flops + self.halves.flops

    @property
    def bytes(self) -> int:
        """Bytes of data, weights and output, each counted once, and none between the layers."""
        rows, columns = self.first.output
        between = size_of(self.first.types.result) * rows * columns * self.first.outputs
        return self.first.bytes + self.halves.bytes - 2 * self.first.batch * between

    @classmethod
    def fuse(cls, parts: Sequence[Workload]) -> Block | None:
        """Fuse three layers, each read only by the next."""
        match parts:
            case [
                Convolution(is_stem=True) as first,
                Depthwise() as second,
                Pointwise(gates=0) as last,
            ]:
                pass
            case [
                Pointwise(gates=0) as expansion,
                Depthwise() as second,
                Pointwise(gates=0) as last,
            ]:
                first = Convolution(
                    second.batch,
                    second.height,
                    second.width,
                    expansion.inputs,
                    expansion.outputs,
                    Window((1, 1)),
                    epilogue=expansion.epilogue,
                    types=expansion.types,
                )
            case _:
                return None
        halves = DepthwisePointwise(second, last.outputs, last.epilogue, last.types)
        return cls(first, halves)

    def in_type(self, dtype: str) -> Block:
        """Return the same layers in a network of another type."""
        return Block(self.first.in_type(dtype), self.halves.in_type(dtype))

    def __str__(self) -> str:
        """Return the workload as logs write it."""
        return f"block {self.first} -> {self.halves}"

    @classmethod
    def from_text(cls, text: str) -> Block:
        """Read a workload back from its text."""
        parts = [parse(part) for part in text.removeprefix("block ").split(" -> ", 1)]
        match parts:
            case [Convolution() as first, DepthwisePointwise(depthwise=depthwise) as halves]:
                read = (depthwise.batch, depthwise.height, depthwise.width, depthwise.channels)
                if read == (first.batch, *first.output, first.outputs):
                    return cls(first, halves)
        raise ValueError("a block whose layers do not fit together")
