"""Traces machine code by executing its integer instructions: paths, counts and touched cache lines.

Shapes are static, so the control flow of a layer does not depend on data: integer registers, the
stack and the flags determine it. No tensor is loaded and no vector is computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from mobilenet_tvm.compile.analysis.assembly import Block, Instruction, functions
from mobilenet_tvm.compile.tuning.static import arm64, x86
from mobilenet_tvm.compile.tuning.static.statements import LINE_BYTES, UnknownInstructionError

#: Consecutively executed instructions, from one backward jump to the next.
Path = tuple[Instruction, ...]

_ARCHITECTURES: dict[str, ModuleType] = {"aarch64": arm64, "x86_64": x86}
_ENTRY = "main_compute_"
_LAUNCH, _ALLOCATE = "__TVMBackendParallelLaunch", "__TVMBackendAllocWorkspace"
#: Base addresses of regions that do not overlap.
_STACK, _ENVIRONMENT, _WORKSPACE, _SYMBOLS, _POINTERS = (1 << n for n in (60, 59, 58, 56, 40))
#: Touched lines are passed on in batches of about this size.
_MAX_LINES = 100_000
#: Limit on executed blocks, after which a candidate is abandoned: half a minute.
_MAX_BLOCKS = 30_000_000


def trace(
    text: str,
    architecture: str,
    arguments: int = 0,
    touched: Callable[[Sequence[int]], None] | None = None,
) -> Counter[Path]:
    """Execute a function on one thread, and return how often each path runs.

    A repeated loop body is a path; code before the loop belongs to the path of its first iteration,
    code after it to that of its last.

    Parameters
    ----------
    text : str
        Assembly of a module with one TVM function, `main`.
    architecture : str
        As named by a target.
    arguments : int
        Number of tensors that it takes, at the addresses that `address_of` gives.
    touched : callable, optional
        Called with the touched cache lines in order, thousands at a time.

    Raises
    ------
    UnknownInstructionError
        If an instruction cannot be translated, or the code does not terminate.
    """
    machine = _Machine(functions(text), _ARCHITECTURES[architecture], arguments, touched)
    machine.run(_ENTRY)
    machine.flush()
    paths: Counter[Path] = Counter()
    for (name, *numbers), count in machine.counts.items():
        blocks = machine.blocks[name]
        paths[tuple(i for number in numbers for i in blocks[number].body)] += count
    return paths


def address_of(number: int) -> int:
    """Return the address of an argument, aligned to a cache line."""
    # Spread over the sets of a cache.
    return (number + 1) * (_POINTERS + 37 * LINE_BYTES)


class _Machine:
    """A machine: registers, memory and translated code."""

    def __init__(
        self,
        blocks: dict[str, list[Block]],
        architecture: ModuleType,
        arguments: int,
        touched: Callable[[Sequence[int]], None] | None,
    ) -> None:
        self.blocks = blocks
        self._lines: list[int] = []
        self._touched = touched
        self.counts: Counter[tuple[Any, ...]] = Counter()
        self._architecture = architecture
        self._symbols: dict[str, int] = {}
        self._registers: dict[str, int] = _Registers()
        self._registers[architecture.STACK] = _STACK
        self._memory: dict[int, int] = {}
        self._blocks_left = _MAX_BLOCKS
        self._code: dict[str, list[Callable[[], int]]] = {}
        for number in range(arguments):
            # The remaining ones are on the stack; on x86 the return address precedes them.
            if number < len(architecture.ARGUMENTS):
                self._registers[architecture.ARGUMENTS[number]] = address_of(number)
            else:
                place = number - len(architecture.ARGUMENTS) + (architecture is x86)
                self._memory[_STACK + 8 * place] = address_of(number)
        self._pointers = arguments
        # TVM's code reads the number of tasks from the environment.
        self._memory[_ENVIRONMENT + 8] = 1

    def run(self, name: str) -> None:
        """Run a function until it returns."""
        code = self._translated(name)
        here = 0
        path: list[str | int] = [name]
        while here < len(code):
            path.append(here)
            following = code[here]()
            self._blocks_left -= 1
            if self._blocks_left < 0:
                raise UnknownInstructionError("the code does not terminate")
            if following <= here:
                self.counts[tuple(path)] += 1
                path = [name]
                if len(self._lines) > _MAX_LINES:
                    self.flush()
            here = following
        self.counts[tuple(path)] += 1

    def flush(self) -> None:
        """Pass on the lines touched since the last call."""
        if self._touched is not None:
            self._touched(self._lines)
        self._lines.clear()

    def _translated(self, name: str) -> list[Callable[[], int]]:
        if name not in self._code:
            blocks = self.blocks[name]
            labels = {label: i for i, block in enumerate(blocks) for label in block.labels}
            source = "\n".join(
                self._source(number, block, labels, len(blocks))
                for number, block in enumerate(blocks)
            )
            scope = {
                "r": self._registers,
                "m": self._memory,
                "f": [0, 0, 64],
                "t": self._lines.append,
                "load": self._load,
                "symbol": self._symbol,
                "call": self._call,
                "as_signed": _as_signed,
                "divide": lambda left, right: _divide(left, right)[0],
                "divide_with_rest": _divide,
            }
            # Generated Python only; interpreting the instructions would take ten times as long.
            exec(source, scope)  # noqa: S102
            self._code[name] = [scope[f"block_{i}"] for i in range(len(blocks))]  # type: ignore[misc]
        return self._code[name]

    def _source(self, number: int, block: Block, labels: dict[str, int], end: int) -> str:
        """Return a Python function that executes a block and returns the number of the next."""
        machine, lines, next_block = self._architecture, [], str(number + 1)
        for instruction in block.body:
            if not instruction.ends_block:
                lines += machine.statements(instruction)
            elif conditional := machine.branch(instruction):
                next_block = f"{labels[conditional[1]]} if {conditional[0]} else {number + 1}"
            elif (target := machine.jump(instruction)) is not None:
                if target in labels:
                    next_block = str(labels[target])
                else:
                    lines.append(f"call(symbol({target!r}))")
                    next_block = str(end)
            elif (address := machine.call(instruction)) is not None:
                lines.append(f"call({address})")
            elif machine.is_return(instruction):
                next_block = str(end)
            else:
                raise UnknownInstructionError(str(instruction))
        return "\n    ".join([f"def block_{number}():", *lines, f"return {next_block}"])

    def _symbol(self, name: str) -> int:
        return self._symbols.setdefault(name, _SYMBOLS + (len(self._symbols) << 40))

    def _load(self, address: int) -> int:
        if address not in self._memory:
            known = address in self._symbols.values()
            # Any other value must be a pointer, loaded from a table of addresses.
            self._memory[address] = address if known else self._new_pointer()
        return self._memory[address]

    def _new_pointer(self) -> int:
        self._pointers += 1
        return address_of(self._pointers)

    def _call(self, address: int) -> None:
        machine, registers = self._architecture, self._registers
        names = {value: name for name, value in self._symbols.items()}
        name = names.get(address, "")
        first, second, third = machine.ARGUMENTS[:3]
        if name == _LAUNCH:
            function, captured = registers[first], registers[second]
            registers[first], registers[second], registers[third] = 0, _ENVIRONMENT, captured
            self.run(names[function])
        elif name in self.blocks:
            self.run(name)
        # The workspace's address is not 0, but its low half is: an `int` result means success.
        registers[machine.RESULT] = _WORKSPACE if name == _ALLOCATE else 0


class _Registers(dict[str, int]):
    """Registers, initially 0: a function saves those of its caller before they are written."""

    def __missing__(self, name: str) -> int:
        return 0


def _as_signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _divide(left: int, right: int) -> tuple[int, int]:
    """Divide, rounding towards zero; division by zero gives 0, as on ARM."""
    quotient = abs(left) // abs(right) if right else 0
    quotient = -quotient if (left < 0) != (right < 0) else quotient
    return quotient, left - quotient * right
