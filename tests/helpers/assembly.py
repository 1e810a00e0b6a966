"""Compiles functions to assembly, and cuts it into functions and basic blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass

import tvm

from mobilenet_tvm.compile.codegen.pass_context import lowering
from mobilenet_tvm.compile.codegen.tvm_target import llvm_target
from mobilenet_tvm.targets.target import Target

_LABEL = re.compile(r"([\w.$]+):")
_INSTRUCTION = re.compile(r"\t([a-z][\w.]*)(?:\t(.*))?$")
#: What ends a block: jumps, returns, and calls, after which it goes on.
_ENDS = re.compile(r"(?:b|b\.\w+|cbn?z|tbn?z|j\w+|ret|retq|bl|blr|call|callq)$")


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Parameters
    ----------
    name : str
        The mnemonic.
    operands : tuple of str
        As they are written.
    """

    name: str
    operands: tuple[str, ...]

    @property
    def ends_block(self) -> bool:
        """Whether the instruction after it need not follow at once."""
        return _ENDS.match(self.name) is not None

    def __str__(self) -> str:
        """Return its line of assembly."""
        return f"\t{self.name}\t{', '.join(self.operands)}"


@dataclass(frozen=True)
class Block:
    """Instructions that run one after the other.

    Parameters
    ----------
    labels : tuple of str
        Where it starts.
    body : tuple of Instruction
        The last one may jump.
    """

    labels: tuple[str, ...]
    body: tuple[Instruction, ...]

    @property
    def repeats(self) -> bool:
        """Whether it is a loop of its own."""
        return bool(self.body) and self.body[-1].operands[-1:] in [(name,) for name in self.labels]


def functions(text: str) -> dict[str, list[Block]]:
    """Return the blocks of each function, in the order of the code.

    Parameters
    ----------
    text : str
        As LLVM prints it, for any architecture.
    """
    found: dict[str, list[Block]] = {}
    types = set(re.findall(r"\t\.type\t([\w.$]+),\s*[@%]function", text))
    blocks: list[Block] = []
    labels: list[str] = []
    body: list[Instruction] = []

    def close() -> None:
        if body or labels:
            blocks.append(Block(tuple(labels), tuple(body)))
        labels.clear()
        body.clear()

    for line in text.splitlines():
        if label := _LABEL.match(line):
            name = label[1]
            if name in types:
                close()
                blocks = found[name] = []
            elif re.match(r"\.?Ltmp|\.?Lfunc_", name):
                continue
            elif body:
                close()
            labels.append(name)
        elif part := _INSTRUCTION.match(line):
            operands = re.split(r",\s*(?![^\[({]*[\])}])", part[2]) if part[2] else []
            instruction = Instruction(part[1], tuple(operands))
            body.append(instruction)
            if instruction.ends_block:
                close()
    close()
    return found


def loops(text: str) -> list[tuple[Instruction, ...]]:
    """Return the bodies of all loops that are one block."""
    return [block.body for code in functions(text).values() for block in code if block.repeats]


def assembly(func: tvm.tirx.PrimFunc, target: Target) -> str:
    """Return a function's assembly, compiled as for a network."""
    with lowering(tvm.IRModule.from_expr(func), target) as mod:
        built = tvm.tirx.build(mod, target=llvm_target(target))
    return str(built.inspect_source("asm"))
