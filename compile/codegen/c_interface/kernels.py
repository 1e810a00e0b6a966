"""Compiles a network's kernels so that what they call of TVM's has names of the model's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tvm
from tvm import tirx

from mobilenet_tvm.compile.codegen.c_interface.names import Names
from mobilenet_tvm.compile.codegen.c_interface.plan import aligned
from mobilenet_tvm.compile.codegen.llvm_ir import write_object
from mobilenet_tvm.compile.codegen.object_files import ObjectFiles
from mobilenet_tvm.compile.codegen.parts import compile_kernels, divided
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.host import core_count
from mobilenet_tvm.targets.target import Target

#: What runtime.c has of TVM's runtime. Code calls each through a variable with `__` before it.
_PROVIDED = {"TVMBackendParallelLaunch", "TVMBackendAllocWorkspace", "TVMBackendFreeWorkspace"}

_OF_TVM = re.compile(r"@(?:__)?(TVM\w+)")
_FUNCTION = re.compile(r"^define .*?^\}", re.MULTILINE | re.DOTALL)
#: A call of TVMBackendAllocWorkspace: the only function that takes such numbers.
_ALLOCATION = re.compile(r"call ptr %[\w.]+\(i32 [^,]+, i32 [^,]+, i64 ([^,]+),")


def write_kernels(
    mod: tvm.IRModule, target: Target, names: Names, files: ObjectFiles
) -> tuple[list[Path], int]:
    """Compile the functions of a network.

    Parameters
    ----------
    mod : IRModule
        The scheduled network, for a CPU.
    target : Target
        The CPU.
    names : Names
        The model's names.
    files : ObjectFiles
        Where object files are written.

    Returns
    -------
    list of Path
        The object files.
    int
        Bytes of working memory that a thread needs at most.

    Raises
    ------
    UserError
        If a kernel calls a part of TVM's runtime that C does not have.
    """
    kernels = {
        var: func.with_attr("global_symbol", names.symbol(func.attrs["global_symbol"]))
        for var, func in mod.functions.items()
        if isinstance(func, tirx.PrimFunc)
    }
    parts = divided(kernels)

    def compile_part(number: int) -> tuple[Path, int]:
        path = files.make(f"part{number}.o")
        ir = compile_kernels(parts[number], target).inspect_source("ll")
        missing = set(_OF_TVM.findall(ir)) - _PROVIDED
        if missing:
            raise UserError(
                f"the network needs {', '.join(sorted(missing))} of TVM's runtime, which a C "
                "library does not have; compile it without --interface c"
            )
        write_object(ir.replace("@__TVM", f"@{names.prefix}__TVM"), path)
        return path, _working_memory(_FUNCTION.findall(ir))

    with ThreadPoolExecutor(core_count()) as pool:
        compiled = list(pool.map(compile_part, range(len(parts))))
    return [path for path, _ in compiled], max(size for _, size in compiled)


def _working_memory(functions: Iterable[str]) -> int:
    """Return at least the bytes that a thread allocates at a time.

    A thread is in one kernel, and in at most one body of a parallel loop in it.
    """
    sizes = {True: 0, False: 0}
    for function in functions:
        parallel = "__tvm_parallel_lambda" in function.partition("\n")[0]
        total = sum(aligned(int(size)) for size in _ALLOCATION.findall(function))
        sizes[parallel] = max(sizes[parallel], total)
    return sum(sizes.values())
