"""Generates code for a lowered module and links it, with its metadata, into one `.so`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tvm
import tvm_ffi
from tvm import relax

from mobilenet_tvm.compile.codegen.linker import link_shared
from mobilenet_tvm.compile.codegen.metadata_object import write_metadata_object
from mobilenet_tvm.compile.codegen.nvrtc import compile_cuda
from mobilenet_tvm.compile.codegen.object_files import ObjectFiles
from mobilenet_tvm.compile.codegen.opencl_source import shorten
from mobilenet_tvm.compile.codegen.parts import compile_parts
from mobilenet_tvm.compile.codegen.pass_context import lowering
from mobilenet_tvm.compile.codegen.tvm_target import tvm_target
from mobilenet_tvm.runtime.atomic import replacing
from mobilenet_tvm.runtime.checksum import seal
from mobilenet_tvm.runtime.cuda_code import as_source, decode_on_load
from mobilenet_tvm.runtime.metadata import SECTION, Metadata
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.target import Target


def prepare_output(path: Path) -> None:
    """Check that a file can be written, before the work on it starts.

    Parameters
    ----------
    path : Path
        The file; its folder is made where it is missing.

    Raises
    ------
    UserError
        If the folder cannot be made or written to, or the path is itself a folder.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the name of a file, such as {path / 'v2.so'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); choose another with --output"
        ) from None


def prepare_folder(folder: Path) -> None:
    """Check that files can be written into a folder, which is made where it is missing.

    Raises
    ------
    UserError
        If it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be used as a folder ({error.strerror}); choose another with --output"
        ) from None


@contextmanager
def source_passes(target: Target) -> Iterator[None]:
    """Have TVM pass a GPU's source to this project inside the context, to shorten or compile it."""
    gpu = target.gpu
    if gpu is None:
        yield
        return

    def process(source: str, _target: tvm.target.Target) -> str:
        if gpu.kind == "opencl":
            return shorten(source)
        return as_source(compile_cuda(source, gpu))

    hook = f"tvm_callback_{gpu.kind}_postproc"
    tvm_ffi.register_global_func(hook, process, override=True)
    if gpu.kind == "cuda":
        # If TVM's CUDA runtime is loaded, it decodes the code at once.
        decode_on_load()
    try:
        yield
    finally:
        tvm_ffi.remove_global_func(hook)


def write_library(mod: tvm.IRModule, target: Target, path: Path) -> None:
    """Compile functions without a graph, as those of a network are compiled.

    Parameters
    ----------
    mod : IRModule
        Scheduled functions.
    target : Target
        The target of the code.
    path : Path
        The library to write.
    """
    with lowering(mod, target) as complete, source_passes(target):
        compiled = tvm.compile(complete, target=tvm_target(target))
    with tempfile.TemporaryDirectory() as folder, ObjectFiles(Path(folder)):
        compiled.export_library(
            str(path),
            fcompile=lambda output, objects, **_: link_shared(output, objects),
            workspace_dir=folder,
        )


def write_artifact(mod: tvm.IRModule, target: Target, metadata: Metadata, path: Path) -> None:
    """Compile a lowered module and write the artifact in one step.

    Parameters
    ----------
    mod : IRModule
        The scheduled network, from `pipeline.lower`.
    target : Target
        The target of the code.
    metadata : Metadata
        Stored in the artifact's section `.mobilenet_tvm`.
    path : Path
        The `.so` to make or replace.

    Raises
    ------
    UserError
        If linking or writing fails.
    """
    try:
        with replacing(path) as scratch, ObjectFiles(scratch.parent) as files:
            # Not the output's name, since its suffix may have a meaning for TVM.
            linked, section = scratch.with_name("linked.so"), files.make("metadata.o")
            if target.gpu is None:
                executable, objects = compile_parts(mod, target, files)
            else:
                executable, objects = _with_kernels(mod, target), []
            write_metadata_object(metadata, target.triple, section)
            executable.export_library(
                str(linked),
                fcompile=lambda output, objects, **_: link_shared(output, objects),
                addons=[*map(str, objects), str(section)],
                workspace_dir=str(files.folder),
            )
            seal(linked, SECTION)
            linked.chmod(0o666 & ~_umask())
            linked.rename(scratch)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def _with_kernels(mod: tvm.IRModule, target: Target) -> relax.VMExecutable:
    """Compile a network for a GPU, whose kernels are one module."""
    with lowering(mod, target) as complete, source_passes(target):
        return relax.build(complete, target=tvm_target(target), relax_pipeline=None)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
