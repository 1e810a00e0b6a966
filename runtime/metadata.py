"""What an artifact says of itself: the JSON object in its section `.mobilenet_tvm`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mobilenet_tvm.runtime.elf import SharedLibrary, read_elf
from mobilenet_tvm.targets.errors import UserError

SECTION = ".mobilenet_tvm"

#: The form of the JSON object; larger when an older loader would misread it.
FORMAT = 1


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of a model.

    Parameters
    ----------
    name : str
        As in the ONNX file.
    shape : tuple of int
        Extents, all known.
    dtype : str
        NumPy's name of the element type, such as ``"float32"``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        """Return the name, type and shape as in ``input float32[1,3,224,224]``."""
        return f"{self.name} {self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Metadata:
    """What an artifact says of itself.

    Parameters
    ----------
    model : str
        The model's name, or its ONNX file's.
    inputs, outputs : tuple of TensorInfo
        In the order in which the compiled function takes and returns them.
    target : mapping
        ``name``, LLVM ``triple`` and LLVM ``cpu`` that it was compiled for, and ``kind``: TVM's
        name of what its layers' code is, ``llvm`` where it is missing.
    required_features : tuple of str
        CPU features that its code uses, as the Linux kernel spells them.
    versions : mapping
        Package to version, of those that compiled it.
    weights : str
        Where the weights come from.
    layers, tuned_layers : int
        How many layers there are, and how many run with tuned schedules.
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
        """Return the metadata as JSON's types, the format's number first."""
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
        """Return the metadata as the text that the section holds."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Metadata:
        """Read the text of the section.

        Parameters
        ----------
        text : str or bytes
            UTF-8 where it is bytes.

        Returns
        -------
        Metadata
            With keys that this version does not know in `extra`.

        Raises
        ------
        UserError
            If it is damaged, or its format is newer than this version reads.
        """
        try:
            values = json.loads(text)
            made_as = values.pop("format")
            if not isinstance(made_as, int):
                raise TypeError
            if made_as > FORMAT:
                raise UserError(
                    f"metadata of format {made_as}, and this mobilenet-tvm reads up to {FORMAT}; "
                    "upgrade it, or compile again with this version"
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
            raise UserError("damaged metadata; copy the file again, or compile it again") from None


def read_metadata(path: str | Path) -> Metadata:
    """Read an artifact's metadata without running any of its code.

    Parameters
    ----------
    path : str or Path
        The ``.so``, of any architecture.

    Returns
    -------
    Metadata
        What it says of itself.

    Raises
    ------
    UserError
        If the file is no artifact of this project, or damaged.
    """
    return metadata_of(read_elf(Path(path)))


def metadata_of(library: SharedLibrary) -> Metadata:
    """Return the metadata in a library that `read_elf` has read; see `read_metadata`."""
    text = library.section(SECTION)
    if text is None:
        raise UserError(f"{library.path}: not made by mobilenet-tvm; compile the model with it")
    try:
        return Metadata.from_json(text)
    except UserError as error:
        raise UserError(f"{library.path}: {error}") from None


def _tensor_to_dict(info: TensorInfo) -> dict[str, Any]:
    return {"name": info.name, "shape": list(info.shape), "dtype": info.dtype}


def _tensor_from_dict(values: dict[str, Any]) -> TensorInfo:
    return TensorInfo(str(values["name"]), tuple(map(int, values["shape"])), str(values["dtype"]))
