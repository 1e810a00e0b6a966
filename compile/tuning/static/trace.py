"""Runs only the integers of machine code: which way it goes how often, and what it touches.

Shapes are static, so a layer's way through its loops depends on no data: registers of integers,
the stack and the flags decide it. Nothing is loaded from tensors, and no vector is computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from mobilenet_tvm.compile.analysis.assembly import Block, Instruction, functions
from mobilenet_tvm.compile.tuning.static import arm64, x86
from mobilenet_tvm.compile.tuning.static.statements import LINE_BYTES, UnknownInstructionError

#: Instructions that run one after the other, from one jump backwards to the next.
Path = tuple[Instruction, ...]

_ARCHITECTURES: dict[str, ModuleType] = {"aarch64": arm64, "x86_64": x86}
_ENTRY = "main_compute_"
_LAUNCH, _ALLOCATE = "__TVMBackendParallelLaunch", "__TVMBackendAllocWorkspace"
#: Addresses: no two regions meet.
_STACK, _ENVIRONMENT, _WORKSPACE, _SYMBOLS, _POINTERS = (1 << n for n in (60, 59, 58, 56, 40))
#: Touched lines are handed over by so many.
_MOST_LINES = 100_000
#: A candidate that runs longer is given up, in blocks: half a minute.
_MOST_BLOCKS = 30_000_000


def trace(
    text: str,
    architecture: str,
    arguments: int = 0,
    touched: Callable[[Sequence[int]], None] | None = None,
) -> Counter[Path]:
    """Run a function on one thread, and return how often each path runs.

    A loop's body that is run again and again is a path; what comes before it runs with its first
    iteration, and what comes after it with its last.

    Parameters
    ----------
    text : str
        Assembly of a module with one function of TVM's, `main`.
    architecture : str
        As a target names it.
    arguments : int
        How many tensors it takes; they are at `address_of` their numbers.
    touched : callable, optional
        Gets the cache lines that are touched, in their order, some thousands at a time.

    Raises
    ------
    UnknownInstructionError
        If an instruction is not translated, or the code does not end.
    """
    machine = _Machine(functions(text), _ARCHITECTURES[architecture], arguments, touched)
    machine.run(_ENTRY)
    machine.tell()
    paths: Counter[Path] = Counter()
    for (name, *numbers), count in machine.counts.items():
        blocks = machine.blocks[name]
        paths[tuple(i for number in numbers for i in blocks[number].body)] += count
    return paths


def address_of(number: int) -> int:
    """Return the address of an argument, a whole number of cache lines."""
    # Not all in the same sets of a cache.
    return (number + 1) * (_POINTERS + 37 * LINE_BYTES)


class _Machine:
    """Registers, memory and translated code."""

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
        self._left = _MOST_BLOCKS
        self._code: dict[str, list[Callable[[], int]]] = {}
        for number in range(arguments):
            # The last ones are on the stack; x86 keeps the address of the caller before them.
            if number < len(architecture.ARGUMENTS):
                self._registers[architecture.ARGUMENTS[number]] = address_of(number)
            else:
                place = number - len(architecture.ARGUMENTS) + (architecture is x86)
                self._memory[_STACK + 8 * place] = address_of(number)
        self._pointers = arguments
        # Of a task's environment, TVM's code reads how many tasks there are.
        self._memory[_ENVIRONMENT + 8] = 1

    def run(self, name: str) -> None:
        """Run a function until it returns."""
        code = self._translated(name)
        here = 0
        path: list[str | int] = [name]
        while here < len(code):
            path.append(here)
            following = code[here]()
            self._left -= 1
            if self._left < 0:
                raise UnknownInstructionError("the code does not end")
            if following <= here:
                self.counts[tuple(path)] += 1
                path = [name]
                if len(self._lines) > _MOST_LINES:
                    self.tell()
            here = following
        self.counts[tuple(path)] += 1

    def tell(self) -> None:
        """Hand over what was touched since the last time."""
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
            # Python of one's own making: an interpreter would take ten times as long.
            exec(source, scope)  # noqa: S102
            self._code[name] = [scope[f"block_{i}"] for i in range(len(blocks))]  # type: ignore[misc]
        return self._code[name]

    def _source(self, number: int, block: Block, labels: dict[str, int], end: int) -> str:
        """Return a function of Python that runs a block and returns the next one's number."""
        machine, lines, follower = self._architecture, [], str(number + 1)
        for instruction in block.body:
            if not instruction.ends_block:
                lines += machine.statements(instruction)
            elif way := machine.branch(instruction):
                follower = f"{labels[way[1]]} if {way[0]} else {number + 1}"
            elif (target := machine.jump(instruction)) is not None:
                if target in labels:
                    follower = str(labels[target])
                else:
                    lines.append(f"call(symbol({target!r}))")
                    follower = str(end)
            elif (address := machine.call(instruction)) is not None:
                lines.append(f"call({address})")
            elif machine.is_return(instruction):
                follower = str(end)
            else:
                raise UnknownInstructionError(str(instruction))
        return "\n    ".join([f"def block_{number}():", *lines, f"return {follower}"])

    def _symbol(self, name: str) -> int:
        return self._symbols.setdefault(name, _SYMBOLS + (len(self._symbols) << 40))

    def _load(self, address: int) -> int:
        if address not in self._memory:
            known = address in self._symbols.values()
            # Another's address is in a table of addresses.
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
        # No workspace at 0; whoever asks for an `int` finds the 0 of success in its low half.
        registers[machine.RESULT] = _WORKSPACE if name == _ALLOCATE else 0


class _Registers(dict[str, int]):
    """Registers; a function saves those of its caller, whatever is in them."""

    def __missing__(self, name: str) -> int:
        return 0


def _as_signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _divide(left: int, right: int) -> tuple[int, int]:
    """Divide towards zero, as machines do; by zero it gives 0, as on ARM."""
    quotient = abs(left) // abs(right) if right else 0
    quotient = -quotient if (left < 0) != (right < 0) else quotient
    return quotient, left - quotient * right
