"""An artifact's metadata: the JSON object in its section `.mobilenet_tvm`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from mobilenet_tvm.runtime.checksum import EMPTY
from mobilenet_tvm.runtime.elf import SharedLibrary, read_elf
from mobilenet_tvm.targets.errors import UserError

SECTION = ".mobilenet_tvm"

T = TypeVar("T")

#: Version of the JSON object's format; raised when an older loader would misread it. Version 1
#: had no checksum.
FORMAT = 2

#: Types of inputs and outputs, by NumPy's names.
_INTEGERS = {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
_DTYPES = _INTEGERS | {"bool", "float16", "float32", "float64"}

#: Limits of a tensor: elements, as of ONNX Runtime, and axes, as of NumPy before version 2.
_MAX_ELEMENTS, _MAX_AXES = (1 << 31) - 1, 32

#: What a target has at least.
_TARGET = {"name", "triple", "cpu"}


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of a model.

    Parameters
    ----------
    name : str
        As in the ONNX file.
    shape : tuple of int
        Static extents.
    dtype : str
        NumPy's name for the element type, such as ``"float32"``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        """Return name, type and shape, such as ``input float32[1,3,224,224]``."""
        return f"{self.name} {self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Metadata:
    """An artifact's metadata.

    Parameters
    ----------
    model : str
        The name of the model, or of its ONNX file.
    inputs, outputs : tuple of TensorInfo
        In the order in which the compiled function takes and returns them.
    target : mapping
        ``name``, LLVM ``triple`` and LLVM ``cpu`` of the target, and ``kind``: TVM's name for the
        kind of the layers' code, ``llvm`` if missing.
    required_features : tuple of str
        CPU features that the code uses, as Linux spells them.
    versions : mapping
        Versions of the packages that compiled it, by name.
    weights : str
        The origin of the weights.
    layers, tuned_layers : int
        Number of layers, and of those with tuned schedules.
    extra : mapping
        What only the tools need: the ``dtype`` of the layers, ``activation_bytes``, the number of
        ``functions``, the ``calls`` of the network, the ``recipe`` of a named model, the
        ``c_prefix`` of a library for C, and keys that this version does not know.
    """

    model: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    target: Mapping[str, str]
    required_features: tuple[str, ...]
    versions: Mapping[str, str]
    weights: str
    layers: int
    tuned_layers: int
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the metadata as JSON's types, with the version of the format first.

        The checksum after it is empty: only a whole file has one, see `checksum`.
        """
        return {
            "format": FORMAT,
            "crc32": EMPTY.decode(),
            "model": self.model,
            "inputs": [_tensor_to_dict(info) for info in self.inputs],
            "outputs": [_tensor_to_dict(info) for info in self.outputs],
            "target": dict(self.target),
            "required_features": list(self.required_features),
            "versions": dict(self.versions),
            "weights": self.weights,
            "layers": self.layers,
            "tuned_layers": self.tuned_layers,
            **self.extra,
        }

    def to_json(self) -> str:
        """Return the metadata as the section's text."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Metadata:
        """Read the text of the section, which is not trusted.

        Parameters
        ----------
        text : str or bytes
            Its contents; bytes are UTF-8.

        Returns
        -------
        Metadata
            With unknown keys in `extra`.

        Raises
        ------
        UserError
            If it is damaged, or its format is newer than this version reads.
        """
        try:
            values = json.loads(text, parse_constant=_refuse)
            version = _typed(values.pop("format"), int)
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            raise _damaged() from None
        if version != FORMAT:
            advice = "upgrade it, or compile" if version > FORMAT else "compile"
            raise UserError(
                f"metadata has format {version}, and this mobilenet-tvm reads format {FORMAT}; "
                f"{advice} the model again with this version"
            )
        try:
            known = {item.name for item in fields(cls)} - {"extra"} | {"crc32"}
            if any(name in values and not right(values[name]) for name, right in _EXTRA.items()):
                raise ValueError
            return cls(
                model=_typed(values["model"], str),
                inputs=_tensors(values["inputs"]),
                outputs=_tensors(values["outputs"]),
                target=_texts(values["target"], _TARGET),
                required_features=tuple(_typed(v, str) for v in values["required_features"]),
                versions=_texts(values["versions"]),
                weights=_typed(values["weights"], str),
                layers=_count(values["layers"]),
                tuned_layers=_count(values["tuned_layers"]),
                extra={key: value for key, value in values.items() if key not in known},
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise _damaged() from None


def read_metadata(path: str | Path) -> Metadata:
    """Read an artifact's metadata without running any of its code.

    Parameters
    ----------
    path : str or Path
        The ``.so``, of any architecture.

    Returns
    -------
    Metadata
        The contents of its section `.mobilenet_tvm`.

    Raises
    ------
    UserError
        If the file is not an artifact of this project, or damaged.
    """
    return metadata_of(read_elf(Path(path)))


def metadata_of(library: SharedLibrary) -> Metadata:
    """Return the metadata of a library that `read_elf` has described; see `read_metadata`."""
    text = library.section(SECTION)
    if text is None:
        raise UserError(
            f"{library.path}: not made by mobilenet-tvm; give the .so that 'compile' wrote"
        )
    try:
        return Metadata.from_json(text)
    except UserError as error:
        raise UserError(f"{library.path}: {error}") from None


def _tensor_to_dict(info: TensorInfo) -> dict[str, Any]:
    return {"name": info.name, "shape": list(info.shape), "dtype": info.dtype}


def _tensors(values: list[dict[str, Any]]) -> tuple[TensorInfo, ...]:
    tensors = tuple(map(_tensor_from_dict, _typed(values, list)))
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise ValueError
    return tensors


def _tensor_from_dict(values: dict[str, Any]) -> TensorInfo:
    shape = tuple(map(_count, _typed(values["shape"], list)))
    dtype = _typed(values["dtype"], str)
    if len(shape) > _MAX_AXES or math.prod(shape) > _MAX_ELEMENTS or dtype not in _DTYPES:
        raise ValueError
    return TensorInfo(_typed(values["name"], str), shape, dtype)


def _texts(values: dict[str, Any], required: Collection[str] = ()) -> dict[str, str]:
    if not values.keys() >= set(required):
        raise ValueError
    return {name: _typed(value, str) for name, value in values.items()}


def _count(value: Any) -> int:
    if not _is_count(value):
        raise ValueError
    return int(value)


def _is_count(value: Any) -> bool:
    # JSON's truth values are no numbers.
    return type(value) is int and 0 <= value < 1 << 63


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_decision(value: Any) -> bool:
    return isinstance(value, dict) and all(type(v) in (int, bool, str) for v in value.values())


#: A call of the network, as `profile` shows it, and the check of each value.
_CALL: Mapping[str, Callable[[Any], bool]] = {
    "function": _is_text,
    "node": _is_text,
    "workload": _is_text,
    "flops": _is_count,
    "bytes": _is_count,
    "decision": _is_decision,
    "tuned": lambda value: isinstance(value, bool),
    "source": _is_text,
}

#: How to build a named model again. No path is among it: a file from elsewhere names none here.
_RECIPE: Mapping[str, Callable[[Any], bool]] = {
    "model": _is_text,
    "alpha": lambda value: type(value) in (int, float) and 0 < value < _MAX_ELEMENTS,
    "resolution": _is_count,
    "classes": _is_count,
    "batch": _is_count,
    "seed": _is_count,
    "weights": lambda value: value == "pretrained",
    "until": lambda value: isinstance(value, list) and all(map(_is_text, value)),
}


def _is_call(value: Any) -> bool:
    return isinstance(value, dict) and all(
        name in value and right(value[name]) for name, right in _CALL.items()
    )


def _is_recipe(value: Any) -> bool:
    return isinstance(value, dict) and all(
        name in _RECIPE and _RECIPE[name](given) for name, given in value.items()
    )


#: The known values of `extra`, which may be missing.
_EXTRA: Mapping[str, Callable[[Any], bool]] = {
    "dtype": ("float32", "float16").__contains__,
    "activation_bytes": _is_count,
    "functions": _is_count,
    "calls": lambda value: isinstance(value, list) and all(map(_is_call, value)),
    "recipe": _is_recipe,
    "shared_outputs": lambda value: isinstance(value, list) and all(map(_is_count, value)),
    "c_prefix": _is_text,
}


def _typed(value: Any, kind: type[T]) -> T:
    """Return a value if it has exactly that type."""
    if type(value) is not kind:
        raise TypeError
    return value


def _refuse(constant: str) -> None:
    """Refuse NaN and infinity, which Python's parser takes and JSON does not have."""
    raise ValueError(constant)


def _damaged() -> UserError:
    return UserError("damaged metadata; copy the file or compile the model again")
