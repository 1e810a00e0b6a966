"""Assigns the weights of a file to the layers of a named model."""

from collections import deque
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mobilenet_tvm.compile.models.layers import NORM_PARTS, ConvolutionSpec
from mobilenet_tvm.compile.models.networks import Architecture, Classifier
from mobilenet_tvm.compile.models.timm_names import TIMM_EPSILON, timm_names
from mobilenet_tvm.compile.models.weight_files import StoredLayer, StoredWeights
from mobilenet_tvm.compile.models.widths import fit_widths
from mobilenet_tvm.targets.errors import UserError

_Array = NDArray[np.float32]

_FIX = "give the --model, --alpha and --classes that the file was made with"


def assign(
    architecture: Architecture, stored: StoredWeights, title: str
) -> tuple[Architecture, dict[str, _Array]]:
    """Assign a value from a file to each parameter of a network.

    Layers are found by the network's names, or by timm's, or, where the file
    keeps the network's order, one after the other. Where batch norms are folded
    into the file's convolutions, the network's batch norms only add the
    convolution's bias. The file may have fewer channels inside blocks; see `fit_widths`.

    Parameters
    ----------
    architecture
        The network.
    stored
        From `load_weights`.
    title
        Name of the network in messages.

    Returns
    -------
    architecture
        The network with the file's widths.
    parameters
        float32 arrays by parameter name.

    Raises
    ------
    UserError
        If the file is for another network; the message names the first
        parameter that does not fit.
    """
    fitting = _Fitting(stored.file, title)
    found = _in_order(architecture, stored, title)
    weights = (layer.tensors for layer in found if "running_mean" not in layer.tensors)
    shapes = {
        layer.name: tensors["weight"].shape
        for layer, tensors in zip(architecture.layers, weights, strict=False)
        if "weight" in tensors
    }
    architecture = fit_widths(architecture, shapes)
    queue = deque(found)
    parameters: dict[str, _Array] = {}
    convolutions: list[tuple[StoredLayer, ConvolutionSpec]] = []
    for layer in architecture.layers:
        source = queue.popleft() if queue else StoredLayer(layer.name, {})
        weight = fitting.tensor(source, "weight", layer.name, layer.weight_shape)
        parameters[f"{layer.name}.weight"] = weight
        if isinstance(layer, ConvolutionSpec):
            convolutions.append((source, layer))
        if not (isinstance(layer, ConvolutionSpec) and layer.norm):
            if (name := f"{layer.name}.bias") in layer.parameter_shapes:
                parameters[name] = fitting.tensor(source, "bias", layer.name, (layer.outputs,))
            elif "bias" in source.tensors:
                raise UserError(f"{stored.file} has a bias that {title} lacks, {name}: {_FIX}")
            continue
        follows = bool(queue) and "running_mean" in queue[0].tensors
        if follows or "bias" not in source.tensors:
            stored_norm = queue.popleft() if follows else StoredLayer(layer.norm, {})
            norm = fitting.norm(stored_norm, source, layer)
        else:
            norm = fitting.identity(source, layer)
        parameters |= {f"{layer.norm}.{part}": array for part, array in norm.items()}
    if queue:
        raise UserError(f"{stored.file} has a layer that {title} lacks, {queue[0].name!r}: {_FIX}")
    for source, convolution in convolutions:
        fitting.check_geometry(source, convolution)
    return architecture, parameters


def _in_order(architecture: Architecture, stored: StoredWeights, title: str) -> list[StoredLayer]:
    """Return the file's layers in the network's order, unknown ones at the end."""
    by_name = {layer.name: layer for layer in stored.layers}
    schemes: list[tuple[dict[str, str], float | None]] = [(_own_names(architecture), None)]
    source, others = "torchvision", ""
    if isinstance(architecture, Classifier):
        if architecture.timm_only:
            source = "timm"
        else:
            schemes.append((timm_names(architecture), TIMM_EPSILON))
            others = ", nor timm's names"
    for names, epsilon in schemes:
        if all(names[layer.name] in by_name for layer in architecture.layers):
            found = [by_name.pop(name) for name in names.values() if name in by_name]
            known = [replace(f, epsilon=f.epsilon or epsilon) for f in found]
            return known + list(by_name.values())
    if stored.ordered:
        return list(stored.layers)
    missing = next(layer.name for layer in architecture.layers if layer.name not in by_name)
    raise UserError(
        f"{stored.file} has no {missing}.weight, which {title} needs{others}: {_FIX}, "
        f"or rename its tensors as {source} does"
    )


