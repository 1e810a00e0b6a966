"""SSDLite on MobileNetV3-Large, as torchvision's ssdlite320_mobilenet_v3_large."""

from functools import partial

from mobilenet_tvm.compile.models.layers import (
    BlockSpec,
    ConvolutionSpec,
    depthwise,
    make_divisible,
    pointwise,
)
from mobilenet_tvm.compile.models.mobilenet_v3 import V3_EPSILON, V3_LARGE, v3_trunk
from mobilenet_tvm.compile.models.networks import Detector

# Of each pixel of each map: two squares, and two rectangles for each of the
# aspect ratios 2 and 3.
_ANCHORS = 6

# The block whose expansion, of stride 16, is the first map. Its output and the
# blocks after it have half of V3's channels (arXiv 1905.02244, section 6.3).
_C4 = 13
# Channels of the maps after V3's.
_EXTRA = (512, 256, 256, 128)

_depthwise = partial(depthwise, epsilon=V3_EPSILON)
_pointwise = partial(pointwise, epsilon=V3_EPSILON)


def ssdlite_v3_large(alpha: float, classes: int) -> Detector:
    """SSDLite on MobileNetV3-Large with torchvision's names.

    `classes` includes the background. The tail is the reduced one of the
    weights for COCO, not the one that torchvision has for a trained V3.
    """
    to_c4, after_c4, channels = _trunk(alpha)
    stages = [to_c4, after_c4]
    for number, width in enumerate(_EXTRA):
        outputs = max(16, int(width * alpha))
        stages.append((_extra(f"backbone.extra.{number}", channels[-1], outputs),))
        channels.append(outputs)
    return Detector(
        tuple(stages),
        _heads("head.regression_head", channels, 4),
        _heads("head.classification_head", channels, classes),
        classes,
    )


def _trunk(alpha: float) -> tuple[tuple[BlockSpec, ...], tuple[BlockSpec, ...], list[int]]:
    """Return V3's blocks before the first map, those after it, and both maps' channels."""
    tail = (
        row._replace(
            outputs=row.outputs // 2,
            expanded=row.expanded // (1 if number == 0 else 2),
        )
        for number, row in enumerate(V3_LARGE[_C4 - 1 :])
    )
    stem, blocks, head = v3_trunk((*V3_LARGE[: _C4 - 1], *tail), alpha)
    features = (BlockSpec((stem,)), *blocks, BlockSpec((head,)))
    c4 = features[_C4].layers
    expansion, rest = BlockSpec(c4[:1]), BlockSpec(c4[1:])
    at = f"features.{_C4}.block."
    before = (
        *(block.renamed("features.", "backbone.features.0.") for block in features[:_C4]),
        expansion.renamed(f"{at}0.", f"backbone.features.0.{_C4}."),
    )
    after = (
        rest.renamed(at, "backbone.features.1.0."),
        *(
            block.renamed(f"features.{_C4 + number}.", f"backbone.features.1.{number}.")
            for number, block in enumerate(features[_C4 + 1 :], 1)
        ),
    )
    return before, after, [make_divisible(V3_LARGE[_C4 - 1].expanded * alpha), head.outputs]


def _extra(at: str, inputs: int, outputs: int) -> BlockSpec:
    """Return the layers from one map to the next of half its height and width."""
    middle = outputs // 2
    return BlockSpec(
        (
            _pointwise(f"{at}.0", inputs, middle, "relu6"),
            _depthwise(f"{at}.1", middle, 3, 2, "relu6"),
            _pointwise(f"{at}.2", middle, outputs, "relu6"),
        )
    )


def _heads(at: str, channels: list[int], columns: int) -> tuple[BlockSpec, ...]:
    """Return a block for each map that gives `columns` numbers for each anchor."""
    return tuple(
        BlockSpec(
            (
                _depthwise(f"{at}.module_list.{number}.0", inputs, 3, 1, "relu6"),
                ConvolutionSpec(f"{at}.module_list.{number}.1", inputs, _ANCHORS * columns),
            )
        )
        for number, inputs in enumerate(channels)
    )
