"""Translates integer instructions of 64-bit ARM to Python statements for `trace`."""

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
ARGUMENTS = tuple(f"x{number}" for number in range(8))
RESULT, STACK = "x0", "sp"

#: The relation of the compared numbers that each condition code tests.
_CONDITIONS = {
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "lo": "u<", "cc": "u<", "ls": "u<=", "hi": "u>", "hs": "u>=", "cs": "u>=",
    "mi": "<", "pl": ">=",
}  # fmt: skip
_OPPOSITE = {
    "==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">",
    "u<": "u>=", "u>=": "u<", "u>": "u<=", "u<=": "u>",
}  # fmt: skip
#: Pairs of numbers whose comparison sets the flags of an NZCV immediate.
_FLAGS = {0: (1, -1), 2: (1, 0), 4: (0, 0), 6: (0, 0), 8: (0, 1)}
_INTEGER = re.compile(r"([xw])(\d+|zr)$|w?sp$")
_BINARY = {
    "add": "+",
    "sub": "-",
    "and": "&",
    "orr": "|",
    "eor": "^",
    "mul": "*",
    "orn": "| ~",
    "bic": "& ~",
}
_FLAGGED = {"adds": "add", "subs": "sub", "ands": "and"}


def statements(instruction: Instruction) -> list[str]:
    """Return the effect of an instruction on integer registers, memory and flags.

    Raises
    ------
    UnknownInstructionError
        If it is not one of those that LLVM generates for loops.
    """
    name, operands = instruction.name, list(instruction.operands)
    if name == "nop":
        return []
    if any(operand.startswith("[") for operand in operands):
        return _memory(name, operands)
    if name == "cmp":
        return _compare(operands[0], _right(operands[1:], operands[0]), operands[0])
    if name == "cmn":
        return _compare(operands[0], f"-({_right(operands[1:], operands[0])})", operands[0])
    if name == "tst":
        both = f"{_read(operands[0])} & {_right(operands[1:], operands[0])}"
        return _flags(both, "0", _bits(operands[0]))
    if name in ("ccmp", "ccmn"):
        return _conditional_compare(name, operands)
    target = operands[0]
    if not _INTEGER.match(target):
        if name.startswith("fcmp"):
            raise UnknownInstructionError(str(instruction))
        return []
    if name in _FLAGGED:
        simple = Instruction(_FLAGGED[name], tuple(operands))
        left, right = operands[1], _right(operands[2:], operands[1])
        flags = {
            "subs": lambda: _compare(left, right, left),
            "adds": lambda: _compare(left, f"-({right})", left),
            "ands": lambda: _flags(f"{_read(left)} & {right}", "0", _bits(left)),
        }[name]()
        return flags if target in ("xzr", "wzr") else flags + statements(simple)
    return [_write(target, _value(name, operands, str(instruction)))]


def branch(instruction: Instruction) -> tuple[str, str] | None:
    """Return a conditional jump's condition and its target."""
    name, operands = instruction.name, instruction.operands
    if name.startswith("b."):
        return condition(_CONDITIONS[name[2:]]), operands[0]
    if name in ("cbz", "cbnz"):
        return f"{_read(operands[0])} {'==' if name == 'cbz' else '!='} 0", operands[1]
    if name in ("tbz", "tbnz"):
        bit = f"{_read(operands[0])} >> {operands[1].lstrip('#')} & 1"
        return f"({bit}) == {int(name == 'tbnz')}", operands[2]
    return None


def jump(instruction: Instruction) -> str | None:
    """Return the target of an unconditional jump."""
    return instruction.operands[0] if instruction.name == "b" else None


def call(instruction: Instruction) -> str | None:
    """Return the expression of the address that an instruction calls."""
    if instruction.name == "blr":
        return _read(instruction.operands[0])
    return f"symbol({instruction.operands[0]!r})" if instruction.name == "bl" else None


def is_return(instruction: Instruction) -> bool:
    """Return whether an instruction returns from the function."""
    return instruction.name == "ret"


def _bits(register: str) -> int:
    return 32 if register.startswith("w") else 64


def _read(register: str) -> str:
    if register in ("xzr", "wzr"):
        return "0"
    if register in ("sp", "wsp"):
        return "r['sp']"
    whole = f"r['x{register[1:]}']"
    return mask(whole, 32) if register[0] == "w" else whole


def _write(register: str, value: str) -> str:
    if register in ("xzr", "wzr"):
        return "pass"
    key = "sp" if register == "sp" else f"x{register[1:]}"
    return f"r['{key}'] = {mask(value, _bits(register))}"


def _number(text: str) -> str:
    return str(int(text.lstrip("#"), 0))


def _right(operands: list[str], like: str) -> str:
    """Return the last operand: a number or a register, optionally shifted or extended."""
    text = operands[0]
    if text.startswith(":"):
        # The low part of a symbol's address; `adrp` has already given the full address.
        return "0"
    value = _number(text) if text[0] == "#" else _read(text)
    if len(operands) == 1:
        return value
    kind, _, amount = operands[1].partition(" ")
    shift = _number(amount) if amount else "0"
    bits = _bits(like)
    return {
        "lsl": f"({value} << {shift})",
        "lsr": f"({value} >> {shift})",
        "asr": f"({signed(value, bits)} >> {shift})",
        "sxtw": f"({signed(mask(value, 32), 32)} << {shift})",
        "uxtw": f"({mask(value, 32)} << {shift})",
        "uxtb": f"({mask(value, 8)} << {shift})",
    }[kind]


def _flags(left: str, right: str, bits: int) -> list[str]:
    return [f"f[:] = {mask(left, bits)}, {mask(right, bits)}, {bits}"]