def _own_names(architecture: Architecture) -> dict[str, str]:
    """Map the name of each layer and batch norm to itself, in the order of execution."""
    names: dict[str, str] = {}
    for layer in architecture.layers:
        names[layer.name] = layer.name
        if isinstance(layer, ConvolutionSpec) and layer.norm:
            names[layer.norm] = layer.norm
    return names


@dataclass(frozen=True)
class _Fitting:
    """Checks one file's layers against the network's."""

    file: str
    title: str

    def tensor(self, source: StoredLayer, part: str, layer: str, shape: tuple[int, ...]) -> _Array:
        """Return a part of the file's layer if it has the shape that the network needs."""
        wanted = f"{layer}.{part} {list(shape)}"
        if part not in source.tensors:
            raise UserError(f"{self.file} lacks {wanted} of {self.title}: {_FIX}")
        stored = source.tensors[part]
        array = stored
        while array.ndim > len(shape) and array.shape[-1] == 1:
            array = array[..., 0]  # a matrix product stored as a 1x1 convolution
        if array.shape != shape:
            raise UserError(
                f"{source.name}.{part} in {self.file} is {list(stored.shape)} where {self.title} "
                f"has {wanted}: {_FIX}"
            )
        if array.dtype.kind in "iub":
            raise UserError(
                f"{source.name}.{part} in {self.file} is {array.dtype}: give a float checkpoint"
            )
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(array, dtype=np.float32)
        if not np.isfinite(array).all():
            raise UserError(
                f"{source.name}.{part} in {self.file} has infinite or undefined values: "
                "give another checkpoint"
            )
        return array

    def check_geometry(self, source: StoredLayer, layer: ConvolutionSpec) -> None:
        """Refuse weights of a convolution whose strides or pads differ from the network's."""
        strides, pads = (layer.stride,) * 2, (layer.padding,) * 4
        if source.strides is None or (source.strides, source.pads) == (strides, pads):
            return
        raise UserError(
            f"the convolution of {source.name}.weight in {self.file} has strides "
            f"{list(source.strides)} and pads {list(source.pads or ())} where {self.title} has "
            f"{list(strides)} and {list(pads)}: compile the file itself, --model {self.file}"
        )

    def norm(
        self, source: StoredLayer, before: StoredLayer, layer: ConvolutionSpec
    ) -> dict[str, _Array]:
        """Return a batch norm for our epsilon that includes the bias of its convolution."""
        name, shape, epsilon = layer.norm or "", (layer.outputs,), layer.epsilon
        norm = {part: self.tensor(source, part, name, shape) for part in NORM_PARTS}
        if (norm["running_var"] < 0).any():
            raise UserError(
                f"{source.name}.running_var in {self.file} has negative values: "
                "give another checkpoint"
            )
        if "bias" in before.tensors:
            bias = self.tensor(before, "bias", layer.name, shape)
            norm["running_mean"] = norm["running_mean"] - bias
        if source.epsilon and not np.isclose(source.epsilon, epsilon, rtol=1e-6, atol=0):
            variance = norm["running_var"].astype(np.float64)
            ratio = np.sqrt((variance + epsilon) / (variance + source.epsilon))
            norm["weight"] = (norm["weight"] * ratio).astype(np.float32)
        return norm

    def identity(self, source: StoredLayer, layer: ConvolutionSpec) -> dict[str, _Array]:
        """Return a batch norm that only adds the convolution's bias."""
        shape = (layer.outputs,)
        return {
            "weight": np.ones(shape, np.float32),
            "bias": self.tensor(source, "bias", layer.name, shape),
            "running_mean": np.zeros(shape, np.float32),
            "running_var": np.full(shape, 1 - layer.epsilon, np.float32),
        }
