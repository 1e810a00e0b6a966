"""What a fused layer computes, apart from how: the key of decisions and of tuning logs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

#: Steps that read a tensor: one value per channel, or one per output element.
CHANNEL_STEPS = frozenset({"add_channel", "mul_channel"})
TENSOR_STEPS = frozenset({"add", "mul"})
#: All steps, with the number of values that each has.
_STEPS = {
    **dict.fromkeys((*CHANNEL_STEPS, *TENSOR_STEPS), 0),
    **dict.fromkeys(("relu", "hard_swish", "hard_sigmoid", "sigmoid", "float32"), 0),
    "clip": 2,
}


@dataclass(frozen=True)
class Step:
    """One operation on a layer's result before it is stored.

    Parameters
    ----------
    op : str
        `add_channel` and `mul_channel` take a vector of one value per channel, `add` and `mul`
        a tensor like the output; `relu`, `clip`, `hard_swish`, `hard_sigmoid` and `sigmoid` none.
        `float32`, always the last, stores the result of a float16 layer in that type.
    values : tuple of float
        `clip`: low and high.
    """

    op: str
    values: tuple[float, ...] = ()

    def __str__(self) -> str:
        """Return the step as logs write it: `clip(0,6)`."""
        return f"{self.op}({','.join(f'{v:g}' for v in self.values)})" if self.values else self.op

    def apply(self, x: Any, operand: Any = None, dtype: str = "float32") -> Any:
        """Return the expression of the step's result.

        Parameters
        ----------
        x : Expr
            What comes in.
        operand : Expr, optional
            The element of the step's tensor, where it has one.
        dtype : str
            The type of `x`.
        """

        def number(value: float) -> Any:
            return tirx.const(value, dtype)

        match self.op:
            case "add_channel" | "add":
                return x + operand
            case "mul_channel" | "mul":
                return x * operand
            case "relu":
                return tirx.max(x, number(0.0))
            case "clip":
                low, high = self.values
                return tirx.min(tirx.max(x, number(low)), number(high))
            case "hard_sigmoid":
                return tirx.min(tirx.max(x * number(1 / 6) + number(0.5), number(0.0)), number(1.0))
            case "hard_swish":
                gate = tirx.min(tirx.max(x + number(3.0), number(0.0)), number(6.0))
                return x * gate * number(1 / 6)
            case "sigmoid":
                return number(1.0) / (number(1.0) + tirx.exp(-x))
            case "float32":
                return x.astype("float32")
        raise ValueError(f"unknown epilogue step {self.op}")


Epilogue = tuple[Step, ...]


@dataclass(frozen=True)
class Pointwise:
    """A 1x1 convolution or a dense layer: [pixels, inputs] times [inputs, outputs].

    As in all layers, `dtype` is the type of data, weights, the epilogue's tensors and the output.
    Where there are `gates`, one for each picture, the data are multiplied by them first: a factor
    per input, as squeeze-and-excitation has it (source: Hu and others, 2018, arXiv 1709.01507).
    """

    pixels: int
    inputs: int
    outputs: int
    epilogue: Epilogue = ()
    dtype: str = "float32"
    gates: int = 0

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
        matrices = (self.pixels + self.outputs + self.gates) * self.inputs
        return _size(self.dtype) * matrices + self.pixels * self.outputs * _output_bytes(self)

    def __str__(self) -> str:
        """Return the workload as logs write it."""
        size = f"pointwise {self.pixels}x{self.inputs}x{self.outputs}"
        gates = f" gates({self.gates})" if self.gates else ""
        return _name(size + gates, self.epilogue, self.dtype)


@dataclass(frozen=True)
class Depthwise:
    """A depthwise convolution on NHWC; `padding` is top, left, bottom, right."""

    batch: int
    height: int
    width: int
    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    epilogue: Epilogue = ()
    dtype: str = "float32"

    @property
    def output(self) -> tuple[int, int]:
        """Height and width of the output."""
        return _output(self.height, self.width, self.kernel, self.stride, self.padding)

    @property
    def weights(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the weights, as `pack` takes them."""
        return ((*self.kernel, self.channels),)

    @property
    def flops(self) -> int:
        """Floating-point operations, padding counted as if it were computed."""
        rows, columns = self.output
        taps = self.kernel[0] * self.kernel[1]
        return 2 * self.batch * rows * columns * self.channels * taps

    @property
    def bytes(self) -> int:
        """Bytes of data, weights and output, each counted once."""
        rows, columns = self.output
        read = self.batch * self.height * self.width + self.kernel[0] * self.kernel[1]
        stored = self.batch * rows * columns * _output_bytes(self)
        return self.channels * (_size(self.dtype) * read + stored)

    def __str__(self) -> str:
        """Return the workload as logs write it."""
        size = f"depthwise {self.batch}x{self.height}x{self.width}x{self.channels}"
        return _name(f"{size} {_window(self)}", self.epilogue, self.dtype)


