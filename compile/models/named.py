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
from onnx import TensorProto, helper, numpy_helper

from mobilenet_tvm.compile.models.architectures import (
    ARCHITECTURES,
    NORM_PARTS,
    Activation,
    Architecture,
    ConvolutionSpec,
    LinearSpec,
    evaluate,
)
from mobilenet_tvm.compile.models.counts import macs, parameter_count
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
    "parameter_count",
    "weights_origin",
]

NAMES = tuple(ARCHITECTURES)

_OPSET = 17
_IR_VERSION = 8
_ORIGIN_KEY = "weights"


@dataclass(frozen=True)
class Published:
    """Published figures of a model at alpha 1, resolution 224, 1000 classes.

    `macs` is the lowest and the highest figure in millions; `top1` is the
    accuracy on ImageNet in percent.
    """

    parameters: int
    macs: tuple[int, int]
    top1: float


# Parameters as torchvision counts them (V1: as Keras does, running statistics
# left out); multiply-accumulates and accuracies from the three papers.
PUBLISHED = {
    "v1": Published(4_231_976, (569, 569), 70.6),
    "v2": Published(3_504_872, (300, 300), 71.8),
    "v3-large": Published(5_483_032, (217, 219), 75.2),
    "v3-small": Published(2_542_856, (56, 56), 67.4),
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
    squeezed = re.sub(r"[-_ ]", "", name.lower()).removeprefix("mobilenet")
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
        Height and width of the input in pixels, a multiple of 32.
    classes
        Number of logits.
    batch
        Images per run.
    """

    name: str
    alpha: float = 1.0
    resolution: int = 224
    classes: int = 1000
    batch: int = 1

    def __post_init__(self) -> None:
        """Raise a UserError where an option has an invalid value."""
        object.__setattr__(self, "name", canonical_name(self.name))
        for option, (low, high) in _RANGES.items():
            kind = float if option == "alpha" else int
            value: Any = getattr(self, option)
            fits = isinstance(value, Real if kind is float else Integral)
            if not (fits and low <= kind(value) <= high):
                what = "number" if kind is float else "whole number"
                raise WrongUseError(f"{option} {value!r} is not a {what} from {low} to {high}")
            object.__setattr__(self, option, kind(value))
        if self.resolution % 32:
            below = self.resolution // 32 * 32
            raise WrongUseError(
                f"resolution {self.resolution} is not a multiple of 32; use {below} or {below + 32}"
            )

    @property
    def title(self) -> str:
        """The name in files and metadata: `mobilenet_v2`, `mobilenet_v2_0.5_160`."""
        title = f"mobilenet_{self.name.replace('-', '_')}"
        if (self.alpha, self.resolution) != (1.0, 224):
            title += f"_{self.alpha}_{self.resolution}"
        if self.classes != 1000:
            title += f"_classes{self.classes}"
        if self.batch != 1:
            title += f"_batch{self.batch}"
        return title

    @property
    def architecture(self) -> Architecture:
        """The network's layers."""
        return ARCHITECTURES[self.name](self.alpha, self.classes)


def build(spec: ModelSpec, weights: str | Path | None = None, seed: int = 0) -> onnx.ModelProto:
    """Build a named model as ONNX, float32, NCHW.

    Parameters
    ----------
    spec
        The model.
    weights
        A file for `load_weights`, `"pretrained"` for a public one, or None for
        random weights.
    seed
        Seed of the random weights, 0 or more.

    Returns
    -------
    onnx.ModelProto
        Input `input` [batch, 3, resolution, resolution], output `logits`
        [batch, classes]; parameters have torchvision's names; the origin of the
        weights is where `weights_origin` finds it.

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
        parameters = assign(architecture, stored, spec.title)
        origin = stored.origin
    return _to_onnx(spec, architecture, parameters, origin)


def weights_origin(model: onnx.ModelProto) -> str | None:
    """Return a short description of where the weights of a model from `build` came from."""
    return next((p.value for p in model.metadata_props if p.key == _ORIGIN_KEY), None)


def _to_onnx(
    spec: ModelSpec,
    architecture: Architecture,
    parameters: dict[str, NDArray[np.float32]],
    origin: str,
) -> onnx.ModelProto:
    nodes = _Nodes(architecture.epsilon)
    evaluate(architecture, nodes, "input")
    nodes.list[-1].output[0] = "logits"
    constants = parameters | nodes.constants
    image = [spec.batch, 3, spec.resolution, spec.resolution]
    graph = helper.make_graph(
        nodes.list,
        spec.title,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [spec.batch, spec.classes])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="mobilenet-tvm",
    )
    helper.set_model_props(model, {_ORIGIN_KEY: origin})
    return model


class _Nodes:
    """Adds a node for each operator; a value is represented by its name."""

    def __init__(self, epsilon: float) -> None:
        self.list: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[np.float32]] = {}
        self._epsilon = epsilon

    def convolution(self, layer: ConvolutionSpec, value: str) -> str:
        names = [f"{layer.name}.weight"]
        if not layer.norm:
            names.append(f"{layer.name}.bias")
        value = self._node(
            "Conv",
            [value, *names],
            kernel_shape=[layer.kernel] * 2,
            strides=[layer.stride] * 2,
            pads=[layer.padding] * 4,
            group=layer.groups,
        )
        if layer.norm:
            names = [f"{layer.norm}.{part}" for part in NORM_PARTS]
            value = self._node("BatchNormalization", [value, *names], epsilon=self._epsilon)
        return self._activate(value, layer.activation)

    def linear(self, layer: LinearSpec, value: str) -> str:
        names = [f"{layer.name}.weight", f"{layer.name}.bias"]
        return self._activate(self._node("Gemm", [value, *names], transB=1), layer.activation)

    def pool(self, value: str) -> str:
        return self._node("GlobalAveragePool", [value])

    def flatten(self, value: str) -> str:
        return self._node("Flatten", [value])

    def add(self, left: str, right: str) -> str:
        return self._node("Add", [left, right])

    def multiply(self, left: str, right: str) -> str:
        return self._node("Mul", [left, right])

    def _activate(self, value: str, activation: Activation | None) -> str:
        match activation:
            case "relu":
                return self._node("Relu", [value])
            case "relu6":
                self.constants = {"zero": np.array(0, "float32"), "six": np.array(6, "float32")}
                return self._node("Clip", [value, "zero", "six"])
            case "hard_sigmoid":
                return self._node("HardSigmoid", [value], alpha=1 / 6, beta=0.5)
            case "hard_swish":
                return self._node("HardSwish", [value])
            case None:
                return value

    def _node(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{operator}_{len(self.list)}"
        self.list.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name
