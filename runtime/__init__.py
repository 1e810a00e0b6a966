"""Loads compiled models and runs them, without TVM's compiler: here, or on a board elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mobilenet_tvm.runtime.metadata import Metadata, TensorInfo, read_metadata
from mobilenet_tvm.runtime.model import Model, load

if TYPE_CHECKING:
    from mobilenet_tvm.runtime.remote.session import connect

__all__ = ["Metadata", "Model", "TensorInfo", "connect", "load", "read_metadata"]


def __getattr__(name: str) -> Any:
    """Import what reaches boards only when it is asked for; an app does not have it."""
    if name == "connect":
        from mobilenet_tvm.runtime.remote.session import connect

        return connect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
