"""The named networks: what each is, and its options by default."""

from collections.abc import Callable
from dataclasses import dataclass

from mobilenet_tvm.compile.models.efficientnet import efficientnet_b0, efficientnet_lite0
from mobilenet_tvm.compile.models.lraspp import lraspp_v3_large
from mobilenet_tvm.compile.models.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from mobilenet_tvm.compile.models.mobilenet_v4 import (
    mobilenet_v4_conv_medium,
    mobilenet_v4_conv_small,
)
from mobilenet_tvm.compile.models.mobilenets import mobilenet_v1, mobilenet_v2
from mobilenet_tvm.compile.models.networks import Architecture
from mobilenet_tvm.compile.models.ssdlite import ssdlite_v3_large


@dataclass(frozen=True)
class NamedNetwork:
    """A network by its name.

    Parameters
    ----------
    architecture
        Its layers, from the width multiplier and the number of classes.
    title
        Its name in files.
    resolution
        Height and width of its input, by default.
    step
        What a resolution has to be a multiple of.
    classes
        How many it tells apart, by default.
    """

    architecture: Callable[[float, int], Architecture]
    title: str
    resolution: int = 224
    step: int = 32
    classes: int = 1000


NETWORKS = {
    "v1": NamedNetwork(mobilenet_v1, "mobilenet_v1"),
    "v2": NamedNetwork(mobilenet_v2, "mobilenet_v2"),
    "v3-large": NamedNetwork(mobilenet_v3_large, "mobilenet_v3_large"),
    "v3-small": NamedNetwork(mobilenet_v3_small, "mobilenet_v3_small"),
    "v4-conv-small": NamedNetwork(mobilenet_v4_conv_small, "mobilenet_v4_conv_small"),
    "v4-conv-medium": NamedNetwork(mobilenet_v4_conv_medium, "mobilenet_v4_conv_medium"),
    "efficientnet-b0": NamedNetwork(efficientnet_b0, "efficientnet_b0"),
    "efficientnet-lite0": NamedNetwork(efficientnet_lite0, "efficientnet_lite0"),
    "ssdlite-v3-large": NamedNetwork(
        ssdlite_v3_large, "ssdlite_mobilenet_v3_large", resolution=320, classes=91
    ),
    "lraspp-v3-large": NamedNetwork(
        lraspp_v3_large, "lraspp_mobilenet_v3_large", resolution=520, step=8, classes=21
    ),
}
