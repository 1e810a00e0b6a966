"""Loads compiled models and runs them without TVM's compiler, on this machine or on a board."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mobilenet_tvm.runtime.c_library import CModel
from mobilenet_tvm.runtime.metadata import Metadata, TensorInfo, read_metadata
from mobilenet_tvm.runtime.model import Model, load

if TYPE_CHECKING:
    from mobilenet_tvm.runtime.remote.session import connect

__all__ = ["CModel", "Metadata", "Model", "TensorInfo", "connect", "load", "read_metadata"]


def __getattr__(name: str) -> Any:
    """Import `connect` on demand: an app's bundle lacks the modules that reach boards."""
    if name == "connect":
        from mobilenet_tvm.runtime.remote.session import connect

        return connect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
