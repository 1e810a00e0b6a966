"""Builds single kernels, and runs them on an OpenCL device."""

from __future__ import annotations

import functools
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx

from mobilenet_tvm.compile.codegen.linker import link_shared
from mobilenet_tvm.compile.codegen.pass_context import pass_config
from mobilenet_tvm.compile.codegen.tvm_target import tvm_target
from mobilenet_tvm.runtime.device import Device, copy, open_device
from mobilenet_tvm.targets.target import Target

Array = np.ndarray[Any, Any]


def source(func: tirx.PrimFunc, target: Target) -> str:
    """Return a scheduled function's OpenCL C or CUDA C++."""
    return str(_built(func, target).imports[0].inspect_source())


def call(
    func: tirx.PrimFunc,
    target: Target,
    output: tuple[int, ...],
    *arrays: Array,
    dtype: str = "float32",
) -> Array:
    """Run a scheduled function once, on the first device that there is; `dtype` is the output's."""
    device = _device()
    result = np.full(output, np.nan, dtype)
    tensors = []
    for array in (*arrays, result):
        tensors.append(device.empty(array.shape, str(array.dtype)))
        copy(tvm_ffi.from_dlpack(np.ascontiguousarray(array)), tensors[-1])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.so"
        _built(func, target).export_library(
            str(path), fcompile=lambda output, objects, **_: link_shared(output, objects)
        )
        tvm_ffi.load_module(str(path))["main"](*tensors)
    device.synchronize()
    copy(tensors[-1], tvm_ffi.from_dlpack(result))
    return result


def _built(func: tirx.PrimFunc, target: Target) -> Any:
    with tvm.transform.PassContext(opt_level=3, config=pass_config(target)):
        return tvm.tirx.build(func, target=tvm_target(target))


@functools.cache
def _device() -> Device:
    return open_device("opencl")
