"""Transposed convolutions as plain ones, whose outputs are the phases of the result.

With stride s, the outputs at positions of one remainder by s read the same taps of the filter. So a
convolution with an output for each phase, whose outputs are then interleaved, computes them all
(the sub-pixel convolution of Shi and others, 2016).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import relax

from mobilenet_tvm.compile.passes.values import Array, shape_of


@dataclass(frozen=True)
class Axis:
    """A spatial axis of a transposed convolution.

    Parameters
    ----------
    kernel, stride, dilation : int
        Those of the convolution.
    before : int
        Outputs that padding removes at the beginning.
    size : int
        Outputs.
    inputs : int
        Inputs.
    """

    kernel: int
    stride: int
    dilation: int
    before: int
    size: int
    inputs: int

    @property
    def taps(self) -> int:
        """Taps of each phase; those beyond the kernel are 0."""
        reach = (self.kernel - 1) * self.dilation + 1
        return -(-reach // self.stride)

    @property
    def first(self) -> int:
        """Position of the first output among those of its phase, before padding removes any."""
        return self.before // self.stride

    @property
    def count(self) -> int:
        """Outputs of each phase."""
        return (self.before + self.size - 1) // self.stride - self.first + 1

    @property
    def padding(self) -> tuple[int, int]:
        """Zeros around the inputs, where outputs have taps beyond them; negative if some go."""
        before = self.taps - 1 - self.first
        return before, self.count + self.taps - 1 - self.inputs - before

    def spread(self, weight: Array, axis: int) -> Array:
        """Return weights with the axis of the kernel as [phases, taps], the last tap first."""
        length = self.taps * self.stride
        shape = list(weight.shape)
        shape[axis] = length
        full = np.zeros(shape, weight.dtype)
        places: list[slice] = [slice(None)] * weight.ndim
        places[axis] = slice(0, (self.kernel - 1) * self.dilation + 1, self.dilation)
        full[tuple(places)] = weight
        split = full.reshape(*shape[:axis], self.taps, self.stride, *shape[axis + 1 :])
        return np.flip(np.moveaxis(split, axis + 1, axis), axis + 1)


def axes_of(call: relax.Call) -> tuple[Axis, Axis]:
    """Return the vertical and horizontal axis of a transposed convolution in NCHW."""
    attrs = call.attrs
    before, after = np.array([int(extent) for extent in attrs.padding]).reshape(2, 2).tolist()
    found = []
    for axis in range(2):
        kernel, inputs = (shape_of(argument)[axis + 2] for argument in call.args[::-1])
        stride, dilation = int(attrs.strides[axis]), int(attrs.dilation[axis])
        size = (inputs - 1) * stride + (kernel - 1) * dilation + 1 + int(attrs.output_padding[axis])
        size -= before[axis] + after[axis]
        found.append(Axis(kernel, stride, dilation, before[axis], size, inputs))
    return found[0], found[1]


def kernels(weight: Array, groups: int, axes: tuple[Axis, Axis]) -> Array:
    """Return the weights of the plain convolution.

    Parameters
    ----------
    weight : ndarray
        [inputs, outputs of a group, height, width].
    groups : int
        Groups of channels.
    axes : tuple of Axis
        Vertical and horizontal.

    Returns
    -------
    ndarray
        [vertical taps, horizontal taps, inputs of a group, groups, vertical phases, horizontal
        phases, outputs of a group].
    """
    down, across = axes
    split = across.spread(down.spread(weight, 2), 4)
    inputs, outputs, *rest = split.shape
    grouped = split.reshape(groups, inputs // groups, outputs, *rest)
    return np.ascontiguousarray(grouped.transpose(4, 6, 1, 0, 3, 5, 2))
