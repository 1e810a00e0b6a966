"""What a board is, as it tells of itself."""

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
    """What is known of a board.

    Parameters
    ----------
    name : str
        Its own, such as the machine's host name.
    machine : str
        What people call such a machine.
    architecture : str
        As `uname -m` prints it; empty where a server of TVM's own does not tell.
    features : frozenset of str, optional
        Of its CPU, spelled as Linux spells them; None where a server of TVM's own does not tell.
    target : str
        The preset that fits it best; empty where none does.
    cores : int
        Logical CPUs that it may use.
    threads : int
        How many threads suit a MobileNet there.
    memory_bytes : int
        Installed memory.
    versions : mapping
        Package to version, of those that serve.
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
        """Return the name, and the machine where it is known."""
        return f"{self.name} ({self.machine})" if self.machine else self.name

    @classmethod
    def of_this_machine(cls, name: str | None = None) -> BoardInfo:
        """Describe this machine.

        Parameters
        ----------
        name : str, optional
            The host name by default.
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
        """Return the facts as JSON's types."""
        features = None if self.features is None else sorted(self.features)
        return vars(self) | {"features": features, "versions": dict(self.versions)}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> BoardInfo:
        """Read what `to_dict` gave, perhaps of another version."""
        known = {name: facts[name] for name in cls.__dataclass_fields__ if name in facts}
        if known.get("features") is not None:
            known["features"] = frozenset(known["features"])
        return cls(**{"name": "?", **known})

    def require(self, machine: str, features: Collection[str], what: str) -> None:
        """Make sure that the board can run some code.

        Parameters
        ----------
        machine : str
            The architecture that the code is for.
        features : collection of str
            Those that it uses.
        what : str
            What it is, for the message.

        Raises
        ------
        UserError
            If it is known that the board cannot.
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
