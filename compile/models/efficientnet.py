"""EfficientNet-B0 and its variant for mobile processors, Lite0."""

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

# Expansion, kernel, output channels, blocks, stride of the first block. Tan and
# Le 2019 (arXiv 1905.11946), table 1.
_B0 = (
    (1, 3, 16, 1, 1),
    (6, 3, 24, 2, 2),
    (6, 5, 40, 2, 2),
    (6, 3, 80, 3, 2),
    (6, 5, 112, 3, 1),
    (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)


def _efficientnet(
    channels: int, last: int, alpha: float, classes: int, activation: Activation, excited: bool
) -> Classifier:
    """Return the network with `channels` after the stem and `last` before the pooling."""
    first = stem(channels, activation)
    blocks: list[BlockSpec] = []
    for stage, (expansion, kernel, width, repeats, first_stride) in enumerate(_B0):
        outputs = make_divisible(width * alpha)
        for repeat in range(repeats):
            at = f"features.{stage + 1}.{repeat}.block"
            stride = 1 if repeat else first_stride
            expanded = channels * expansion
            layers: list[Layer] = []
            if expansion > 1:
                layers.append(pointwise(f"{at}.0", channels, expanded, activation))
            name = f"{at}.{len(layers)}"
            layers.append(depthwise(name, expanded, kernel, stride, activation))
            if excited:
                name = f"{at}.{len(layers)}"
                layers.append(
                    SqueezeExciteSpec(
                        ConvolutionSpec(
                            f"{name}.fc1", expanded, channels // 4, activation=activation
                        ),
                        ConvolutionSpec(
                            f"{name}.fc2", channels // 4, expanded, activation="sigmoid"
                        ),
                    )
                )
            layers.append(pointwise(f"{at}.{len(layers)}", expanded, outputs))
            blocks.append(BlockSpec(tuple(layers), stage, stride == 1 and channels == outputs))
            channels = outputs
    head = pointwise(f"features.{len(_B0) + 1}", channels, last, activation)
    classifier = (LinearSpec("classifier.1", last, classes),)
    return Classifier(first, tuple(blocks), head, classifier)


def efficientnet_b0(alpha: float, classes: int) -> Classifier:
    """EfficientNet-B0 with torchvision's names, and widths as in timm.

    Padding is symmetric, as in timm's efficientnet_b0 and torchvision, not
    TensorFlow's 'SAME'.
    """
    channels, last = make_divisible(32 * alpha), make_divisible(1280 * alpha)
    return _efficientnet(channels, last, alpha, classes, "silu", excited=True)


def efficientnet_lite0(alpha: float, classes: int) -> Classifier:
    """EfficientNet-Lite0: no squeeze-and-excitation, and ReLU6.

    Its names are as torchvision would give them; it has no Lite0. Widths are
    those of timm, where stem and head do not depend on alpha.
    """
    return _efficientnet(32, 1280, alpha, classes, "relu6", excited=False)
