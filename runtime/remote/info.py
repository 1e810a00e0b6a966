"""A board's description of itself."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.host import (
    architecture,
    core_count,
    cpu_features,
    default_threads,
    machine_name,
)
from mobilenet_tvm.targets.presets import native


@dataclass(frozen=True)
class BoardInfo:
    """The description of a board.

    Parameters
    ----------
    name : str
        Its name; by default the machine's host name.
    machine : str
        The machine's name, such as ``"Raspberry Pi 4 Model B Rev 1.4"``.
    architecture : str
        As `uname -m` prints it; empty if one of TVM's own servers does not report it.
    features : frozenset of str, optional
        CPU features, as Linux spells them; None for TVM's own servers, which do not report them.
    target : str
        The preset that fits it best; empty if none does.
    cores : int
        Number of logical CPUs that it may use.
    threads : int
        How many threads suit a MobileNet there.
    memory_bytes : int
        Size of its memory, in bytes.
    versions : mapping
        Versions of the packages that serve, by name.
    """

    name: str
    machine: str = ""
    architecture: str = ""
    features: frozenset[str] | None = None
    target: str = ""
    cores: int = 0
    threads: int = 1
    memory_bytes: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the name, and the machine if it is known."""
        return f"{self.name} ({self.machine})" if self.machine else self.name

    @classmethod
    def of_this_machine(cls, name: str | None = None) -> BoardInfo:
        """Describe this machine.

        Parameters
        ----------
        name : str, optional
            Its name. Default: the host name.
        """
        import numpy
        import tvm_ffi

        try:
            target = native().preset
        except UserError:
            target = ""
        return cls(
            name=name or socket.gethostname(),
            machine=machine_name(),
            architecture=architecture(),
            features=cpu_features(),
            target=target,
            cores=core_count(),
            threads=default_threads(),
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            versions={
                "python": platform.python_version(),
                "numpy": numpy.__version__,
                "apache-tvm-ffi": tvm_ffi.__version__,
            },
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the description as JSON's types."""
        features = None if self.features is None else sorted(self.features)
        return vars(self) | {"features": features, "versions": dict(self.versions)}

    @classmethod
    def from_dict(cls, facts: Any) -> BoardInfo:
        """Read what `to_dict` returned, possibly in another version.

        Raises
        ------
        UserError
            If a field is of another type.
        """
        if not isinstance(facts, Mapping):
            raise UserError("it does not describe itself")
        known = {name: facts[name] for name in cls.__dataclass_fields__ if name in facts}
        features, versions = known.pop("features", None), known.pop("versions", {})
        wrong = [
            name for name, value in known.items() if type(value) is not type(getattr(cls, name, ""))
        ]
        if wrong or not isinstance(versions, dict) or not _is_texts(features or []):
            raise UserError("it describes itself in a way that this version does not know")
        known["features"] = None if features is None else frozenset(features)
        return cls(**{"name": "?", **known, "versions": versions})

    def require(self, machine: str, features: Collection[str], what: str) -> None:
        """Check that the board can run some code, as far as it describes itself.

        Parameters
        ----------
        machine : str
            The code's architecture.
        features : collection of str
            The CPU features that it uses.
        what : str
            What it is, for the error message.

        Raises
        ------
        UserError
            If the board cannot run it.
        """
        if self.architecture and machine != self.architecture:
            raise UserError(
                f"{what}: compiled for {machine}, board {self.name} is {self.architecture}; "
                f"compile with --target {self.target or self.architecture}"
            )
        missing = sorted(set(features) - self.features) if self.features is not None else []
        if missing:
            raise UserError(
                f"{what}: needs {', '.join(missing)}, which the CPU of board {self.name} lacks; "
                f"compile with --target {self.target or self.architecture}"
            )


def _is_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
