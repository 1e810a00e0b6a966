"""Converts ConvTranspose into an ordinary convolution and a rearrangement of its outputs.

Of the pixels of the output, those at equal places modulo the stride are a convolution of the input
with every stride-th row and column of the weights. One convolution computes all of them as
channels, with the schedules of convolutions, and multiplies by no inserted zeros; then the channels
are put in their places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import relax

from mobilenet_tvm.compile.frontend.arguments import Attributes, optional, text
from mobilenet_tvm.compile.passes.values import shape_of


def conv_transpose(inputs: Sequence[Any], attributes: Attributes, _opset: int) -> Any:
    """Convert ConvTranspose with one or two spatial axes.

    Parameters
    ----------
    inputs : sequence of Expr or None
        The data [batch, inputs, *spatial], the weights [inputs, outputs / groups, *kernel], and
        optionally a bias [outputs].
    attributes : dict
        Of the node.

    Returns
    -------
    Expr
        [batch, outputs, *spatial].

    Raises
    ------
    NotImplementedError
        If there are three spatial axes.
    """
    data, weight, bias = inputs[0], inputs[1], optional(inputs, 2)
    batch, channels, *spatial = shape_of(data)
    _, per_group, *kernel = shape_of(weight)
    if len(spatial) > 2:
        raise NotImplementedError(f"{len(spatial)} spatial axes")
    groups = int(attributes.get("group", 1))
    axes = _axes(spatial, kernel, attributes)
    if len(spatial) == 1:
        data = relax.op.reshape(data, (batch, channels, 1, *spatial))
        weight = relax.op.reshape(weight, (channels, per_group, 1, *kernel))
        axes = [_Axis(1, 1, 1, 1, 0, 1), *axes]
    row, column = axes
    strides = row.stride, column.stride

    # Weights: [groups, row phases, column phases, outputs, inputs, row taps, column taps].
    shape = [channels, per_group, *[1] * (2 - len(kernel)), *kernel]
    for place, axis in enumerate(axes, 2):
        weight = _spread(weight, shape, place, axis)
    taps = row.taps, column.taps
    weight = relax.op.reshape(
        weight, (groups, channels // groups, per_group, taps[0], strides[0], taps[1], strides[1])
    )
    weight = relax.op.flip(relax.op.flip(weight, 3), 5)
    weight = relax.op.permute_dims(weight, (0, 4, 6, 2, 1, 3, 5))
    phases = groups * strides[0] * strides[1] * per_group
    weight = relax.op.reshape(weight, (phases, channels // groups, *taps))

    for place, axis in enumerate(axes, 2):
        start, stop = max(-axis.pads[0], 0), axis.before + min(axis.pads[1], 0)
        data = _cut(data, place, start, stop, axis.before)
    pads = [max(axis.pads[side], 0) for side in (0, 1) for axis in axes]
    result = relax.op.nn.conv2d(data, weight, padding=pads, groups=groups)
    if bias is not None:
        full = (groups, *strides, per_group)
        bias = relax.op.reshape(bias, (groups, 1, 1, per_group))
        bias = relax.op.reshape(relax.op.broadcast_to(bias, full), (1, phases, 1, 1))
        result = relax.op.add(result, bias)

    extents = row.count, column.count
    result = relax.op.reshape(result, (batch, groups, *strides, per_group, *extents))
    result = relax.op.permute_dims(result, (0, 1, 4, 5, 2, 6, 3))
    outputs = groups * per_group
    whole = [axis.count * axis.stride for axis in axes]
    result = relax.op.reshape(result, (batch, outputs, *whole))
    for place, axis in enumerate(axes, 2):
        stop = axis.skipped + axis.after
        result = _cut(result, place, axis.skipped, stop, whole[place - 2])
    if len(spatial) == 1:
        result = relax.op.reshape(result, (batch, outputs, axes[1].after))
    return result


@dataclass(frozen=True)
class _Axis:
    """A spatial axis: output `o` is the sum of input `i` times tap `(o + start - i * stride)`.

    Parameters
    ----------
    before, after : int
        Pixels of the input and the output.
    reach : int
        Pixels that the dilated kernel spans.
    stride : int
        Distance of the places of two neighbouring inputs in the output.
    start : int
        Pixels that are cut off at the start.
    dilation : int
        Distance of two taps.
    """

    before: int
    after: int
    reach: int
    stride: int
    start: int
    dilation: int

    @property
    def taps(self) -> int:
        """Taps of the kernel of each phase."""
        return -(-self.reach // self.stride)

    @property
    def first(self) -> int:
        """The place in each phase of its first pixel that is not cut off."""
        return self.start // self.stride

    @property
    def count(self) -> int:
        """Pixels of each phase."""
        return (self.after - 1 + self.start) // self.stride + 1 - self.first

    @property
    def skipped(self) -> int:
        """Pixels to cut off at the start of the phases put together."""
        return self.start - self.first * self.stride

    @property
    def pads(self) -> tuple[int, int]:
        """Padding of the input; negative numbers cut off what no output needs."""
        return self.taps - 1 - self.first, self.first + self.count - self.before


def _axes(spatial: Sequence[int], kernel: Sequence[int], attributes: Attributes) -> list[_Axis]:
    """Resolve strides, padding and the size of the output as ONNX specifies it."""
    rank = len(spatial)
    ones = [1] * rank
    strides = attributes.get("strides", ones)
    dilations = attributes.get("dilations", ones)
    extra = attributes.get("output_padding", [0] * rank)
    pads = attributes.get("pads", [0] * (2 * rank))
    mode = text(attributes, "auto_pad", "NOTSET")
    shape = attributes.get("output_shape")
    # Some exporters write all axes, not only the spatial ones.
    sizes = None if shape is None else list(shape)[-rank:]
    if sizes is None and mode.startswith("SAME"):
        sizes = [extent * stride for extent, stride in zip(spatial, strides, strict=True)]
    axes = []
    for axis in range(rank):
        stride, dilation = int(strides[axis]), int(dilations[axis])
        reach = (int(kernel[axis]) - 1) * dilation + 1
        whole = stride * (spatial[axis] - 1) + reach + int(extra[axis])
        if sizes is not None:
            total = max(whole - int(sizes[axis]), 0)
            # Automatic padding adds nothing to an output that is too small.
            after = whole - total if shape is None else int(sizes[axis])
            start = total // 2 if mode == "SAME_UPPER" else total - total // 2
        else:
            start, end = (0, 0) if mode == "VALID" else (int(pads[axis]), int(pads[axis + rank]))
            after = whole - start - end
        axes.append(_Axis(spatial[axis], after, reach, stride, start, dilation))
    return axes


def _spread(weight: Any, shape: list[int], place: int, axis: _Axis) -> Any:
    """Put zeros between dilated taps and after the last one, for as many taps in each phase.

    The shape, of which the kernel's axis is at `place`, is updated.
    """
    taps, padded = shape[place], axis.taps * axis.stride
    if axis.dilation > 1:
        weight = relax.op.reshape(weight, (*shape[:place], taps, 1, *shape[place + 1 :]))
        weight = _pad_end(weight, len(shape) + 1, place + 1, axis.dilation - 1)
        taps *= axis.dilation
        weight = relax.op.reshape(weight, (*shape[:place], taps, *shape[place + 1 :]))
    shape[place] = padded
    if taps > padded:
        return _cut(weight, place, 0, padded, taps)
    return weight if taps == padded else _pad_end(weight, len(shape), place, padded - taps)


def _pad_end(data: Any, rank: int, place: int, width: int) -> Any:
    return relax.op.nn.pad(data, [0] * (2 * place + 1) + [width] + [0] * (2 * (rank - place - 1)))


def _cut(data: Any, place: int, start: int, stop: int, extent: int) -> Any:
    """Return a part of an axis, or the data themselves if that is all."""
    if (start, stop) == (0, extent):
        return data
    return relax.op.strided_slice(data, [place], [start], [stop])
