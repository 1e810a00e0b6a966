"""Pooling over a window: the loops of a depthwise convolution, without weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import te, tirx

from mobilenet_tvm.schedules.cpu import depthwise, windows
from mobilenet_tvm.schedules.cpu.base import function_of
from mobilenet_tvm.schedules.cpu.windows import WindowSchedule
from mobilenet_tvm.schedules.stages import epilogue_stage, padded
from mobilenet_tvm.schedules.workloads import WindowPool, Workload
from mobilenet_tvm.targets.target import Target

#: Most positions of a window, whose code is unrolled.
MAX_TAPS = 81


@dataclass(frozen=True)
class Decision(windows.Decision):
    """How to compute a pooling layer: as a depthwise one with its windows."""


class WindowPooling(WindowSchedule[WindowPool, Decision]):
    """Keeps a tile of rows x columns x channels in registers while iterating over the window."""

    workload_type = WindowPool
    decision_type = Decision

    def takes(self, workload: Workload, target: Target) -> bool:
        """Return whether this schedule computes a layer: of float32, with a small window."""
        if not isinstance(workload, WindowPool) or workload.types.data != "float32":
            return False
        counted = workload.kind == "mean_inside" and workload.dilated
        small = workload.window.taps <= MAX_TAPS and not counted
        return small and super().takes(workload, target)

    def default(self, workload: WindowPool, target: Target) -> Decision:
        """Choose the tile that a depthwise layer would have."""
        return _own(depthwise.SCHEDULE.default(workload.filter, target))

    def space(self, workload: WindowPool, target: Target) -> dict[str, list[Any]]:
        """Return the candidate values of each part of a decision."""
        return depthwise.SCHEDULE.space(workload.filter, target)

    def valid(self, workload: WindowPool, decision: Decision, target: Target) -> bool:
        """Return whether `build` accepts a decision."""
        return depthwise.SCHEDULE.valid(workload.filter, _filter(decision), target)

    def decisions(self, workload: WindowPool, target: Target) -> list[Decision]:
        """Return the valid decisions in the space, without duplicates."""
        return [*map(_own, depthwise.SCHEDULE.decisions(workload.filter, target))]

    def build(self, workload: WindowPool, decision: Decision, target: Target) -> tirx.PrimFunc:
        """Return a function of data [batch, height, width, channels] and an output in NHWC."""
        pieces = depthwise.pieces_of(workload.filter, decision.tile_c, target)
        return self.scheduled(workload, decision, pieces, target)

    def function(self, workload: WindowPool, target: Target) -> tirx.PrimFunc:
        """Return the function before it is scheduled."""
        data, total = _pooled(workload)

        def element(n: Any, y: Any, x: Any, c: Any) -> Any:
            value = total[n, y, x, c]
            return value if workload.kind == "max" else value / _count(workload, y, x)

        operands, result = epilogue_stage(workload, workload.output_shape, element)
        return function_of([data, *operands, result], target)

    def features(
        self, workload: WindowPool, decision: Decision, target: Target
    ) -> dict[str, float]:
        """Describe a decision as that of a depthwise layer."""
        return depthwise.SCHEDULE.features(workload.filter, _filter(decision), target)

    def cycles(self, workload: WindowPool, decision: Decision, target: Target) -> float:
        """Estimate a decision's cost as that of a depthwise layer."""
        return depthwise.SCHEDULE.cycles(workload.filter, _filter(decision), target)


def _own(decision: windows.Decision) -> Decision:
    return Decision(**vars(decision))


def _filter(decision: windows.Decision) -> depthwise.Decision:
    return depthwise.Decision(**vars(decision))


def _pooled(workload: WindowPool) -> tuple[te.Tensor, te.Tensor]:
    """Return the data, and the largest value or the sum of each window."""
    window, dtype = workload.window, workload.types.data
    size = (workload.batch, workload.height, workload.width, workload.channels)
    data = te.placeholder(size, dtype, name="data")
    largest = workload.kind == "max"
    # The lowest finite number, as in ONNX Runtime.
    outside = tirx.min_value(dtype) if largest else tirx.const(0, dtype)
    source = padded(data, window.padding, outside=outside)
    ry = te.reduce_axis((0, window.kernel[0]), name="ry")
    rx = te.reduce_axis((0, window.kernel[1]), name="rx")
    (down, across), (below, beside) = window.stride, window.dilation

    def pool(n: Any, y: Any, x: Any, c: Any) -> Any:
        value = source[n, y * down + ry * below, x * across + rx * beside, c]
        return (te.max if largest else te.sum)(value, axis=[ry, rx])

    return data, te.compute(workload.output_shape, pool, name="depthwise")


def _count(workload: WindowPool, y: Any, x: Any) -> Any:
    """Return what the sum of the window at some row and column is divided by.

    The product with its inverse is rounded twice, and may be quantised to another step.
    """
    dtype = workload.types.sums
    if workload.kind == "mean":
        return tirx.const(workload.window.taps, dtype)
    window = workload.window
    top, left = window.padding[:2]
    counts = []
    for place, stride, before, kernel, extent in (
        (y, window.stride[0], top, window.kernel[0], workload.height),
        (x, window.stride[1], left, window.kernel[1], workload.width),
    ):
        start = place * stride - before
        counts.append(tirx.min(start + kernel, extent) - tirx.max(start, 0))
    return (counts[0] * counts[1]).astype(dtype)


SCHEDULE = WindowPooling()
