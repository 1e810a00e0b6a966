"""MobileNetV4, convolutional: its tables, and the layers that follow from them."""

from typing import NamedTuple

from mobilenet_tvm.compile.models.layers import (
    Activation,
    BlockSpec,
    ConvolutionSpec,
    LinearSpec,
    make_divisible,
)
from mobilenet_tvm.compile.models.networks import Classifier


class _Conv(NamedTuple):
    """A convolution by itself."""

    kernel: int
    stride: int
    outputs: int


class _Fused(NamedTuple):
    """A fused inverted bottleneck: a 3x3 convolution that expands, and a projection."""

    stride: int
    expansion: int
    outputs: int


class _Uib(NamedTuple):
    """A universal inverted bottleneck; a kernel of 0 stands for no depthwise layer.

    The depthwise layer in the middle has the stride, or the one at the start if
    there is no other.
    """

    start: int
    middle: int
    stride: int
    expansion: int
    outputs: int


_Row = _Conv | _Fused | _Uib

# A tuple for each stage. Qin and others 2024 (arXiv 2404.10518), appendix D, in
# timm's reading (mobilenetv4_conv_small and mobilenetv4_conv_medium), which
# has the stride in the middle.
_SMALL: tuple[tuple[_Row, ...], ...] = (
    (_Conv(3, 2, 32), _Conv(1, 1, 32)),
    (_Conv(3, 2, 96), _Conv(1, 1, 64)),
    (_Uib(5, 5, 2, 3, 96), *4 * (_Uib(0, 3, 1, 2, 96),), _Uib(3, 0, 1, 4, 96)),
    (
        _Uib(3, 3, 2, 6, 128),
        _Uib(5, 5, 1, 4, 128),
        _Uib(0, 5, 1, 4, 128),
        _Uib(0, 5, 1, 3, 128),
        *2 * (_Uib(0, 3, 1, 4, 128),),
    ),
)
_MEDIUM: tuple[tuple[_Row, ...], ...] = (
    (_Fused(2, 4, 48),),
    (_Uib(3, 5, 2, 4, 80), _Uib(3, 3, 1, 2, 80)),
    (
        _Uib(3, 5, 2, 6, 160),
        *2 * (_Uib(3, 3, 1, 4, 160),),
        _Uib(3, 5, 1, 4, 160),
        _Uib(3, 3, 1, 4, 160),
        _Uib(3, 0, 1, 4, 160),
        _Uib(0, 0, 1, 2, 160),
        _Uib(3, 0, 1, 4, 160),
    ),
    (
        _Uib(5, 5, 2, 6, 256),
        _Uib(5, 5, 1, 4, 256),
        *2 * (_Uib(3, 5, 1, 4, 256),),
        _Uib(0, 0, 1, 4, 256),
        _Uib(3, 0, 1, 4, 256),
        _Uib(3, 5, 1, 2, 256),
        _Uib(5, 5, 1, 4, 256),
        *2 * (_Uib(0, 0, 1, 4, 256),),
        _Uib(5, 0, 1, 2, 256),
    ),
)


def _dense(
    conv: str,
    norm: str,
    inputs: int,
    outputs: int,
    kernel: int = 1,
    stride: int = 1,
    activation: Activation | None = "relu",
) -> ConvolutionSpec:
    return ConvolutionSpec(conv, inputs, outputs, kernel, stride, norm=norm, activation=activation)


def _depthwise(
    at: str, channels: int, kernel: int, stride: int, activation: Activation | None
) -> ConvolutionSpec:
    return ConvolutionSpec(
        f"{at}.conv", channels, channels, kernel, stride, channels, f"{at}.bn", activation
    )


def _block(row: _Row, at: str, inputs: int, outputs: int, stage: int) -> BlockSpec:
    """Return the layers of a row, with timm's names."""
    if isinstance(row, _Conv):
        conv = _dense(f"{at}.conv", f"{at}.bn1", inputs, outputs, row.kernel, row.stride)
        return BlockSpec((conv,), stage)
    expanded = make_divisible(inputs * row.expansion)
    residual = row.stride == 1 and inputs == outputs
    if isinstance(row, _Fused):
        expand = _dense(f"{at}.conv_exp", f"{at}.bn1", inputs, expanded, 3, row.stride)
        project = _dense(f"{at}.conv_pwl", f"{at}.bn2", expanded, outputs, activation=None)
        return BlockSpec((expand, project), stage, residual)
    layers = []
    if row.start:
        stride = 1 if row.middle else row.stride
        layers.append(_depthwise(f"{at}.dw_start", inputs, row.start, stride, None))
    layers.append(_dense(f"{at}.pw_exp.conv", f"{at}.pw_exp.bn", inputs, expanded))
    if row.middle:
        layers.append(_depthwise(f"{at}.dw_mid", expanded, row.middle, row.stride, "relu"))
    names = (f"{at}.pw_proj.conv", f"{at}.pw_proj.bn")
    layers.append(_dense(*names, expanded, outputs, activation=None))
    return BlockSpec(tuple(layers), stage, residual)


def _mobilenet_v4(stages: tuple[tuple[_Row, ...], ...], alpha: float, classes: int) -> Classifier:
    channels = make_divisible(32 * max(1.0, alpha))
    first = _dense("conv_stem", "bn1", 3, channels, kernel=3, stride=2)
    blocks: list[BlockSpec] = []
    for stage, rows in enumerate(stages):
        for index, row in enumerate(rows):
            outputs = make_divisible(row.outputs * alpha)
            blocks.append(_block(row, f"blocks.{stage}.{index}", channels, outputs, stage))
            channels = outputs
    last = make_divisible(960 * alpha)
    at = f"blocks.{len(stages)}.0"
    head = _dense(f"{at}.conv", f"{at}.bn1", channels, last)
    hidden = _dense("conv_head", "norm_head", last, 1280)
    classifier = (LinearSpec("classifier", 1280, classes),)
    return Classifier(first, tuple(blocks), head, classifier, hidden, timm_only=True)


def mobilenet_v4_conv_small(alpha: float, classes: int) -> Classifier:
    """MobileNetV4-Conv-Small with timm's names and widths.

    The stem and the last 1280 channels stay as they are below alpha 1.
    """
    return _mobilenet_v4(_SMALL, alpha, classes)


def mobilenet_v4_conv_medium(alpha: float, classes: int) -> Classifier:
    """MobileNetV4-Conv-Medium with timm's names and widths; see the small one."""
    return _mobilenet_v4(_MEDIUM, alpha, classes)
