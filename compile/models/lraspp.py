"""Lite R-ASPP on MobileNetV3-Large, as torchvision's lraspp_mobilenet_v3_large."""

from mobilenet_tvm.compile.models.layers import BlockSpec, ConvolutionSpec, make_divisible
from mobilenet_tvm.compile.models.mobilenet_v3 import V3_LARGE, v3_trunk
from mobilenet_tvm.compile.models.networks import Segmenter

# The block of stride 8 whose output joins that of the head.
_LOW = 4
# The first row that is dilated: from it on, all maps have stride 16.
_C4 = 12
_CHANNELS = 128


def lraspp_v3_large(alpha: float, classes: int) -> Segmenter:
    """Lite R-ASPP on MobileNetV3-Large with torchvision's names.

    Source: Howard and others 2019 (arXiv 1905.02244), section 6.4. `alpha` is
    of V3; what is after it keeps its channels.
    """
    dilated = (row._replace(stride=1, dilation=2) for row in V3_LARGE[_C4:])
    stem, blocks, head = v3_trunk((*V3_LARGE[:_C4], *dilated), alpha)
    features = [
        block.renamed("features.", "backbone.")
        for block in (BlockSpec((stem,)), *blocks, BlockSpec((head,)))
    ]
    low_channels = make_divisible(V3_LARGE[_LOW - 1].outputs * alpha)
    at = "classifier"
    return Segmenter(
        low=tuple(features[: _LOW + 1]),
        high=tuple(features[_LOW + 1 :]),
        branch=ConvolutionSpec(
            f"{at}.cbr.0", head.outputs, _CHANNELS, norm=f"{at}.cbr.1", activation="relu"
        ),
        gate=ConvolutionSpec(
            f"{at}.scale.1", head.outputs, _CHANNELS, activation="sigmoid", bias=False
        ),
        low_classifier=ConvolutionSpec(f"{at}.low_classifier", low_channels, classes),
        high_classifier=ConvolutionSpec(f"{at}.high_classifier", _CHANNELS, classes),
    )
