"""The MobileNets: their tables, and the layers that follow from them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

Activation = Literal["relu", "relu6", "hard_swish", "hard_sigmoid"]
T = TypeVar("T")

NORM_PARTS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class ConvolutionSpec:
    """A convolution, its batch norm or bias, and its activation.

    `name` and `norm` are the names in a PyTorch state dict. Without a batch
    norm the convolution has a bias.
    """

    name: str
    inputs: int
    outputs: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    norm: str | None = None
    activation: Activation | None = None

    @property
    def padding(self) -> int:
        """Pixels of zeros on each side."""
        return self.kernel // 2

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Output channels, input channels of a group, kernel height and width."""
        return (self.outputs, self.inputs // self.groups, self.kernel, self.kernel)


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


@dataclass(frozen=True)
class SqueezeExciteSpec:
    """Scales each channel by a number computed from all channels' means."""

    squeeze: ConvolutionSpec
    excite: ConvolutionSpec


@dataclass(frozen=True)
class BlockSpec:
    """Layers in a row; `residual` adds the block's input to its output.

    `stage` counts the rows of the paper's table: all blocks of a stage have the
    same number of output channels.
    """

    layers: tuple[ConvolutionSpec | SqueezeExciteSpec, ...]
    stage: int
    residual: bool = False


@dataclass(frozen=True)
class Architecture:
    """A network for images: stem, blocks, head, global average pool, classifier."""

    stem: ConvolutionSpec
    blocks: tuple[BlockSpec, ...]
    head: ConvolutionSpec | None
    classifier: tuple[LinearSpec, ...]
    epsilon: float  # of every batch norm

    @property
    def layers(self) -> Iterator[ConvolutionSpec | LinearSpec]:
        """All layers that have parameters, in the order of execution."""
        yield self.stem
        for block in self.blocks:
            for layer in block.layers:
                if isinstance(layer, SqueezeExciteSpec):
                    yield layer.squeeze
                    yield layer.excite
                else:
                    yield layer
        if self.head:
            yield self.head
        yield from self.classifier

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter and running statistic by its name, in definition order."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in self.layers:
            shapes[f"{layer.name}.weight"] = layer.weight_shape
            if isinstance(layer, ConvolutionSpec) and layer.norm:
                for part in NORM_PARTS:
                    shapes[f"{layer.norm}.{part}"] = (layer.outputs,)
            else:
                shapes[f"{layer.name}.bias"] = (layer.outputs,)
        return shapes


class Operators(Protocol[T]):
    """What a network's operators mean for values of type T; see `evaluate`."""

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


def evaluate(architecture: Architecture, operators: Operators[T], value: T) -> T:
    """Send a value through the network; `operators` decides what its layers do.

    Parameters
    ----------
    architecture
        The network.
    operators
        Meaning of each layer: a node in a graph, or a calculation.
    value
        The image, or what represents it.

    Returns
    -------
    T
        The logits, or what represents them.
    """
    value = operators.convolution(architecture.stem, value)
    for block in architecture.blocks:
        shortcut = value
        for layer in block.layers:
            if isinstance(layer, SqueezeExciteSpec):
                scale = operators.convolution(layer.squeeze, operators.pool(value))
                value = operators.multiply(operators.convolution(layer.excite, scale), value)
            else:
                value = operators.convolution(layer, value)
        if block.residual:
            value = operators.add(shortcut, value)
    if architecture.head:
        value = operators.convolution(architecture.head, value)
    value = operators.flatten(operators.pool(value))
    for linear in architecture.classifier:
        value = operators.linear(linear, value)
    return value


def make_divisible(channels: float) -> int:
    """Round to the nearest multiple of 8 that is at least 90 % of what was asked for.

    Source: `_make_divisible` of the V2 and V3 papers' reference code
    (tensorflow/models, slim/nets/mobilenet), which torchvision follows.
    """
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


# Output channels, blocks, stride of the first block. Howard and others 2017
# (arXiv 1704.04861), table 1.
_V1 = (
    (64, 1, 1),
    (128, 2, 2),
    (256, 2, 2),
    (512, 6, 2),
    (1024, 2, 2),
)

# Expansion, output channels, blocks, stride of the first block. Sandler and
# others 2018 (arXiv 1801.04381), table 2.
_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

# Kernel, expanded channels, output channels, squeeze-and-excitation,
# activation, stride. Howard and others 2019 (arXiv 1905.02244), tables 1 and 2.
_V3Row = tuple[int, int, int, bool, Activation, int]
_V3_LARGE: tuple[_V3Row, ...] = (
    (3, 16, 16, False, "relu", 1),
    (3, 64, 24, False, "relu", 2),
    (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2),
    (5, 120, 40, True, "relu", 1),
    (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "hard_swish", 2),
    (3, 200, 80, False, "hard_swish", 1),
    (3, 184, 80, False, "hard_swish", 1),
    (3, 184, 80, False, "hard_swish", 1),
    (3, 480, 112, True, "hard_swish", 1),
    (3, 672, 112, True, "hard_swish", 1),
    (5, 672, 160, True, "hard_swish", 2),
    (5, 960, 160, True, "hard_swish", 1),
    (5, 960, 160, True, "hard_swish", 1),
)
_V3_SMALL: tuple[_V3Row, ...] = (
    (3, 16, 16, True, "relu", 2),
    (3, 72, 24, False, "relu", 2),
    (3, 88, 24, False, "relu", 1),
    (5, 96, 40, True, "hard_swish", 2),
    (5, 240, 40, True, "hard_swish", 1),
    (5, 240, 40, True, "hard_swish", 1),
    (5, 120, 48, True, "hard_swish", 1),
    (5, 144, 48, True, "hard_swish", 1),
    (5, 288, 96, True, "hard_swish", 2),
    (5, 576, 96, True, "hard_swish", 1),
    (5, 576, 96, True, "hard_swish", 1),
)


def _stem(channels: int, activation: Activation) -> ConvolutionSpec:
    return ConvolutionSpec(
        "features.0.0", 3, channels, 3, 2, norm="features.0.1", activation=activation
    )


def _depthwise(
    at: str, channels: int, kernel: int, stride: int, activation: Activation
) -> ConvolutionSpec:
    return ConvolutionSpec(
        f"{at}.0", channels, channels, kernel, stride, channels, f"{at}.1", activation
    )


def _pointwise(
    at: str, inputs: int, outputs: int, activation: Activation | None = None
) -> ConvolutionSpec:
    return ConvolutionSpec(f"{at}.0", inputs, outputs, norm=f"{at}.1", activation=activation)


def mobilenet_v1(alpha: float, classes: int) -> Architecture:
    """MobileNetV1, with names as torchvision would give them; it has no V1.

    Source: Howard and others 2017 (arXiv 1704.04861), with symmetric padding as
    PyTorch ports have it, not TensorFlow's 'SAME'.
    """
    channels = make_divisible(32 * alpha)
    stem = _stem(channels, "relu6")
    blocks: list[BlockSpec] = []
    for stage, (width, repeats, stride) in enumerate(_V1):
        outputs = make_divisible(width * alpha)
        for repeat in range(repeats):
            at = f"features.{len(blocks) + 1}"
            blocks.append(
                BlockSpec(
                    (
                        _depthwise(f"{at}.0", channels, 3, 1 if repeat else stride, "relu6"),
                        _pointwise(f"{at}.1", channels, outputs, "relu6"),
                    ),
                    stage,
                )
            )
            channels = outputs
    classifier = (LinearSpec("classifier.1", channels, classes),)
    return Architecture(stem, tuple(blocks), None, classifier, epsilon=1e-5)


def mobilenet_v2(alpha: float, classes: int) -> Architecture:
    """MobileNetV2 with torchvision's names.

    Source: Sandler and others 2018 (arXiv 1801.04381). The head stays at 1280
    channels below alpha 1.
    """
    channels = make_divisible(32 * alpha)
    stem = _stem(channels, "relu6")
    blocks: list[BlockSpec] = []
    for stage, (expansion, width, repeats, first_stride) in enumerate(_V2):
        outputs = make_divisible(width * alpha)
        for repeat in range(repeats):
            at = f"features.{len(blocks) + 1}.conv"
            stride = 1 if repeat else first_stride
            expanded = channels * expansion
            layers = []
            if expansion > 1:
                layers.append(_pointwise(f"{at}.0", channels, expanded, "relu6"))
            n = len(layers)
            layers.append(_depthwise(f"{at}.{n}", expanded, 3, stride, "relu6"))
            layers.append(ConvolutionSpec(f"{at}.{n + 1}", expanded, outputs, norm=f"{at}.{n + 2}"))
            blocks.append(BlockSpec(tuple(layers), stage, stride == 1 and channels == outputs))
            channels = outputs
    last = make_divisible(1280 * max(1.0, alpha))
    head = _pointwise(f"features.{len(blocks) + 1}", channels, last, "relu6")
    classifier = (LinearSpec("classifier.1", last, classes),)
    return Architecture(stem, tuple(blocks), head, classifier, epsilon=1e-5)


def _mobilenet_v3(
    rows: tuple[_V3Row, ...], hidden: int, alpha: float, classes: int
) -> Architecture:
    channels = make_divisible(rows[0][2] * alpha)
    stem = _stem(channels, "hard_swish")
    blocks: list[BlockSpec] = []
    stage, last_width = -1, 0
    for kernel, wide, width, excited, activation, stride in rows:
        stage += width != last_width
        last_width = width
        expanded, outputs = make_divisible(wide * alpha), make_divisible(width * alpha)
        at = f"features.{len(blocks) + 1}.block"
        layers: list[ConvolutionSpec | SqueezeExciteSpec] = []
        if expanded != channels:
            layers.append(_pointwise(f"{at}.0", channels, expanded, activation))
        layers.append(_depthwise(f"{at}.{len(layers)}", expanded, kernel, stride, activation))
        if excited:
            n = len(layers)
            squeezed = make_divisible(expanded // 4)
            layers.append(
                SqueezeExciteSpec(
                    ConvolutionSpec(f"{at}.{n}.fc1", expanded, squeezed, activation="relu"),
                    ConvolutionSpec(f"{at}.{n}.fc2", squeezed, expanded, activation="hard_sigmoid"),
                )
            )
        layers.append(_pointwise(f"{at}.{len(layers)}", expanded, outputs))
        blocks.append(BlockSpec(tuple(layers), stage, stride == 1 and channels == outputs))
        channels = outputs
    last = 6 * channels
    head = _pointwise(f"features.{len(blocks) + 1}", channels, last, "hard_swish")
    hidden = make_divisible(hidden * alpha)
    classifier = (
        LinearSpec("classifier.0", last, hidden, activation="hard_swish"),
        LinearSpec("classifier.3", hidden, classes),
    )
    return Architecture(stem, tuple(blocks), head, classifier, epsilon=1e-3)


def mobilenet_v3_large(alpha: float, classes: int) -> Architecture:
    """MobileNetV3-Large with torchvision's names.

    Source: Howard and others 2019 (arXiv 1905.02244), table 1.
    """
    return _mobilenet_v3(_V3_LARGE, 1280, alpha, classes)


def mobilenet_v3_small(alpha: float, classes: int) -> Architecture:
    """MobileNetV3-Small with torchvision's names.

    Source: Howard and others 2019 (arXiv 1905.02244), table 2.
    """
    return _mobilenet_v3(_V3_SMALL, 1024, alpha, classes)


ARCHITECTURES = {
    "v1": mobilenet_v1,
    "v2": mobilenet_v2,
    "v3-large": mobilenet_v3_large,
    "v3-small": mobilenet_v3_small,
}
