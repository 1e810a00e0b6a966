"""Generates machine code for a lowered module and links it, with its metadata, into one `.so`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import relax

from mobilenet_tvm.compile.codegen.linker import link_shared
from mobilenet_tvm.compile.codegen.metadata_object import write_metadata_object
from mobilenet_tvm.compile.codegen.nvrtc import compile_cuda
from mobilenet_tvm.compile.codegen.opencl_source import shorten
from mobilenet_tvm.compile.codegen.tvm_target import tvm_target
from mobilenet_tvm.runtime.atomic import replacing
from mobilenet_tvm.runtime.cuda_code import as_source, decode_on_load
from mobilenet_tvm.runtime.metadata import Metadata
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.target import Target

#: What CPU schedules count on when their loops are lowered.
PASS_CONFIG: dict[str, Any] = {
    # A pointwise layer sees its pictures as matrices; `main` has checked the inputs' shapes.
    "tirx.disable_assert": True,
    # Splits the last, smaller tile off, so that no other tile has a condition.
    "s_tir.LoopPartition": {"partition_const_loop": True},
}


def pass_config(target: Target) -> dict[str, Any]:
    """Return what a target's schedules count on when their loops are lowered."""
    if target.gpu is None:
        return PASS_CONFIG
    # Threads are not split off: their tiles are whole. Schedules say what CUDA copies meanwhile.
    return {"tirx.disable_assert": True, "tirx.use_async_copy": target.kind == "cuda"}


def prepare_output(path: Path) -> None:
    """Make sure, before the work starts, that its result can be written.

    Raises
    ------
    UserError
        If the folder cannot be made or written to, or the path is a folder.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the file to write, such as {path / 'v2.so'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); choose another with --output"
        ) from None


@contextmanager
def source_passes(target: Target) -> Iterator[None]:
    """Let TVM pass a GPU's source through this project's hands while it builds for a target."""
    gpu = target.gpu
    if gpu is None:
        yield
        return

    def changed(source: str, _target: tvm.target.Target) -> str:
        if gpu.kind == "opencl":
            return shorten(source)
        return as_source(compile_cuda(source, gpu))

    hook = f"tvm_callback_{gpu.kind}_postproc"
    tvm_ffi.register_global_func(hook, changed, override=True)
    if gpu.kind == "cuda":
        # Where TVM's CUDA runtime is, it wants the code at once.
        decode_on_load()
    try:
        yield
    finally:
        tvm_ffi.remove_global_func(hook)


def write_library(mod: tvm.IRModule, target: Target, path: Path) -> None:
    """Compile functions without a graph, as those of a network would be.

    Parameters
    ----------
    mod : IRModule
        Scheduled functions.
    target : Target
        The machine that the code is for.
    path : Path
        The library to write.
    """
    context = tvm.transform.PassContext(opt_level=3, config=pass_config(target))
    with context, source_passes(target):
        compiled = tvm.compile(mod, target=tvm_target(target))
    compiled.export_library(
        str(path), fcompile=lambda output, objects, **_: link_shared(output, objects)
    )


def write_artifact(mod: tvm.IRModule, target: Target, metadata: Metadata, path: Path) -> None:
    """Compile a lowered module and write the artifact, whole or not at all.

    Parameters
    ----------
    mod : IRModule
        The scheduled network, from `pipeline.lower`.
    target : Target
        The machine that the code is for.
    metadata : Metadata
        Stored in the artifact's section `.mobilenet_tvm`.
    path : Path
        The `.so` to write; it is replaced in one step.

    Raises
    ------
    UserError
        If linking or writing fails.
    """
    context = tvm.transform.PassContext(opt_level=3, config=pass_config(target))
    with context, source_passes(target):
        executable = relax.build(mod, target=tvm_target(target), relax_pipeline=None)
    try:
        with replacing(path) as scratch:
            # Apart from the output's, which may have a suffix that means something to TVM.
            section, linked = scratch.with_name("metadata.o"), scratch.with_name("linked.so")
            write_metadata_object(metadata, target.triple, section)
            executable.export_library(
                str(linked),
                fcompile=lambda output, objects, **_: link_shared(output, objects),
                addons=[str(section)],
                workspace_dir=str(scratch.parent),
            )
            linked.chmod(0o666 & ~_umask())
            linked.rename(scratch)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
