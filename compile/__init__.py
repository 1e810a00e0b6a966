"""What happens to a model: named models, ONNX import, graph passes, code, artifact.

`compile_model` is the whole way; importing it imports TVM, which takes about a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobilenet_tvm.compile.artifact import Artifact, compile_model

__all__ = ["Artifact", "compile_model"]


def __getattr__(name: str) -> Any:
    """Import the compiler only when it is asked for, so that `--help` is quick."""
    if name in __all__:
        from mobilenet_tvm.compile import artifact

        return getattr(artifact, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
