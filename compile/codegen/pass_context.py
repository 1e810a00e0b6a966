"""Options of TVM's lowering on which schedules rely, and what it need not do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import tvm
from tvm import tirx
from tvm.s_tir import SBlockRealize

from mobilenet_tvm.schedules.vector_math import vector_functions
from mobilenet_tvm.targets.target import Target

#: For CPUs.
PASS_CONFIG: dict[str, Any] = {
    # Pointwise layers take images as matrices, and `main` has checked the shapes of the inputs.
    "tirx.disable_assert": True,
    # Peels off the last, smaller tile, so that the others need no bounds checks.
    "s_tir.LoopPartition": {"partition_const_loop": True},
}
#: A pass that finds nothing to do in functions without blocks, and takes a third of their time.
_FOR_BLOCKS = "s_tir.CompactBufferAllocation"
#: The pass that makes indices of 64 bits, which schedules for 64-bit ARM use, those of 32 again.
_NARROW = "tirx.NarrowDataType"


def pass_config(target: Target) -> dict[str, Any]:
    """Return the options of TVM's lowering on which a target's schedules rely."""
    if target.gpu is None:
        return PASS_CONFIG
    # No loop partition: all tiles of GPU schedules are whole. Schedules mark asynchronous copies.
    return {"tirx.disable_assert": True, "tirx.use_async_copy": target.kind == "cuda"}


@tvm.instrument.pass_instrument
class _Without:
    """Skips passes."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def should_run(self, _mod: tvm.IRModule, info: Any) -> bool:
        """Return whether a pass runs."""
        return str(info.name) not in self._names


def has_blocks(func: tirx.PrimFunc) -> bool:
    """Return whether a function has TensorIR's blocks, so that primitives may have scheduled it."""
    return isinstance(func.body, SBlockRealize)


@contextmanager
def lowering(mod: tvm.IRModule, target: Target) -> Iterator[tvm.IRModule]:
    """Enter the context in which TVM compiles functions.

    Parameters
    ----------
    mod : IRModule
        Scheduled functions.
    target : Target
        The target of the code.

    Yields
    ------
    IRModule
        What is to be compiled: on CPUs with functions that LLVM inlines.
    """
    kernels = [f for f in mod.functions.values() if isinstance(f, tirx.PrimFunc)]
    unneeded = set() if any(map(has_blocks, kernels)) else {_FOR_BLOCKS}
    if target.gpu is None and target.architecture == "aarch64":
        unneeded.add(_NARROW)
    context = tvm.transform.PassContext(
        opt_level=3, config=pass_config(target), instruments=[_Without(frozenset(unneeded))]
    )
    functions = vector_functions(mod) if target.gpu is None else nullcontext(mod)
    with context, functions as complete:
        yield complete
