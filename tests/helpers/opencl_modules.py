"""OpenCL modules as TVM's code generator writes them, made by hand from kernels' sources."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import tvm_ffi

#: TVM's codes of a kernel's arguments: code, bits, lanes.
POINTER, INT32, FLOAT32 = (3, 64, 1), (0, 32, 1), (2, 32, 1)

#: One thread per element of a group, one group per block.
ONE_AXIS = ("blockIdx.x", "threadIdx.x")

SCALE = """
__kernel void scale(__global float* y, __global const float* x, float factor, int offset) {
  int i = get_group_id(0) * get_local_size(0) + get_local_id(0);
  y[i] = x[i] * factor + offset;
}
"""
SCALE_ARGUMENTS = (POINTER, POINTER, FLOAT32, INT32)


def text(value: str | bytes) -> bytes:
    """Return a text as it is stored."""
    encoded = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(encoded)) + encoded


def module_bytes(
    source: str = SCALE,
    name: str = "scale",
    arguments: Sequence[tuple[int, int, int]] = SCALE_ARGUMENTS,
    tags: Sequence[str] = ONE_AXIS,
    form: str = "cl",
) -> bytes:
    """Return a module with one kernel, serialised."""
    data = text(form) + struct.pack("<Q", 1) + text(name) + text(name)
    data += struct.pack("<Q", len(arguments))
    data += b"".join(struct.pack("<BBH", *argument) for argument in arguments)
    data += struct.pack("<Q", len(tags)) + b"".join(map(text, tags))
    data += struct.pack("<Q", 0)
    return data + text(f"// Function: {name}\n{source}")


def load_module(data: bytes) -> Any:
    """Load a serialised module."""
    return tvm_ffi.get_global_func("ffi.Module.load_from_bytes.opencl")(data)
