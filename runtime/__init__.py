"""Loads compiled models and runs them, without TVM's compiler."""

from mobilenet_tvm.runtime.metadata import Metadata, TensorInfo, read_metadata
from mobilenet_tvm.runtime.model import Model, load

__all__ = ["Metadata", "Model", "TensorInfo", "load", "read_metadata"]
