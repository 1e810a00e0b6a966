"""The layers of the named networks, with the names that PyTorch gives them."""

from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar

Activation = Literal["relu", "relu6", "silu", "sigmoid", "hard_swish", "hard_sigmoid"]
T = TypeVar("T")

NORM_PARTS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class ConvolutionSpec:
    """A convolution, its batch norm or bias, and its activation.

    `name` and `norm` are the names in a PyTorch state dict. `bias` is whether
    the convolution has one; with a batch norm it has none.
    """

    name: str
    inputs: int
    outputs: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    norm: str | None = None
    activation: Activation | None = None
    dilation: int = 1
    epsilon: float = 1e-5  # of the batch norm
    bias: bool = True

    @property
    def padding(self) -> int:
        """Pixels of zeros on each side."""
        return self.dilation * (self.kernel // 2)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Output channels, input channels of a group, kernel height and width."""
        return (self.outputs, self.inputs // self.groups, self.kernel, self.kernel)

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter and running statistic by its name."""
        shapes: dict[str, tuple[int, ...]] = {f"{self.name}.weight": self.weight_shape}
        if self.norm:
            shapes |= {f"{self.norm}.{part}": (self.outputs,) for part in NORM_PARTS}
        elif self.bias:
            shapes[f"{self.name}.bias"] = (self.outputs,)
        return shapes

    def output_side(self, side: int) -> int:
        """Return the height and width of the output for those of the input."""
        return (side + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1


@dataclass(frozen=True)
class LinearSpec:
    """A matrix product with a bias, and its activation."""

    name: str
    inputs: int
    outputs: int
    activation: Activation | None = None

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Outputs, inputs."""
        return (self.outputs, self.inputs)

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter by its name."""
        return {f"{self.name}.weight": self.weight_shape, f"{self.name}.bias": (self.outputs,)}


@dataclass(frozen=True)
class SqueezeExciteSpec:
    """Scales each channel by a number computed from all channels' means."""

    squeeze: ConvolutionSpec
    excite: ConvolutionSpec


Layer = ConvolutionSpec | SqueezeExciteSpec


class Operators(Protocol[T]):
    """What a network's operators mean for values of type T; see `Architecture.evaluate`."""

    def convolution(self, layer: ConvolutionSpec, value: T) -> T:
        """Convolution, batch norm or bias, activation."""

    def linear(self, layer: LinearSpec, value: T) -> T:
        """Matrix product, bias, activation."""

    def pool(self, value: T) -> T:
        """Mean of each channel, height and width kept as 1."""

    def flatten(self, value: T) -> T:
        """Drop height and width."""

    def add(self, left: T, right: T) -> T:
        """Sum."""

    def multiply(self, left: T, right: T) -> T:
        """Product."""

    def resize(self, value: T, like: T) -> T:
        """Bilinear interpolation to the height and width of another value, half-pixel centres."""

    def rows(self, value: T, columns: int) -> T:
        """Split the channels of each pixel into rows: [batch, height * width * rows, columns]."""

    def concatenate(self, values: list[T]) -> T:
        """Join along the second axis."""


@dataclass(frozen=True)
class BlockSpec:
    """Layers in a row; `residual` adds the block's input to its output.

    `stage` counts the rows of the paper's table: all blocks of a stage have the
    same number of output channels.
    """

    layers: tuple[Layer, ...]
    stage: int = 0
    residual: bool = False

    def evaluate(self, operators: Operators[T], value: T) -> T:
        """Send a value through the block."""
        shortcut = value
        for layer in self.layers:
            if isinstance(layer, SqueezeExciteSpec):
                scale = operators.convolution(layer.squeeze, operators.pool(value))
                value = operators.multiply(operators.convolution(layer.excite, scale), value)
            else:
                value = operators.convolution(layer, value)
        return operators.add(shortcut, value) if self.residual else value

    def renamed(self, old: str, new: str) -> "BlockSpec":
        """Return the block with another prefix in place of an old one in its layers' names."""

        def rename(layer: ConvolutionSpec) -> ConvolutionSpec:
            norm = layer.norm and new + layer.norm.removeprefix(old)
            return replace(layer, name=new + layer.name.removeprefix(old), norm=norm)

        layers = (
            SqueezeExciteSpec(rename(layer.squeeze), rename(layer.excite))
            if isinstance(layer, SqueezeExciteSpec)
            else rename(layer)
            for layer in self.layers
        )
        return replace(self, layers=tuple(layers))


def make_divisible(channels: float) -> int:
    """Round to the nearest multiple of 8 that is at least 90 % of what was asked for.

    Source: `_make_divisible` of the V2 and V3 papers' reference code
    (tensorflow/models, slim/nets/mobilenet), which torchvision and timm follow.
    """
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def stem(channels: int, activation: Activation, epsilon: float = 1e-5) -> ConvolutionSpec:
    """Return the first layer of a network, 3x3 with stride 2, named as in torchvision."""
    return ConvolutionSpec(
        "features.0.0",
        3,
        channels,
        kernel=3,
        stride=2,
        norm="features.0.1",
        activation=activation,
        epsilon=epsilon,
    )


def depthwise(
    at: str,
    channels: int,
    kernel: int,
    stride: int,
    activation: Activation,
    dilation: int = 1,
    epsilon: float = 1e-5,
) -> ConvolutionSpec:
    """Return a depthwise layer `at.0` with the batch norm `at.1`, named as in torchvision."""
    return ConvolutionSpec(
        f"{at}.0",
        channels,
        channels,
        kernel,
        stride,
        groups=channels,
        norm=f"{at}.1",
        activation=activation,
        dilation=dilation,
        epsilon=epsilon,
    )


def pointwise(
    at: str,
    inputs: int,
    outputs: int,
    activation: Activation | None = None,
    epsilon: float = 1e-5,
) -> ConvolutionSpec:
    """Return a 1x1 layer `at.0` with the batch norm `at.1`, named as in torchvision."""
    return ConvolutionSpec(
        f"{at}.0", inputs, outputs, norm=f"{at}.1", activation=activation, epsilon=epsilon
    )
