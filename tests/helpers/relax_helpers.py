"""Small Relax modules for the tests of graph passes: built, listed, run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from numpy_layers import normal
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


def emit(expr: relax.Expr) -> relax.Expr:
    """Bind an expression in the function that is being built."""
    return relax.BlockBuilder.current().emit(expr)


def conv(
    data: Any, inputs: int, outputs: int, kernel: int = 1, groups: int = 1, **attrs: Any
) -> Any:
    """Call a convolution of NHWC data with random weights."""
    weight = relax.const(normal(kernel, kernel, inputs // groups, outputs, seed=outputs))
    layouts = {"data_layout": "NHWC", "kernel_layout": "HWIO"}
    padding = [kernel // 2] * 4
    return emit(
        relax.op.nn.conv2d(data, weight, padding=padding, groups=groups, **layouts, **attrs)
    )


def bias(data: Any, channels: int) -> Any:
    """Add a random value for each channel."""
    return emit(relax.op.add(data, relax.const(normal(1, 1, 1, channels, seed=channels))))
