"""MobileNetV3: its tables, the layers that follow from them, and its trunk in other networks."""

from functools import partial
from typing import NamedTuple

from mobilenet_tvm.compile.models.layers import (
    Activation,
    BlockSpec,
    ConvolutionSpec,
    Layer,
    LinearSpec,
    SqueezeExciteSpec,
    depthwise,
    make_divisible,
    pointwise,
    stem,
)
from mobilenet_tvm.compile.models.networks import Classifier

# Of every batch norm in torchvision's V3 and what it builds on V3.
V3_EPSILON = 1e-3

_depthwise = partial(depthwise, epsilon=V3_EPSILON)
_pointwise = partial(pointwise, epsilon=V3_EPSILON)


class V3Row(NamedTuple):
    """A row of the paper's table."""

    kernel: int
    expanded: int
    outputs: int
    excited: bool  # squeeze-and-excitation
    activation: Activation
    stride: int
    dilation: int = 1


# Howard and others 2019 (arXiv 1905.02244), tables 1 and 2.
V3_LARGE: tuple[V3Row, ...] = (
    V3Row(3, 16, 16, False, "relu", 1),
    V3Row(3, 64, 24, False, "relu", 2),
    V3Row(3, 72, 24, False, "relu", 1),
    V3Row(5, 72, 40, True, "relu", 2),
    V3Row(5, 120, 40, True, "relu", 1),
    V3Row(5, 120, 40, True, "relu", 1),
    V3Row(3, 240, 80, False, "hard_swish", 2),
    V3Row(3, 200, 80, False, "hard_swish", 1),
    V3Row(3, 184, 80, False, "hard_swish", 1),
    V3Row(3, 184, 80, False, "hard_swish", 1),
    V3Row(3, 480, 112, True, "hard_swish", 1),
    V3Row(3, 672, 112, True, "hard_swish", 1),
    V3Row(5, 672, 160, True, "hard_swish", 2),
    V3Row(5, 960, 160, True, "hard_swish", 1),
    V3Row(5, 960, 160, True, "hard_swish", 1),
)
V3_SMALL: tuple[V3Row, ...] = (
    V3Row(3, 16, 16, True, "relu", 2),
    V3Row(3, 72, 24, False, "relu", 2),
    V3Row(3, 88, 24, False, "relu", 1),
    V3Row(5, 96, 40, True, "hard_swish", 2),
    V3Row(5, 240, 40, True, "hard_swish", 1),
    V3Row(5, 240, 40, True, "hard_swish", 1),
    V3Row(5, 120, 48, True, "hard_swish", 1),
    V3Row(5, 144, 48, True, "hard_swish", 1),
    V3Row(5, 288, 96, True, "hard_swish", 2),
    V3Row(5, 576, 96, True, "hard_swish", 1),
    V3Row(5, 576, 96, True, "hard_swish", 1),
)


def v3_trunk(
    rows: tuple[V3Row, ...], alpha: float
) -> tuple[ConvolutionSpec, tuple[BlockSpec, ...], ConvolutionSpec]:
    """Return the layers before the pooling: stem, a block for each row, head.

    They have torchvision's names: `features.0` is the stem, `features.1` the
    first block, and so on.
    """
    channels = make_divisible(rows[0].outputs * alpha)
    first = stem(channels, "hard_swish", V3_EPSILON)
    blocks: list[BlockSpec] = []
    stage, last_width = -1, 0
    for row in rows:
        stage += row.outputs != last_width
        last_width = row.outputs
        expanded = make_divisible(row.expanded * alpha)
        outputs = make_divisible(row.outputs * alpha)
        at = f"features.{len(blocks) + 1}.block"
        layers: list[Layer] = []
        if expanded != channels:
            layers.append(_pointwise(f"{at}.0", channels, expanded, row.activation))
        spatial = (row.kernel, row.stride, row.activation, row.dilation)
        layers.append(_depthwise(f"{at}.{len(layers)}", expanded, *spatial))
        if row.excited:
            n = len(layers)
            squeezed = make_divisible(expanded // 4)
            layers.append(
                SqueezeExciteSpec(
                    ConvolutionSpec(f"{at}.{n}.fc1", expanded, squeezed, activation="relu"),
                    ConvolutionSpec(f"{at}.{n}.fc2", squeezed, expanded, activation="hard_sigmoid"),
                )
            )
        layers.append(_pointwise(f"{at}.{len(layers)}", expanded, outputs))
        residual = row.stride == 1 and channels == outputs
        blocks.append(BlockSpec(tuple(layers), stage, residual))
        channels = outputs
    head = _pointwise(f"features.{len(blocks) + 1}", channels, 6 * channels, "hard_swish")
    return first, tuple(blocks), head


def _mobilenet_v3(rows: tuple[V3Row, ...], hidden: int, alpha: float, classes: int) -> Classifier:
    first, blocks, head = v3_trunk(rows, alpha)
    hidden = make_divisible(hidden * alpha)
    classifier = (
        LinearSpec("classifier.0", head.outputs, hidden, activation="hard_swish"),
        LinearSpec("classifier.3", hidden, classes),
    )
    return Classifier(first, blocks, head, classifier)


def mobilenet_v3_large(alpha: float, classes: int) -> Classifier:
    """MobileNetV3-Large with torchvision's names.

    Source: Howard and others 2019 (arXiv 1905.02244), table 1.
    """
    return _mobilenet_v3(V3_LARGE, 1280, alpha, classes)


def mobilenet_v3_small(alpha: float, classes: int) -> Classifier:
    """MobileNetV3-Small with torchvision's names.

    Source: Howard and others 2019 (arXiv 1905.02244), table 2.
    """
    return _mobilenet_v3(V3_SMALL, 1024, alpha, classes)
