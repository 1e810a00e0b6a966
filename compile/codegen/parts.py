"""Compiles a network in parts, side by side, since TVM and LLVM use one thread for a module."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tvm
from tvm import relax, tirx

from mobilenet_tvm.compile.codegen.object_files import ObjectFiles
from mobilenet_tvm.compile.codegen.pass_context import has_blocks, lowering
from mobilenet_tvm.compile.codegen.tvm_target import tvm_target
from mobilenet_tvm.targets.host import core_count
from mobilenet_tvm.targets.target import Target

#: Parts of a network: as many on any machine, so that the artifact is the same.
PARTS = 8


def compile_parts(
    mod: tvm.IRModule, target: Target, files: ObjectFiles
) -> tuple[relax.VMExecutable, list[Path]]:
    """Compile a network for a CPU.

    Parameters
    ----------
    mod : IRModule
        The scheduled network.
    target : Target
        A CPU.
    files : ObjectFiles
        Where object files are written.

    Returns
    -------
    VMExecutable
        The graph, with some of the functions.
    list of Path
        The object files of the other functions, to be linked with it.
    """
    kernels = {g: f for g, f in mod.functions.items() if isinstance(f, tirx.PrimFunc)}
    graph = {g: f for g, f in mod.functions.items() if g not in kernels}
    first, *others = divided(kernels)

    def compile_graph() -> relax.VMExecutable:
        with lowering(tvm.IRModule({**graph, **first}, attrs=mod.attrs), target) as part:
            return relax.build(part, target=tvm_target(target), relax_pipeline=None)

    def compile_part(number: int) -> Path:
        path = files.make(f"part{number}.o")
        compile_kernels(others[number], target).write_to_file(str(path), "o")
        return path

    with ThreadPoolExecutor(core_count()) as pool:
        executable = pool.submit(compile_graph)
        paths = list(pool.map(compile_part, range(len(others))))
    return executable.result(), paths


def compile_kernels(kernels: dict[Any, tirx.PrimFunc], target: Target) -> tvm.runtime.Module:
    """Compile the functions of one part into a module of LLVM's."""
    with lowering(tvm.IRModule(kernels), target) as part:
        return tvm.compile(part, target=tvm_target(target)).mod


def divided(kernels: dict[Any, tirx.PrimFunc]) -> list[dict[Any, tirx.PrimFunc]]:
    """Divide functions into parts, in which all have blocks or none has."""
    parts = []
    for blocks in (True, False):
        kind = [(g, f) for g, f in kernels.items() if has_blocks(f) == blocks]
        parts += [dict(kind[first::PARTS]) for first in range(min(PARTS, len(kind)))]
    return parts or [{}]
