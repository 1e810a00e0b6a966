"""Small Relax modules for the tests of graph passes: built, listed, run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

Array = np.ndarray[Any, Any]


def module(
    body: Callable[..., relax.Expr], *shapes: Sequence[int], dtype: str = "float32"
) -> tvm.IRModule:
    """Build a module whose `main` has one input per shape and returns `body(*inputs)`.

    `body` may be written as one nested expression; every call in it gets a binding.
    """
    builder = relax.BlockBuilder()
    inputs = [relax.Var(f"x{i}", relax.TensorType(s, dtype)) for i, s in enumerate(shapes)]
    with builder.function("main", params=inputs):
        with builder.dataflow():
            result = builder.emit_output(builder.normalize(body(*inputs)))
        builder.emit_func_output(result)
    return builder.get()


def operators(mod: tvm.IRModule) -> list[str]:
    """Return the operators that `main` calls, in order, without `relax.`."""
    return [
        binding.value.op.name.removeprefix("relax.")
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call)
    ]


def calls(mod: tvm.IRModule, name: str) -> list[relax.Call]:
    """Return the calls of one operator in `main`, in order."""
    return [
        binding.value
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call)
        and binding.value.op.name.removeprefix("relax.") == name
    ]


def run(mod: tvm.IRModule, *inputs: Array) -> Array:
    """Run `main` by TVM's default pipeline."""
    executable = relax.build(mod, target=tvm.target.Target({"kind": "llvm"}))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    return np.asarray(machine["main"](*map(tvm.runtime.tensor, inputs)).numpy())


def normal(*shape: int, seed: int = 0) -> Array:
    """Return standard normal float32 values."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
