"""MobileNet V1 and V2: their tables, and the layers that follow from them."""

from mobilenet_tvm.compile.models.layers import (
    BlockSpec,
    ConvolutionSpec,
    LinearSpec,
    depthwise,
    make_divisible,
    pointwise,
    stem,
)
from mobilenet_tvm.compile.models.networks import Classifier

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


def mobilenet_v1(alpha: float, classes: int) -> Classifier:
    """MobileNetV1, with names as torchvision would give them; it has no V1.

    Source: Howard and others 2017 (arXiv 1704.04861), with symmetric padding as
    PyTorch ports have it, not TensorFlow's 'SAME'.
    """
    channels = make_divisible(32 * alpha)
    first = stem(channels, "relu6")
    blocks: list[BlockSpec] = []
    for stage, (width, repeats, stride) in enumerate(_V1):
        outputs = make_divisible(width * alpha)
        for repeat in range(repeats):
            at = f"features.{len(blocks) + 1}"
            blocks.append(
                BlockSpec(
                    (
                        depthwise(f"{at}.0", channels, 3, 1 if repeat else stride, "relu6"),
                        pointwise(f"{at}.1", channels, outputs, "relu6"),
                    ),
                    stage,
                )
            )
            channels = outputs
    classifier = (LinearSpec("classifier.1", channels, classes),)
    return Classifier(first, tuple(blocks), None, classifier)


def mobilenet_v2(alpha: float, classes: int) -> Classifier:
    """MobileNetV2 with torchvision's names.

    Source: Sandler and others 2018 (arXiv 1801.04381). The head stays at 1280
    channels below alpha 1.
    """
    channels = make_divisible(32 * alpha)
    first = stem(channels, "relu6")
    blocks: list[BlockSpec] = []
    for stage, (expansion, width, repeats, first_stride) in enumerate(_V2):
        outputs = make_divisible(width * alpha)
        for repeat in range(repeats):
            at = f"features.{len(blocks) + 1}.conv"
            stride = 1 if repeat else first_stride
            expanded = channels * expansion
            layers = []
            if expansion > 1:
                layers.append(pointwise(f"{at}.0", channels, expanded, "relu6"))
            n = len(layers)
            layers.append(depthwise(f"{at}.{n}", expanded, 3, stride, "relu6"))
            layers.append(ConvolutionSpec(f"{at}.{n + 1}", expanded, outputs, norm=f"{at}.{n + 2}"))
            blocks.append(BlockSpec(tuple(layers), stage, stride == 1 and channels == outputs))
            channels = outputs
    last = make_divisible(1280 * max(1.0, alpha))
    head = pointwise(f"features.{len(blocks) + 1}", channels, last, "relu6")
    classifier = (LinearSpec("classifier.1", last, classes),)
    return Classifier(first, tuple(blocks), head, classifier)
