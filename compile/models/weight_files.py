"""Reads weights from a file: an ONNX model, a safetensors file or a PyTorch state dict."""

import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from safetensors.numpy import load_file

from mobilenet_tvm.compile.models.parameters import constants, layers
from mobilenet_tvm.runtime.files import read_ordinary
from mobilenet_tvm.targets.errors import UserError

# Keys under which training scripts put the state dict, and prefixes that
# wrappers of models add to each name.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class StoredLayer:
    """One layer as it is in a file.

    `tensors` has some of weight, bias, running_mean, running_var. `epsilon` of
    a batch norm, and `strides` and `pads` of a convolution, are None where the
    file does not say.
    """

    name: str
    tensors: Mapping[str, NDArray[Any]]
    epsilon: float | None = None
    strides: tuple[int, ...] | None = None
    pads: tuple[int, ...] | None = None


@dataclass(frozen=True)
class StoredWeights:
    """The layers in a file.

    `origin` says briefly where the file comes from; `ordered` tells whether the
    layers are in the order in which the network runs them.
    """

    file: str
    origin: str
    layers: tuple[StoredLayer, ...]
    ordered: bool


def load_weights(path: Path) -> StoredWeights:
    """Read the weights in a file.

    Parameters
    ----------
    path
        An ONNX model (`.onnx`), a safetensors file (`.safetensors`) or a
        PyTorch state dict, bare or inside a checkpoint (`.pt`, `.pth`).

    Returns
    -------
    StoredWeights
        Layers with names, shapes and dtypes as in the file.

    Raises
    ------
    UserError
        If the file cannot be read or is none of these, or its format needs a
        package that is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise UserError(
            f"cannot tell what the weights file {path.name!r} is: "
            f"its name must end in {', '.join(_READERS)}"
        )
    try:
        digest = hashlib.sha256(read_ordinary(path)).hexdigest()[:12]
        found = _READERS[suffix](path)
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"cannot read the weights file {path}: {error.strerror or error}"
        ) from error
    except Exception as error:  # each parser has its own exceptions for damaged input
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"{path.name} is not a complete {suffix} file ({reason}): download or export it again"
        ) from error
    if not found:
        raise UserError(f"{path.name} has no parameters: give another weights file")
    return StoredWeights(
        path.name,
        f"file: {path.name} (sha256 {digest})",
        tuple(found),
        ordered=suffix != ".safetensors",
    )


def _read_onnx(path: Path) -> list[StoredLayer]:
    graph = onnx.load(path, format="protobuf").graph
    known = constants(graph)
    found = []
    for node, names in layers(graph):
        tensors = {
            role: onnx.numpy_helper.to_array(tensor)
            for role, name in names.items()
            if (tensor := known.get(name))
        }
        if "weight" not in tensors:
            raise UserError(
                f"the weights of node {node.name or node.output[0]!r} in {path.name} are "
                "computed, not stored: give a float32 model, not a quantised one"
            )
        name = names["weight"].removesuffix(".weight")
        found.append(_onnx_layer(node, name, tensors))
    return found


def _onnx_layer(node: onnx.NodeProto, name: str, tensors: dict[str, NDArray[Any]]) -> StoredLayer:
    """Convert a node's tensors to PyTorch's layout, [outputs, inputs]."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    match node.op_type:
        case "BatchNormalization":
            return StoredLayer(name, tensors, epsilon=attributes.get("epsilon", 1e-5))
        case "Conv":
            strides = tuple(attributes.get("strides", (1, 1)))
            pads = tuple(attributes.get("pads", (0, 0, 0, 0)))
            if attributes.get("auto_pad", b"").startswith(b"SAME"):
                pads = _same_pads(tensors["weight"].shape[2:], strides, attributes["auto_pad"])
            return StoredLayer(name, tensors, strides=strides, pads=pads)
        case "Gemm":
            weight = tensors["weight"] * attributes.get("alpha", 1.0)
            tensors["weight"] = weight if attributes.get("transB") else weight.T
            if "bias" in tensors:
                tensors["bias"] = tensors["bias"] * attributes.get("beta", 1.0)
        case "MatMul":
            tensors["weight"] = tensors["weight"].T
    return StoredLayer(name, tensors)


def _same_pads(kernel: tuple[int, ...], strides: tuple[int, ...], mode: bytes) -> tuple[int, ...]:
    """Return the padding that leaves ceil(size / stride) pixels of an image of even size."""
    totals = [max(k - s, 0) for k, s in zip(kernel, strides, strict=True)]
    less = tuple(total // 2 for total in totals)
    more = tuple(total - total // 2 for total in totals)
    return less + more if mode == b"SAME_UPPER" else more + less


def _read_safetensors(path: Path) -> list[StoredLayer]:
    return _grouped(load_file(path))


def _read_torch(path: Path) -> list[StoredLayer]:
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        raise UserError(
            f"to read {path.name}: pip install torch, or convert it to .safetensors"
        ) from error
    state = _unwrapped(torch.load(path, map_location="cpu", weights_only=True))
    return _grouped({name: _to_numpy(tensor) for name, tensor in state.items()})


def _to_numpy(tensor: Any) -> NDArray[Any]:
    """Convert a tensor of PyTorch to an array; NumPy has no bfloat16."""
    array: NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array


def _unwrapped(checkpoint: Any) -> dict[str, Any]:
    """Return the tensors of the state dict, which may be under a key of a checkpoint."""
    while isinstance(checkpoint, Mapping):
        inner = (checkpoint[key] for key in _WRAPPERS if isinstance(checkpoint.get(key), Mapping))
        if (state := next(inner, None)) is None:
            return {str(k): v for k, v in checkpoint.items() if hasattr(v, "numpy")}
        checkpoint = state
    return {}


def _grouped(tensors: Mapping[str, NDArray[Any]]) -> list[StoredLayer]:
    """Group the tensors of a state dict, named `layer.part`, by layer."""
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): array for name, array in tensors.items()}
    grouped: dict[str, dict[str, NDArray[Any]]] = {}
    for name, array in tensors.items():
        layer, _, part = name.rpartition(".")
        if part != "num_batches_tracked":
            grouped.setdefault(layer, {})[part] = array
    return [StoredLayer(name, parts) for name, parts in grouped.items()]


_READERS = {
    ".onnx": _read_onnx,
    ".safetensors": _read_safetensors,
    ".pt": _read_torch,
    ".pth": _read_torch,
}
