"""Runs CUDA kernels on the CPU: the C++ that TVM writes, compiled by g++ with `cuda_on_cpu.h`."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from kept_files import kept
from tvm import tirx

from mobilenet_tvm.compile.codegen.pass_context import pass_config
from mobilenet_tvm.compile.codegen.tvm_target import tvm_target
from mobilenet_tvm.targets.target import Target

Array = np.ndarray[Any, Any]

#: TVM makes a module of CUDA code by this function, where its CUDA runtime is; else it keeps text.
_CREATE = "ffi.Module.create.cuda"

_GRAPH = "vm.builtin.cuda_graph"
_AXES = [f"{what}.{axis}" for what in ("blockIdx", "threadIdx") for axis in "xyz"]
_TAGS = [*_AXES, "tirx.use_dyn_shared_memory"]
_HEADER = Path(__file__).with_name("cuda_on_cpu.h")
_RUNTIME = _HEADER.with_suffix(".cc")
#: What TVM writes as PTX, or cannot be C++ here, and what it becomes.
_REWRITES = (
    (r"^\s*#include .*$", ""),
    (r"extern __shared__ .*?(\w+)\[\];", r"auto* \1 = shared_memory;"),
    (r"unsigned int dst_addr = .*;", ""),
    (
        r'asm volatile\("cp\.async\.c[ag][^;]*;"[^;]*"n"\((\d+)\)\);',
        r"cpu::copy_later(dst_p, src_p, \1);",
    ),
    (r'asm volatile\("cp\.async\.commit_group;"[^;]*;', "cpu::commit_copies();"),
    (r'asm volatile\("cp\.async\.wait_group (\d+);"[^;]*;', r"cpu::wait_for_copies(\1);"),
)
#: Bytes beside each tensor, and what they are: not-a-number in any type.
_MARGIN, _NAN = 4096, 0xFF
_CHECKS = ("-fsanitize=alignment,bounds,object-size",)


def reason() -> str | None:
    """Return why CUDA code cannot run on this CPU; None if it can."""
    if shutil.which("g++") is None:
        return "CUDA code runs on a CPU by g++, which is not here"
    command = ["g++", "-fsyntax-only", "-x", "c++", "-"]
    tried = subprocess.run(command, input=b"_Float16 x;", capture_output=True, check=False)
    return "this g++ has no _Float16, which CUDA code needs" if tried.returncode else None


@contextmanager
def cuda_on_cpu() -> Iterator[None]:
    """Let TVM build modules whose kernels run on the CPU, inside the context."""

    def create(code: Any, _form: str, functions: Any, _sources: Any) -> Any:
        tags = {str(name): list(info.launch_param_tags) for name, info in functions.items()}
        return _compiled(str(bytes(code), "utf-8"), tags)

    with _registered(_CREATE, create):
        yield


def call_on_cpu(
    func: tirx.PrimFunc,
    target: Target,
    output: tuple[int, ...],
    *arrays: Array,
    dtype: str = "float32",
) -> Array:
    """Run a scheduled function for CUDA once."""
    context = tvm.transform.PassContext(opt_level=3, config=pass_config(target))
    with context, cuda_on_cpu():
        module = tvm.tirx.build(func, target=tvm_target(target))
    rooms = [_room(array) for array in (*arrays, np.full(output, np.nan, dtype))]
    module["main"](*[tvm_ffi.from_dlpack(inner) for inner, _ in rooms])
    for _, margins in rooms:
        assert all((margin == _NAN).all() for margin in margins), "a kernel wrote beside a tensor"
    return rooms[-1][0]


@contextmanager
def graphs_on_cpu() -> Iterator[list[str]]:
    """Stand in for CUDA's graphs inside the context; gives what happened so far.

    As on a GPU, a replay takes the first call's tensors, whatever the later call brings.
    """
    events: list[str] = []
    kept: dict[str, Any] = {}
    invoke = tvm_ffi.get_global_func("vm.builtin.invoke_closure")

    def run_or_capture(context: Any, closure: Any, arguments: Any, _index: int) -> Any:
        events.append("replay" if "result" in kept else "record")
        result = invoke(context, closure, *kept.setdefault("arguments", arguments))
        return kept.setdefault("result", result)

    def get_cached_alloc(context: Any, closure: Any, _index: int) -> Any:
        if "storage" not in kept:
            kept["storage"] = invoke(context, closure)
        return kept["storage"]

    with (
        _registered(f"{_GRAPH}.run_or_capture", run_or_capture),
        _registered(f"{_GRAPH}.get_cached_alloc", get_cached_alloc),
    ):
        yield events


def _compiled(source: str, tags: dict[str, list[str]]) -> Any:
    """Compile kernels whose extents have those tags, and load them."""
    for pattern, replacement in _REWRITES:
        source = re.sub(pattern, replacement, source, flags=re.MULTILINE)
    lines = [f'#include "{_HEADER.name}"', source]
    for name, axes in tags.items():
        lines.append(f"EXPORT({', '.join([name, *(str(_TAGS.index(axis)) for axis in axes)])})")
    return tvm_ffi.load_module(_compile("\n".join(lines), ("-shared", *_CHECKS), ".so", _runtime()))


@functools.cache
def _runtime() -> Path:
    """Compile what runs the threads, which all kernels share."""
    return _compile(_RUNTIME.read_text(), ("-c",), ".o")


@functools.cache
def _compiler() -> str:
    command = ["g++", "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _compile(source: str, flags: tuple[str, ...], suffix: str, *objects: Path) -> Path:
    """Return what g++ makes of a source, now or in a run before."""
    command = ["g++", "-std=c++17", "-O1", "-fPIC", "-w", *flags]
    texts = [_compiler(), *command, _HEADER.read_text(), source, *map(str, objects)]

    def make(path: Path) -> None:
        files = ["-o", path, "-I", _HEADER.parent, "-x", "c++", "-", "-x", "none", *objects]
        subprocess.run([*command, *files], input=source.encode(), check=True)

    return kept(texts, suffix, make)


@contextmanager
def _registered(name: str, function: Callable[..., Any]) -> Iterator[None]:
    original = tvm_ffi.get_global_func(name, allow_missing=True)
    tvm_ffi.register_global_func(name, function, override=True)
    try:
        yield
    finally:
        if original is None:
            tvm_ffi.remove_global_func(name)
        else:
            tvm_ffi.register_global_func(name, original, override=True)


def _room(array: Array) -> tuple[Array, tuple[Array, Array]]:
    """Return an array's copy, aligned as TVM takes it for granted, and bytes that are beside it."""
    room = np.full(array.nbytes + 3 * _MARGIN, _NAN, np.uint8)
    start = _MARGIN + -room.ctypes.data % _MARGIN
    end = start + array.nbytes
    inner = room[start:end].view(array.dtype).reshape(array.shape)
    inner[...] = array
    return inner, (room[:start], room[end:])
