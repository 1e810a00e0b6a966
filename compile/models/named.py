"""The named models: their options, and their ONNX graphs."""

import difflib
import re
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from mobilenet_tvm.compile.models.architectures import NETWORKS
from mobilenet_tvm.compile.models.counts import macs, parameter_count
from mobilenet_tvm.compile.models.networks import Architecture
from mobilenet_tvm.compile.models.onnx_graph import to_onnx
from mobilenet_tvm.compile.models.pretrained import load_pretrained
from mobilenet_tvm.compile.models.random_weights import random_weights
from mobilenet_tvm.compile.models.weight_files import load_weights
from mobilenet_tvm.compile.models.weights import assign
from mobilenet_tvm.targets.errors import WrongUseError

__all__ = [
    "NAMES",
    "PUBLISHED",
    "ModelSpec",
    "Published",
    "build",
    "canonical_name",
    "macs",
    "outline",
    "parameter_count",
    "weights_origin",
]

NAMES = tuple(NETWORKS)

_ORIGIN_KEY = "weights"
_OWN: Any = None  # the network's own, which ModelSpec fills in


@dataclass(frozen=True)
class Published:
    """Published figures of a model with its default options.

    `macs` is the lowest and the highest figure in millions; `top1` is the
    accuracy on ImageNet in percent, if the model is a classifier.
    """

    parameters: int
    macs: tuple[int, int]
    top1: float | None = None


# Parameters as torchvision or timm count them (V1: as Keras does, running
# statistics left out). Multiply-accumulates and accuracies of V1 to V3 are from
# the three papers; B0's, SSDLite's and LR-ASPP's from torchvision, B0's 390 from
# its paper. V4's and Lite0's are from timm (results/), whose larger figure does
# not count convolutions only; the smaller one is the sum over the convolutions of
# its definition.
PUBLISHED = {
    "v1": Published(4_231_976, (569, 569), 70.6),
    "v2": Published(3_504_872, (300, 300), 71.8),
    "v3-large": Published(5_483_032, (217, 219), 75.2),
    "v3-small": Published(2_542_856, (56, 56), 67.4),
    "v4-conv-small": Published(3_774_024, (186, 190), 73.7),
    "v4-conv-medium": Published(9_715_512, (828, 840), 79.1),
    "efficientnet-b0": Published(5_288_548, (386, 390), 77.7),
    "efficientnet-lite0": Published(4_652_008, (385, 400), 75.5),
    "ssdlite-v3-large": Published(3_440_060, (583, 583)),
    "lraspp-v3-large": Published(3_221_538, (2086, 2086)),
}

_RANGES = {
    "alpha": (0.25, 1.4),
    "resolution": (32, 4096),
    "classes": (1, 100_000),
    "batch": (1, 1024),
}


def canonical_name(name: str) -> str:
    """Return the name in `NAMES` that a user means.

    Parameters
    ----------
    name
        A name as users write it: `v2`, `mobilenet_v2`, `MobileNetV3-Large`, `v3_small`.

    Returns
    -------
    str
        One of `NAMES`.

    Raises
    ------
    UserError
        If there is no such model; suggests similar names.
    """
    squeezed = re.sub(r"[-_ ]|mobilenet", "", name.lower())
    squeezed = squeezed.replace("ssdlite320", "ssdlite")  # torchvision's name
    for known in NAMES:
        if squeezed == known.replace("-", ""):
            return known
    spelled = name.lower().replace("_", "-").removeprefix("mobilenet").removeprefix("-")
    near = [known for known in NAMES if known.startswith(spelled)]
    near = near or difflib.get_close_matches(spelled, NAMES, n=2, cutoff=0.5)
    offer = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(NAMES)}"
    raise WrongUseError(f"unknown model {name!r}: {offer} (or give the path of an ONNX file)")


