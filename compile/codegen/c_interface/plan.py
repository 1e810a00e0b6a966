"""Reads `main`, as memory planning left it, into a list of calls with pointers."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm import relax
from tvm.ir import GenericConst

from mobilenet_tvm.compile.passes.values import bindings_of, op_name
from mobilenet_tvm.runtime.base_model import ALIGNMENT
from mobilenet_tvm.targets.errors import UserError

#: What the virtual machine does around calls, and C does not: shapes are static.
_NOTHING = {
    "null_value",
    "vm.kill_object",
    "vm.builtin.check_tensor_info",
    "vm.builtin.match_shape",
}


@dataclass(frozen=True)
class Pointer:
    """The address of a tensor.

    Parameters
    ----------
    base : str
        `in[N]` or `out[N]`, memory of the caller's, `weights`, or `memory` between layers.
    offset : int
        Bytes after it.
    """

    base: str
    offset: int = 0


@dataclass(frozen=True)
class Call:
    """A call of a kernel.

    Parameters
    ----------
    kernel : str
        Its function's name.
    arguments : tuple of Pointer
        Its tensors.
    """

    kernel: str
    arguments: tuple[Pointer, ...]


@dataclass
class Plan:
    """`main` as calls and copies.

    Parameters
    ----------
    calls : list of Call
        In order.
    copies : list of (Pointer, Pointer, int)
        Destination, source and bytes of the outputs that no call writes, such as an input.
    weights : bytearray
        The constants, each aligned.
    memory_bytes : int
        How much the calls need between them.
    """

    calls: list[Call] = field(default_factory=list)
    copies: list[tuple[Pointer, Pointer, int]] = field(default_factory=list)
    weights: bytearray = field(default_factory=bytearray)
    memory_bytes: int = 0


def plan(mod: tvm.IRModule) -> Plan:
    """Return the calls of a network.

    Parameters
    ----------
    mod : IRModule
        A network from `pipeline.lower`, for a CPU.

    Returns
    -------
    Plan
        What one run does.

    Raises
    ------
    UserError
        If `main` has a step that is neither a call nor memory.
    """
    return _Planner(mod).plan()


def aligned(size: int) -> int:
    """Return a number of bytes, rounded up to `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class _Planner:
    def __init__(self, mod: tvm.IRModule) -> None:
        self._mod = mod
        self._plan = Plan()
        # Storages by number; pointers into them are resolved last, since some are outputs.
        self._sizes: list[int] = []
        self._tensors: Counter[str] = Counter()
        self._values: dict[relax.Var, Pointer] = {}
        self._tuples: dict[relax.Var, relax.Tuple] = {}
        self._constants: dict[bytes, Pointer] = {}

    def plan(self) -> Plan:
        main = self._mod["main"]
        for index, param in enumerate(main.params):
            self._values[param] = Pointer(f"in[{index}]")
        for binding in bindings_of(main):
            self._bind(binding.var, binding.value)
        result = main.body.body
        result = self._tuples.get(result, result)
        results = list(result.fields) if isinstance(result, relax.Tuple) else [result]
        self._place([self._pointer(value) for value in results], [_bytes(v.ty) for v in results])
        return self._plan

    def _bind(self, var: relax.Var, value: relax.Expr) -> None:
        if isinstance(value, relax.Tuple):
            self._tuples[var] = value
            return
        if not isinstance(value, relax.Call):
            self._values[var] = self._pointer(value)
            return
        name = op_name(value) or _callee(self._mod, value)
        if name == "vm.alloc_storage":
            self._values[var] = Pointer(f"storage{len(self._sizes)}")
            self._sizes.append(int(value.args[0].values[0]))
        elif name == "vm.alloc_tensor":
            storage = self._pointer(value.args[0])
            self._tensors[storage.base] += 1
            self._values[var] = Pointer(storage.base, int(value.args[1].value))
        elif name == "vm.builtin.reshape":
            self._values[var] = self._pointer(value.args[0])
        elif name.startswith("vm.") and name not in _NOTHING:
            raise UserError(
                f"the network has a step that C has no form for ({name}); compile it without "
                "--interface c"
            )
        elif name not in _NOTHING:
            self._plan.calls.append(Call(name, tuple(map(self._pointer, value.args))))

    def _pointer(self, value: relax.Expr) -> Pointer:
        if isinstance(value, GenericConst):
            data = value.value.numpy().tobytes()
            if data not in self._constants:
                self._constants[data] = Pointer("weights", len(self._plan.weights))
                self._plan.weights += data.ljust(aligned(len(data)), b"\0")
            return self._constants[data]
        return self._values[value]

    def _place(self, results: list[Pointer], sizes: list[int]) -> None:
        """Let storages be the outputs that alone are in them, and lay the others out."""
        bases: dict[str, Pointer] = {}
        for index, (result, size) in enumerate(zip(results, sizes, strict=True)):
            output = Pointer(f"out[{index}]")
            alone = self._tensors[result.base] == 1 and result.offset == 0
            if alone and result.base not in bases:
                bases[result.base] = output
            else:
                self._plan.copies.append((output, result, size))
        for index, size in enumerate(self._sizes):
            name = f"storage{index}"
            if name not in bases:
                bases[name] = Pointer("memory", self._plan.memory_bytes)
                self._plan.memory_bytes += aligned(size)

        def resolved(pointer: Pointer) -> Pointer:
            base = bases.get(pointer.base, Pointer(pointer.base))
            return Pointer(base.base, base.offset + pointer.offset)

        self._plan.calls = [
            Call(call.kernel, tuple(map(resolved, call.arguments))) for call in self._plan.calls
        ]
        self._plan.copies = [(to, resolved(source), n) for to, source, n in self._plan.copies]


def _callee(mod: tvm.IRModule, call: relax.Call) -> str:
    """Return the symbol that a call calls: a kernel, or a part of the virtual machine."""
    if isinstance(call.op, relax.ExternFunc):
        return str(call.op.global_symbol)
    return str(mod[call.op].attrs["global_symbol"])


def _bytes(type_: relax.TensorType) -> int:
    elements = math.prod(int(extent) for extent in type_.shape.values)
    return elements * np.dtype(str(type_.dtype)).itemsize
