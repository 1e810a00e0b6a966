"""Translates integer instructions of x86-64 to Python statements for `trace`."""

from __future__ import annotations

import re

from mobilenet_tvm.compile.analysis.assembly import Instruction
from mobilenet_tvm.compile.tuning.static.statements import (
    UnknownInstructionError,
    condition,
    mask,
    signed,
    touch,
)

#: Registers of the first arguments, the result and the stack pointer, as keys of `r`.
ARGUMENTS = ("di", "si", "dx", "cx", "r8", "r9")
RESULT, STACK = "ax", "sp"

_CONDITIONS = {
    "e": "==", "ne": "!=", "l": "<", "le": "<=", "g": ">", "ge": ">=",
    "b": "u<", "be": "u<=", "a": "u>", "ae": "u>=", "s": "<", "ns": ">=",
}  # fmt: skip
_WIDTHS = {"b": 8, "w": 16, "l": 32, "q": 64}
_BINARY = {"add": "+", "sub": "-", "and": "&", "or": "|", "xor": "^", "imul": "*", "sbb": "-"}
_UNARY = {"inc": "{} + 1", "dec": "{} - 1", "neg": "-{}", "not": "~{}"}
_SHIFTS = ("shl", "sal", "shr", "sar")


def statements(instruction: Instruction) -> list[str]:
    """Return the effect of an instruction on integer registers, memory and flags.

    Raises
    ------
    UnknownInstructionError
        If it is not one of those that LLVM generates for loops.
    """
    name, operands = instruction.name, list(instruction.operands)
    places = [text for text in operands if text[-1] == ")" and "%rsp" not in text]
    touched = [touch(_address(text)) for text in places if not name.startswith("lea")]
    if name[0] == "v" or name.startswith(("prefetch", "nop")):
        if operands and re.match(r"%[re]?[a-ds]", operands[-1]):
            raise UnknownInstructionError(str(instruction))
        return touched
    return touched + _integers(instruction)


def _integers(instruction: Instruction) -> list[str]:
    name, operands = instruction.name, list(instruction.operands)
    if name in ("cltq", "cltd", "cqto"):
        return _extend(name)
    if name.startswith("push"):
        return ["r['sp'] -= 8", f"m[r['sp']] = {_read(operands[0], 64)}"]
    if name.startswith("pop"):
        return [_write(operands[0], "load(r['sp'])", 64), "r['sp'] += 8"]
    if name.startswith("set"):
        return [_write(operands[0], f"int({condition(_CONDITIONS[name[3:]])})", 8)]
    if move := re.match(r"mov([sz])([bwl])([wlq])$", name):
        value = _read(operands[0], _WIDTHS[move[2]])
        taken = signed(value, _WIDTHS[move[2]]) if move[1] == "s" else value
        return [_write(operands[1], taken, _WIDTHS[move[3]])]
    if move := re.match(r"cmov([a-z]+?)([wlq])$", name):
        bits = _WIDTHS[move[2]]
        old, new = _read(operands[1], bits), _read(operands[0], bits)
        value = f"({new} if {condition(_CONDITIONS[move[1]])} else {old})"
        return [_write(operands[1], value, bits)]
    return _arithmetic(instruction)


def branch(instruction: Instruction) -> tuple[str, str] | None:
    """Return a conditional jump's condition and its target."""
    if instruction.name[0] == "j" and instruction.name != "jmp":
        return condition(_CONDITIONS[instruction.name[1:]]), instruction.operands[0]
    return None


def jump(instruction: Instruction) -> str | None:
    """Return the target of an unconditional jump."""
    return instruction.operands[0] if instruction.name == "jmp" else None


def call(instruction: Instruction) -> str | None:
    """Return the expression of the address that an instruction calls."""
    if instruction.name not in ("call", "callq"):
        return None
    (target,) = instruction.operands
    return _read(target[1:], 64) if target[0] == "*" else f"symbol({target!r})"


def is_return(instruction: Instruction) -> bool:
    """Return whether an instruction returns from the function."""
    return instruction.name in ("ret", "retq")