@dataclass(frozen=True)
class DepthwisePointwise:
    """A depthwise convolution whose result, never stored, a pointwise one reads."""

    depthwise: Depthwise
    outputs: int
    epilogue: Epilogue = ()

    @property
    def dtype(self) -> str:
        """The type of both halves."""
        return self.depthwise.dtype

    @property
    def pointwise(self) -> Pointwise:
        """The second half as a layer of its own."""
        first = self.depthwise
        pixels = first.batch * first.output[0] * first.output[1]
        return Pointwise(pixels, first.channels, self.outputs, self.epilogue, self.dtype)

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
        """Bytes of data, weights and output, each counted once; none between the halves."""
        between = _size(self.dtype) * self.pointwise.pixels * self.depthwise.channels
        return self.depthwise.bytes + self.pointwise.bytes - 2 * between

    def __str__(self) -> str:
        """Return the workload as logs write it."""
        size = f"depthwise_pointwise {self.depthwise} -> {self.outputs}"
        return _name(size, self.epilogue)


@dataclass(frozen=True)
class Convolution:
    """A full convolution with few input channels: a stem, which may read an NCHW picture.

    The picture is float32, whatever the rest is.
    """

    batch: int
    height: int
    width: int
    inputs: int
    outputs: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    reads_nchw: bool = False
    epilogue: Epilogue = ()
    dtype: str = "float32"

    @property
    def output(self) -> tuple[int, int]:
        """Height and width of the output."""
        return _output(self.height, self.width, self.kernel, self.stride, self.padding)

    @property
    def weights(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the weights, as `pack` takes them."""
        return ((*self.kernel, self.inputs, self.outputs),)

    @property
    def flops(self) -> int:
        """Floating-point operations, padding counted as if it were computed."""
        rows, columns = self.output
        taps = self.kernel[0] * self.kernel[1] * self.inputs
        return 2 * self.batch * rows * columns * self.outputs * taps

    @property
    def bytes(self) -> int:
        """Bytes of data, weights and output, each counted once."""
        rows, columns = self.output
        picture = self.height * self.width * self.inputs * _size("float32")
        result = rows * columns * self.outputs * _output_bytes(self)
        weights = self.kernel[0] * self.kernel[1] * self.inputs * self.outputs
        return self.batch * (picture + result) + _size(self.dtype) * weights

    def __str__(self) -> str:
        """Return the workload as logs write it."""
        layout = "nchw" if self.reads_nchw else "nhwc"
        size = f"conv2d {self.batch}x{self.height}x{self.width}x{self.inputs}->{self.outputs}"
        return _name(f"{size} {_window(self)} {layout}", self.epilogue, self.dtype)


@dataclass(frozen=True)
class Block:
    """A convolution (1x1, or a stem), and the fused layer that alone reads it."""

    first: Convolution
    halves: DepthwisePointwise

    @property
    def dtype(self) -> str:
        """The type of all three layers."""
        return self.halves.dtype

    @property
    def epilogue(self) -> Epilogue:
        """The steps on the block's result."""
        return self.halves.epilogue

    @property
    def weights(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the weights, as `pack` takes them."""
        return (*self.first.weights, *self.halves.weights)

    @property
    def flops(self) -> int:
        """Floating-point operations of all three layers, no row counted twice."""
        return self.first.flops + self.halves.flops

    @property
    def bytes(self) -> int:
        """Bytes of data, weights and output, each counted once; none between the layers."""
        rows, columns = self.first.output
        between = _size("float32") * self.first.batch * rows * columns * self.first.outputs
        return self.first.bytes + self.halves.bytes - 2 * between

    def __str__(self) -> str:
        """Return the workload as logs write it."""
        return f"block {self.first} -> {self.halves}"


@dataclass(frozen=True)
class GlobalPool:
    """The mean over each channel's pixels: [batch, pixels, channels] to [batch, channels]."""

    batch: int
    pixels: int
    channels: int
    epilogue: Epilogue = ()
    dtype: str = "float32"

    @property
    def weights(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the weights, as `pack` takes them."""
        return ()

    @property
    def flops(self) -> int:
        """Floating-point operations."""
        return self.batch * self.pixels * self.channels

    @property
    def bytes(self) -> int:
        """Bytes of data and output, each counted once."""
        size = self.pixels * _size(self.dtype) + _output_bytes(self)
        return self.batch * self.channels * size

    def __str__(self) -> str:
        """Return the workload as logs write it."""
        size = f"global_pool {self.batch}x{self.pixels}x{self.channels}"
        return _name(size, self.epilogue, self.dtype)


Workload = Pointwise | Depthwise | DepthwisePointwise | Convolution | Block | GlobalPool

_EXTENT = "([1-9][0-9]{0,8})"
_WINDOW = f"k{_EXTENT}x{_EXTENT} s{_EXTENT}x{_EXTENT} p([0-9]+),([0-9]+),([0-9]+),([0-9]+)"
#: What stands between an operator's name and the epilogue.
_SIZES = {
    "pointwise": rf"{_EXTENT}x{_EXTENT}x{_EXTENT}(?: gates\({_EXTENT}\))?",
    "depthwise": f"{_EXTENT}x{_EXTENT}x{_EXTENT}x{_EXTENT} {_WINDOW}",
    "depthwise_pointwise": f"(depthwise .+) -> {_EXTENT}",
    "conv2d": f"{_EXTENT}x{_EXTENT}x{_EXTENT}x{_EXTENT}->{_EXTENT} {_WINDOW} (nchw|nhwc)",
    "global_pool": f"{_EXTENT}x{_EXTENT}x{_EXTENT}",
}


def parse(text: str) -> Workload:
    """Read a workload back from its text.

    Parameters
    ----------
    text : str
        What `str` gave; a clip's bounds have six digits there.

    Returns
    -------
    Workload
        One of the same text.

    Raises
    ------
    ValueError
        If no workload has this text.
    """
    name = text.partition(" ")[0]
    if name == "block":
        return _parse_block(text)
    if name not in _SIZES:
        raise ValueError(f"unknown operator {name!r}")
    match = re.fullmatch(f"{name} {_SIZES[name]}( float16)?((?: [^ ]+)*)", text)
    if match is None:
        raise ValueError(f"a {name} of unknown form")
    *parts, half, steps = match.groups()
    dtype = "float16" if half else "float32"
    epilogue = tuple(map(_parse_step, steps.split()))
    sizes = [int(part) for part in parts if part and part.isdecimal()]
    workload: Workload
    match name:
        case "pointwise":
            pixels, inputs, outputs, *gates = sizes
            workload = Pointwise(pixels, inputs, outputs, epilogue, dtype, *gates)
            if workload.gates and pixels % workload.gates:
                raise ValueError("a pointwise whose pixels are not those of whole pictures")
        case "global_pool":
            batch, pixels, channels = sizes
            workload = GlobalPool(batch, pixels, channels, epilogue, dtype)
        case "depthwise":
            batch, height, width, channels, *window = sizes
            size = (batch, height, width, channels, *_parse_window(window))
            workload = Depthwise(*size, epilogue, dtype)
        case "conv2d":
            batch, height, width, inputs, outputs, *window = sizes
            picture = (batch, height, width, inputs, outputs, *_parse_window(window))
            workload = Convolution(*picture, parts[-1] == "nchw", epilogue, dtype)
        case _:
            first = parse(parts[0])
            assert isinstance(first, Depthwise)  # noqa: S101
            workload = DepthwisePointwise(first, sizes[-1], epilogue)
    if isinstance(workload, Depthwise | Convolution) and min(workload.output) < 1:
        raise ValueError(f"a {name} without an output")
    if str(workload) != text:
        raise ValueError(f"a {name} of unknown form")
    return workload


def _parse_block(text: str) -> Block:
    first, _, halves = text.removeprefix("block ").partition(" -> ")
    parts = parse(first), parse(halves)
    match parts:
        case Convolution() as convolution, DepthwisePointwise(depthwise=depthwise) as fused:
            read = (depthwise.batch, depthwise.height, depthwise.width, depthwise.channels)
            if read == (convolution.batch, *convolution.output, convolution.outputs):
                return Block(convolution, fused)
    raise ValueError("a block whose layers do not fit each other")


def _parse_step(text: str) -> Step:
    op, _, values = text.partition("(")
    step = Step(op, tuple(map(float, values.rstrip(")").split(","))) if values else ())
    if _STEPS.get(op) != len(step.values):
        raise ValueError(f"unknown epilogue step {text!r}")
    return step


def _parse_window(
    sizes: Sequence[int],
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]:
    """Return kernel, stride and padding."""
    height, width, stride_y, stride_x, top, left, bottom, right = sizes
    return (height, width), (stride_y, stride_x), (top, left, bottom, right)


def _output(
    height: int,
    width: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> tuple[int, int]:
    top, left, bottom, right = padding
    return (
        (height + top + bottom - kernel[0]) // stride[0] + 1,
        (width + left + right - kernel[1]) // stride[1] + 1,
    )


def output_dtype(epilogue: Epilogue, dtype: str) -> str:
    """Return the type in which a layer of some type stores its result."""
    return "float32" if epilogue and epilogue[-1].op == "float32" else dtype


def _size(dtype: str) -> int:
    return np.dtype(dtype).itemsize


def _output_bytes(workload: Pointwise | Depthwise | Convolution | GlobalPool) -> int:
    """Return what is read or written per output: its residuals, and itself."""
    residuals = sum(step.op in TENSOR_STEPS for step in workload.epilogue)
    stored = output_dtype(workload.epilogue, workload.dtype)
    return residuals * _size(workload.dtype) + _size(stored)


def _window(workload: Depthwise | Convolution) -> str:
    kernel, stride = workload.kernel, workload.stride
    padding = ",".join(map(str, workload.padding))
    return f"k{kernel[0]}x{kernel[1]} s{stride[0]}x{stride[1]} p{padding}"


def _name(size: str, epilogue: Epilogue, dtype: str = "float32") -> str:
    # Logs from before there was another type name none.
    return " ".join([size, *([] if dtype == "float32" else [dtype]), *map(str, epilogue)])
