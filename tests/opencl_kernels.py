"""Runs single kernels on an OpenCL device, in a process of their own."""

from __future__ import annotations

import functools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import tirx

from mobilenet_tvm.compile.codegen import pass_config
from mobilenet_tvm.compile.linker import link_shared
from mobilenet_tvm.compile.pipeline import tvm_target
from mobilenet_tvm.runtime.device import copy, open_device
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.target import Target

Array = np.ndarray[Any, Any]


def source(func: tirx.PrimFunc, target: Target) -> str:
    """Return a scheduled function's OpenCL C or CUDA C++."""
    return str(_built(func, target).imports[0].inspect_source())


def call(func: tirx.PrimFunc, target: Target, output: tuple[int, ...], *arrays: Array) -> Array:
    """Run a scheduled function once; skip the test where no device is."""
    if (reason := _reason()) is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.so"
        _built(func, target).export_library(
            str(path), fcompile=lambda output, objects, **_: link_shared(output, objects)
        )
        return _worker().submit(_run, str(path), arrays, output).result()


def _built(func: tirx.PrimFunc, target: Target) -> Any:
    with tvm.transform.PassContext(opt_level=3, config=pass_config(target)):
        return tvm.tirx.build(func, target=tvm_target(target))


@functools.cache
def _worker() -> ProcessPoolExecutor:
    # Where drivers are is looked up when a program starts; and a driver that crashes takes no
    # test with it.
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


@functools.cache
def _reason() -> str | None:
    return _worker().submit(_missing).result()


def _missing() -> str | None:
    try:
        open_device("opencl")
    except UserError as error:
        return str(error)
    return None


def _run(path: str, arrays: tuple[Array, ...], output: tuple[int, ...]) -> Array:
    import tvm_ffi

    device = open_device("opencl")
    module = tvm_ffi.load_module(path)
    result = np.full(output, np.nan, np.float32)
    tensors = []
    for array in (*arrays, result):
        tensors.append(device.empty(array.shape, str(array.dtype)))
        copy(tvm_ffi.from_dlpack(np.ascontiguousarray(array)), tensors[-1])
    module["main"](*tensors)
    device.synchronize()
    copy(tensors[-1], tvm_ffi.from_dlpack(result))
    return result