def _arithmetic(instruction: Instruction) -> list[str]:
    name, operands = instruction.name, list(instruction.operands)
    stem, bits = name[:-1], _WIDTHS.get(name[-1], 0)
    if not bits:
        raise UnknownInstructionError(str(instruction))
    if stem in ("mov", "movabs"):
        return [_write(operands[1], _read(operands[0], bits), bits)]
    if stem == "lea":
        return [_write(operands[1], _address(operands[0]), bits)]
    if stem in ("cmp", "test"):
        right, left = (_read(operand, bits) for operand in operands)
        pair = (left, right) if stem == "cmp" else (f"{left} & {right}", "0")
        return [_flags(*pair, bits)]
    if stem in _UNARY:
        value = _UNARY[stem].format(_read(operands[0], bits))
        return _result(operands[0], value, bits, flags=stem != "not")
    if stem in _SHIFTS:
        amount = _read(operands[0], 8) if len(operands) == 2 else "1"
        value = _read(operands[-1], bits)
        value = signed(value, bits) if stem == "sar" else value
        operator = "<<" if stem in ("shl", "sal") else ">>"
        return _result(operands[-1], f"{value} {operator} ({amount} & {bits - 1})", bits)
    if stem == "mulx":
        return [
            f"product = {_read(operands[0], bits)} * {_read('%rdx', bits)}",
            _write(operands[1], "product", bits),
            _write(operands[2], f"product >> {bits}", bits),
        ]
    if stem in ("idiv", "div"):
        if stem == "div" or bits != 32:
            raise UnknownInstructionError(str(instruction))
        whole = signed(mask("r['dx']", 32) + " << 32 | " + mask("r['ax']", 32), 64)
        divisor = signed(_read(operands[0], 32), 32)
        return [
            f"quotient, rest = divide_with_rest({whole}, {divisor})",
            f"r['ax'], r['dx'] = {mask('quotient', 32)}, {mask('rest', 32)}",
        ]
    if stem in _BINARY and len(operands) >= 2:
        if operands[0] == operands[1] and stem == "xor":
            return _result(operands[1], "0", bits)
        left, right = (_read(operand, bits) for operand in (operands[1], operands[0]))
        if stem == "sbb":
            return [_write(operands[1], f"{left} - {right} - ({condition('u<')})", bits)]
        if stem == "sub":
            return [_flags(left, right, bits), _write(operands[1], f"{left} - {right}", bits)]
        value = f"{left} {_BINARY[stem]} {right}"
        return _result(operands[-1], value, bits)
    raise UnknownInstructionError(str(instruction))


def _extend(name: str) -> list[str]:
    low = signed(mask("r['ax']", 32), 32)
    if name == "cltq":
        return [f"r['ax'] = {mask(low, 64)}"]
    if name == "cltd":
        return [f"r['dx'] = {mask(f'{low} >> 32', 32)}"]
    high = mask(signed("r['ax']", 64) + " >> 64", 64)
    return [f"r['dx'] = {high}"]


def _register(text: str) -> tuple[str, int]:
    """Return a register's key and its width in bits."""
    name = text.lstrip("%")
    if numbered := re.match(r"r(\d+)([bwd]?)$", name):
        return f"r{numbered[1]}", {"": 64, "d": 32, "w": 16, "b": 8}[numbered[2]]
    if name[0] in "re" and len(name) == 3:
        return name[1:], 64 if name[0] == "r" else 32
    if len(name) == 2 and name[1] == "l":
        return f"{name[0]}x", 8
    if len(name) == 3 and name[2] == "l":
        return name[:2], 8
    if len(name) == 2 and name[1] != "h":
        return name, 16
    raise UnknownInstructionError(text)


def _address(text: str) -> str:
    parts = re.match(r"([^(]*)(?:\(([^)]*)\))?$", text)
    if parts is None:
        raise UnknownInstructionError(text)
    inside = [part.strip() for part in (parts[2] or "").split(",")]
    if inside[0] == "%rip":
        return f"symbol({parts[1].partition('@')[0]!r})"
    terms = [str(int(parts[1], 0)) if parts[1] else "0"]
    if inside[0]:
        terms.append(f"r['{_register(inside[0])[0]}']")
    if len(inside) > 1:
        scale = inside[2] if len(inside) > 2 else "1"
        terms.append(f"r['{_register(inside[1])[0]}'] * {scale}")
    return mask("(" + " + ".join(terms) + ")", 64)


def _read(operand: str, bits: int) -> str:
    if operand[0] == "$":
        return str(int(operand[1:], 0) & (1 << bits) - 1)
    if operand[0] == "%":
        return mask(f"r['{_register(operand)[0]}']", bits)
    return mask(f"load({_address(operand)})", bits)


def _write(operand: str, value: str, bits: int) -> str:
    if operand[0] != "%":
        return f"m[{_address(operand)}] = {mask(f'({value})', bits)}"
    key = f"r['{_register(operand)[0]}']"
    if bits < 32:
        # The rest of the register is unchanged.
        return f"{key} = {key} & {(1 << 64) - (1 << bits)} | {mask(f'({value})', bits)}"
    return f"{key} = {mask(f'({value})', bits)}"


def _flags(left: str, right: str, bits: int) -> str:
    return f"f[:] = {mask(f'({left})', bits)}, {mask(right, bits)}, {bits}"


def _result(operand: str, value: str, bits: int, flags: bool = True) -> list[str]:
    """Return statements that write a result and compare it with zero."""
    made = [f"value = {value}", _write(operand, "value", bits)]
    return [*made, _flags("value", "0", bits)] if flags else made