@dataclass(frozen=True)
class ModelSpec:
    """A named model with its options, which are checked.

    Attributes
    ----------
    name
        One of `NAMES`, in any spelling that `canonical_name` understands.
    alpha
        Width multiplier of all layers, 0.25 to 1.4.
    resolution
        Height and width of the input in pixels, a multiple of 32 or, for
        segmentation, of 8.
    classes
        Number of classes; in a detector the background is one of them.
    batch
        Images per run.
    """

    name: str
    alpha: float = 1.0
    resolution: int = _OWN
    classes: int = _OWN
    batch: int = 1

    def __post_init__(self) -> None:
        """Raise a UserError where an option has an invalid value."""
        object.__setattr__(self, "name", canonical_name(self.name))
        network = NETWORKS[self.name]
        for option in ("resolution", "classes"):
            if getattr(self, option) is None:
                object.__setattr__(self, option, getattr(network, option))
        for option, (low, high) in _RANGES.items():
            kind = float if option == "alpha" else int
            value: Any = getattr(self, option)
            fits = isinstance(value, Real if kind is float else Integral)
            if not (fits and low <= kind(value) <= high):
                what = "number" if kind is float else "whole number"
                raise WrongUseError(f"{option} {value!r} is not a {what} from {low} to {high}")
            object.__setattr__(self, option, kind(value))
        if self.resolution % (step := network.step):
            below = self.resolution // step * step
            raise WrongUseError(
                f"resolution {self.resolution} is not a multiple of {step}; "
                f"use {below} or {below + step}"
            )

    @property
    def title(self) -> str:
        """The name in files and metadata: `mobilenet_v2`, `mobilenet_v2_0.5_160`."""
        network = NETWORKS[self.name]
        title = network.title
        if (self.alpha, self.resolution) != (1.0, network.resolution):
            title += f"_{self.alpha}_{self.resolution}"
        if self.classes != network.classes:
            title += f"_classes{self.classes}"
        if self.batch != 1:
            title += f"_batch{self.batch}"
        return title

    @property
    def architecture(self) -> Architecture:
        """The network's layers."""
        return NETWORKS[self.name].architecture(self.alpha, self.classes)


def build(spec: ModelSpec, weights: str | Path | None = None, seed: int = 0) -> onnx.ModelProto:
    """Build a named model as ONNX, float32, NCHW.

    Parameters
    ----------
    spec
        The model.
    weights
        A file for `load_weights`, `"pretrained"` for a public one, or None for
        random weights. A file may have fewer channels inside blocks, as `prune` leaves them.
    seed
        Seed of the random weights, 0 or more.

    Returns
    -------
    onnx.ModelProto
        Input `input` [batch, 3, resolution, resolution]; outputs are those of
        the kind of network, see `networks`; parameters have torchvision's names,
        or timm's; the origin of the weights is where `weights_origin` finds it.

    Raises
    ------
    UserError
        If the weights are not available or do not fit.
    """
    architecture = spec.architecture
    if weights is None:
        if seed < 0:
            raise WrongUseError(f"seed {seed} is negative; use 0 or more")
        parameters = random_weights(architecture, spec.resolution, seed)
        origin = f"random (seed {seed})"
    else:
        if weights == "pretrained":
            stored = load_pretrained(spec.name, spec.alpha, spec.classes)
        else:
            stored = load_weights(Path(weights))
        architecture, parameters = assign(architecture, stored, spec.title)
        origin = stored.origin
    model = _graph(spec, architecture, parameters)
    helper.set_model_props(model, {_ORIGIN_KEY: origin})
    return model


def outline(spec: ModelSpec) -> onnx.ModelProto:
    """Return the graph of a named model with zeros as parameters, to count what it has."""
    architecture = spec.architecture
    shapes = architecture.parameter_shapes.items()
    return _graph(spec, architecture, {name: np.zeros(shape, np.float32) for name, shape in shapes})


def weights_origin(model: onnx.ModelProto) -> str | None:
    """Return a short description of where the weights of a model from `build` came from."""
    return next((p.value for p in model.metadata_props if p.key == _ORIGIN_KEY), None)


def _graph(
    spec: ModelSpec, architecture: Architecture, parameters: dict[str, NDArray[np.float32]]
) -> onnx.ModelProto:
    image = (spec.batch, 3, spec.resolution, spec.resolution)
    return to_onnx(architecture, spec.title, image, parameters)
