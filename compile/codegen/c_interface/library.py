"""Writes a network as a library for C: a shared one, a static one, and a header."""

from __future__ import annotations

import shutil
from pathlib import Path

import tvm

from mobilenet_tvm.compile.codegen.c_interface.header import header
from mobilenet_tvm.compile.codegen.c_interface.kernels import write_kernels
from mobilenet_tvm.compile.codegen.c_interface.names import Names
from mobilenet_tvm.compile.codegen.c_interface.plan import plan
from mobilenet_tvm.compile.codegen.c_interface.source import source, weights_source
from mobilenet_tvm.compile.codegen.c_interface.toolchain import compile_c, run_zig
from mobilenet_tvm.compile.codegen.linker import link_relocatable, link_shared
from mobilenet_tvm.compile.codegen.metadata_object import write_metadata_object
from mobilenet_tvm.compile.codegen.object_files import ObjectFiles
from mobilenet_tvm.runtime.base_model import ALIGNMENT
from mobilenet_tvm.runtime.checksum import seal
from mobilenet_tvm.runtime.metadata import SECTION, Metadata
from mobilenet_tvm.runtime.scratch import scratch_folder
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.target import Target

_RUNTIME = Path(__file__).with_name("runtime.c")
#: The static library's only member.
_MEMBER = "linked.o"


def write_c_library(
    mod: tvm.IRModule, target: Target, metadata: Metadata, folder: Path, static: bool = False
) -> Path:
    """Compile a lowered module for C.

    Parameters
    ----------
    mod : IRModule
        The scheduled network, from `pipeline.lower`, for a CPU.
    target : Target
        The CPU.
    metadata : Metadata
        Stored in the shared library's section `.mobilenet_tvm`.
    folder : Path
        Where the files are made or replaced.
    static : bool
        Whether to write a static library too; an older one is removed otherwise.

    Returns
    -------
    Path
        The shared library.

    Raises
    ------
    UserError
        If the network needs what C does not have, or compiling, linking or writing fails.
    """
    names = Names.of(metadata.model)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            scratch_folder(".mobilenet-tvm-new-", folder) as scratch,
            ObjectFiles(scratch) as files,
        ):
            objects = _write_objects(mod, target, names, metadata, files)
            written = [names.header, names.library]
            section = files.make("metadata.o")
            write_metadata_object(metadata, target.triple, section)
            library = scratch / names.library
            link_shared(library, [*objects, section], soname=names.library, exports=_api(names))
            seal(library, SECTION)
            if static:
                link_relocatable(scratch / _MEMBER, objects)
                run_zig(["ar", "rcsD", names.archive, _MEMBER], scratch)
                written.append(names.archive)
            for name in written:
                (scratch / name).replace(folder / name)
            if not static:
                # That of an earlier compilation may not fit the header.
                (folder / names.archive).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
    return folder / names.library


def _write_objects(
    mod: tvm.IRModule, target: Target, names: Names, metadata: Metadata, files: ObjectFiles
) -> list[Path]:
    """Write the sources and compile them; the header stays among the files."""
    folder = files.folder
    network = plan(mod)
    objects, scratch_bytes = write_kernels(mod, target, names, files)
    (folder / names.header).write_text(header(names, metadata))
    shutil.copy(_RUNTIME, folder)
    sources = {
        "model.c": source(names, network, metadata, target, scratch_bytes),
        "weights.S": weights_source(names, ALIGNMENT),
    }
    (folder / "weights.bin").write_bytes(network.weights)
    for name, text in sources.items():
        (folder / name).write_text(text)
        compiled = folder / f"{name}.o"
        compile_c(folder / name, target.triple, compiled)
        objects.append(compiled)
    return objects


def _api(names: Names) -> list[str]:
    functions = ("create", "destroy", "run", "status_text", "workspace_size")
    return [names.symbol(function) for function in functions]