def _compare(left: str, right: str, like: str) -> list[str]:
    return _flags(_read(left), right, _bits(like))


def _conditional_compare(name: str, operands: list[str]) -> list[str]:
    left, right, otherwise, when = operands
    value = _right([right], left)
    (then,) = _compare(left, f"-({value})" if name == "ccmn" else value, left)
    one, two = _FLAGS[int(_number(otherwise)) & 14]
    (other,) = _flags(str(one), str(two), _bits(left))
    return [f"if {condition(_CONDITIONS[when])}:", f"    {then}", "else:", f"    {other}"]


def _value(name: str, operands: list[str], shown: str) -> str:
    target, *rest = operands
    bits = _bits(target)
    if name in ("mov", "movz"):
        return _right(rest, target)
    if name in ("movn", "mvn"):
        return f"~({_right(rest, target)})"
    if name == "neg":
        return f"-({_right(rest, target)})"
    if name == "movk":
        places = int(_number(rest[1].partition(" ")[2])) if len(rest) > 1 else 0
        kept = ~(0xFFFF << places) & (1 << bits) - 1
        return f"{_read(target)} & {kept} | {int(_number(rest[0])) << places}"
    if name in ("adrp", "adr"):
        return f"symbol({rest[0].rpartition(':')[2]!r})"
    if name in ("sxtw", "uxtw"):
        low = mask(_read(rest[0]), 32)
        return signed(low, 32) if name == "sxtw" else low
    if name in _BINARY:
        return f"{_read(rest[0])} {_BINARY[name]} {_right(rest[1:], rest[0])}"
    if name in ("lsl", "lsr", "asr"):
        source = signed(_read(rest[0]), bits) if name == "asr" else _read(rest[0])
        return (
            f"{source} {'<<' if name == 'lsl' else '>>'} ({_right(rest[1:], target)} & {bits - 1})"
        )
    if name in ("madd", "msub"):
        product = f"{_read(rest[0])} * {_read(rest[1])}"
        return f"{_read(rest[2])} {'+' if name == 'madd' else '-'} {product}"
    if name in ("smull", "umull", "smaddl", "umaddl", "smsubl", "smulh", "umulh", "sdiv", "udiv"):
        return _wide(name, rest)
    if name in ("sbfiz", "ubfiz", "sbfx", "ubfx", "bfi", "bfxil"):
        return _field(name, target, rest)
    if name == "extr":
        shift = _number(rest[2])
        return f"({_read(rest[0])} << {bits} | {_read(rest[1])}) >> {shift}"
    if name in ("csel", "csinc", "csinv", "csneg"):
        other = {"csel": "{}", "csinc": "{} + 1", "csinv": "~{}", "csneg": "-{}"}[name]
        when = condition(_CONDITIONS[rest[2]])
        return f"({_read(rest[0])} if {when} else {other.format(_read(rest[1]))})"
    if name in ("cset", "csetm"):
        return f"({'1' if name == 'cset' else '-1'} if {condition(_CONDITIONS[rest[0]])} else 0)"
    if name == "cinc":
        return f"{_read(rest[0])} + ({condition(_CONDITIONS[rest[1]])})"
    raise UnknownInstructionError(shown)


def _wide(name: str, rest: list[str]) -> str:
    bits = _bits(rest[0])
    take = signed if name[0] == "s" else lambda value, _: value
    left, right = (take(_read(register), bits) for register in rest[:2])
    if name in ("sdiv", "udiv"):
        return f"divide({left}, {right})"
    product = f"{left} * {right}"
    return {
        "mull": product,
        "mulh": f"{product} >> 64",
        "maddl": f"{_read(rest[-1])} + {product}",
        "msubl": f"{_read(rest[-1])} - {product}",
    }[name[1:]]


def _field(name: str, target: str, rest: list[str]) -> str:
    source, low, width = _read(rest[0]), int(_number(rest[1])), int(_number(rest[2]))
    if name in ("sbfiz", "ubfiz"):
        part = mask(source, width)
        return f"{signed(part, width) if name[0] == 's' else part} << {low}"
    if name == "bfi":
        hole = ~(((1 << width) - 1) << low) & (1 << _bits(target)) - 1
        return f"{_read(target)} & {hole} | {mask(source, width)} << {low}"
    part = mask(f"({source} >> {low})", width)
    if name == "bfxil":
        return f"{_read(target)} & {~((1 << width) - 1) & (1 << _bits(target)) - 1} | {part}"
    return signed(part, width) if name[0] == "s" else part


def _memory(name: str, operands: list[str]) -> list[str]:
    place = next(index for index, text in enumerate(operands) if text.startswith("["))
    registers = [] if name == "prfm" else [text.strip("{} ") for text in operands[:place]]
    inside = re.split(r",\s*", operands[place].rstrip("!").strip("[]"))
    base = inside[0]
    offset = _right(inside[1:], base) if len(inside) > 1 else "0"
    after = operands[place + 1 :]
    found = []
    if operands[place].endswith("!"):
        found.append(_write(base, f"{_read(base)} + {offset}"))
        offset = "0"
    address = f"{_read(base)} + {offset}"
    size = 4 if name in ("ldrsw", "ldpsw") else 0
    if base != "sp":
        found.append(touch(address))
    for index, register in enumerate(registers):
        if not _INTEGER.match(register):
            continue
        at = f"{address} + {index * (size or _bits(register) // 8)}"
        if name.startswith("st"):
            found.append(f"m[{at}] = {_read(register)}")
        else:
            value = f"load({at})"
            found.append(_write(register, signed(mask(value, 32), 32) if size else value))
    if after:
        found.append(_write(base, f"{_read(base)} + {_right(after, base)}"))
    return found
