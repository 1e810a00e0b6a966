"""Names of a model in C."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Names:
    """What the names of a model's functions and constants begin with.

    Parameters
    ----------
    prefix : str
        An identifier in C, such as `mobilenet_v2`.
    """

    prefix: str

    @classmethod
    def of(cls, model: str) -> Names:
        """Return the names of a model, or of its ONNX file."""
        words = re.sub(r"[^0-9A-Za-z]+", "_", model).strip("_").lower()
        return cls(words if words[:1].isalpha() else f"model_{words}".rstrip("_"))

    @property
    def constants(self) -> str:
        """What the names of constants begin with."""
        return self.prefix.upper()

    @property
    def library(self) -> str:
        """The shared library's file name."""
        return f"lib{self.prefix}.so"

    @property
    def archive(self) -> str:
        """The static library's file name."""
        return f"lib{self.prefix}.a"

    @property
    def header(self) -> str:
        """The header's file name."""
        return f"{self.prefix}.h"

    def kernel(self, function: str) -> str:
        """Return the symbol of a function that TVM compiles with this name."""
        return f"__tvm_ffi_{self.symbol(function)}"

    def symbol(self, function: str) -> str:
        """Return a function's name for TVM."""
        return f"{self.prefix}_{function}"
