"""An artifact's metadata: the JSON object in its section `.mobilenet_tvm`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mobilenet_tvm.runtime.elf import SharedLibrary, read_elf
from mobilenet_tvm.targets.errors import UserError

SECTION = ".mobilenet_tvm"

#: Version of the JSON object's format; raised when an older loader would misread it.
FORMAT = 1


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
        Keys that this version does not know.
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
        """Return the metadata as JSON's types, with the version of the format first."""
        return {
            "format": FORMAT,
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
        """Read the text of the section.

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
            values = json.loads(text)
            version = values.pop("format")
            if not isinstance(version, int):
                raise TypeError
            if version > FORMAT:
                raise UserError(
                    f"metadata has format {version}, and this mobilenet-tvm reads up to {FORMAT}; "
                    "upgrade it, or compile the model again with this version"
                )
            known = {item.name for item in fields(cls)} - {"extra"}
            return cls(
                model=str(values["model"]),
                inputs=tuple(map(_tensor_from_dict, values["inputs"])),
                outputs=tuple(map(_tensor_from_dict, values["outputs"])),
                target=dict(values["target"]),
                required_features=tuple(map(str, values["required_features"])),
                versions=dict(values["versions"]),
                weights=str(values["weights"]),
                layers=int(values["layers"]),
                tuned_layers=int(values["tuned_layers"]),
                extra={key: value for key, value in values.items() if key not in known},
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UserError("damaged metadata; copy the file or compile the model again") from None


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


def _tensor_from_dict(values: dict[str, Any]) -> TensorInfo:
    return TensorInfo(str(values["name"]), tuple(map(int, values["shape"])), str(values["dtype"]))
