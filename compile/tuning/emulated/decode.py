"""Classifies aarch64 instructions by what they occupy in a core.

The encodings are those of the Arm Architecture Reference Manual (DDI 0487), section C4.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Kind:
    """What an instruction does, as far as its cost depends on it.

    Parameters
    ----------
    name : str
        One of the names in `CLASSES`.
    bytes : int
        What it loads or stores, or the width of the vectors that it computes with.
    registers : int
        How many registers it loads, stores or looks up in.
    """

    name: str
    bytes: int = 8
    registers: int = 1


#: The class of each kind, as the table of results counts them.
CLASSES = {
    "float": "vector arithmetic",  # additions, products, comparisons
    "float divide": "vector arithmetic",  # and square roots
    "convert": "vector arithmetic",  # between float and integer, and rounding
    "dot": "vector arithmetic",  # SDOT, UDOT, SMMLA
    "multiply": "vector arithmetic",
    "multiply long": "vector arithmetic",
    "shift": "vector arithmetic",  # and saturating narrowing
    "accumulate": "vector arithmetic",  # pairwise or over a vector
    "zip": "vector arithmetic",
    "table": "vector arithmetic",
    "from integer": "vector arithmetic",  # an integer register to a vector register
    "to integer": "vector arithmetic",
    "vector other": "vector arithmetic",
    "vector load": "vector loads",
    "vector load lane": "vector loads",  # to one or to all lanes
    "vector store": "vector stores",
    "load": "scalar loads",
    "store": "scalar stores",
    "integer": "integer",
    "integer multiply": "integer",
    "integer divide": "integer",
    "branch": "branches",
}


@cache
def kind(word: int) -> Kind:
    """Return the kind of an instruction."""
    group = word >> 25 & 15
    if group & 5 == 4:
        return _memory(word)
    if group & 7 == 7:
        return _vector(word)
    if group >> 1 == 5 and word >> 22 != 0b1101010100:  # System instructions are no branches.
        return Kind("branch")
    if word >> 24 & 31 == 0b11011:
        return Kind("integer multiply")
    if word & 0x7FE0F800 == 0x1AC00800:
        return Kind("integer divide")
    return Kind("integer")


def accumulates(word: int) -> bool:
    """Return whether a vector instruction adds products of floats to its destination."""
    by_element = word & 0xBF00B400 == 0x0F001000
    return by_element or word & 0xBF20FC00 == 0x0E20CC00 or word & 0xBF60FC00 == 0x0E400C00


def written(word: int) -> tuple[int, ...]:
    """Return the vector registers that an instruction writes, of lists only the first."""
    found = kind(word)
    if not found.name.startswith("vector load") and (
        CLASSES[found.name] != "vector arithmetic" or found.name == "to integer"
    ):
        return ()
    pair = found.name == "vector load" and word >> 27 & 7 == 5
    return (word & 31, word >> 10 & 31) if pair else (word & 31,)


def _memory(word: int) -> Kind:
    """Return the kind of a load or store."""
    form, vector, size = word >> 27 & 7, word >> 26 & 1, word >> 30
    loads = bool(word >> 22 & 1)
    if vector and form == 1:
        return _structures(word, loads)
    registers, width = 1, 1 << size
    if form == 5:  # a pair
        registers = 2
        width = 4 << size if vector else 4 << (size >> 1)
    elif form == 3 and not word >> 24 & 1:  # relative to the program counter
        loads = True
        width = 4 << size if vector else 4 << (size & 1)
    elif form == 7:  # a register
        operation = word >> 22 & 3
        loads = bool(operation & 1) if vector else operation != 0
        if vector:
            width = 16 if operation & 2 else 1 << size
    name = ("vector " if vector else "") + ("load" if loads else "store")
    return Kind(name, width * registers, registers)


def _structures(word: int, loads: bool) -> Kind:
    """Return the kind of LD1 to LD4, ST1 to ST4 and LD1R to LD4R."""
    name, width = f"vector {'load' if loads else 'store'}", 8 << (word >> 30 & 1)
    if word >> 24 & 1:  # one lane, or all lanes with the same value
        registers = 1 + (word >> 12 & 2) + (word >> 21 & 1)
        scale = word >> 14 & 3
        replicates = scale == 3
        lane = 1 << (word >> 10 & 3 if replicates else scale + (scale == 2 and word >> 10 & 1))
        return Kind("vector load lane" if loads else name, lane * registers, registers)
    operation = word >> 12 & 15
    registers = {0: 4, 2: 4, 4: 3, 6: 3, 7: 1, 8: 2, 10: 2}.get(operation, 1)
    return Kind(name, width * registers, registers)


def _vector(word: int) -> Kind:
    """Return the kind of a vector or floating-point operation."""
    if word >> 28 & 1 and not word >> 30 & 1:
        return Kind(_scalar_float(word))
    width = 8 if word >> 28 & 1 else 8 << (word >> 30 & 1)
    unsigned, five, four = word >> 29 & 1, word >> 11 & 31, word >> 12 & 15
    if word >> 24 & 1:
        if not word >> 10 & 1:
            return _by_element(unsigned, four, width)
        if not word >> 19 & 15:
            return Kind("vector other", width)  # MOVI and other immediates
        if five in (0b11100, 0b11111):
            return Kind("convert", width)
        return Kind("shift", 16 if five == 0b10100 else width)
    if not word >> 21 & 1:
        return _copy_or_permute(word, unsigned, width)
    if word >> 10 & 1:
        return _three_same(word >> 22 & 2, unsigned, five, width)
    if word >> 10 & 3 == 0:  # three registers of different widths
        if four in (8, 9, 10, 11, 12, 13, 14):
            return Kind("multiply long", 16)
        return Kind("accumulate" if four == 5 else "vector other", 16)
    return Kind(_two_registers(word, unsigned), width)


def _by_element(unsigned: int, operation: int, width: int) -> Kind:
    if operation in (14, 15):
        return Kind("dot", width)
    if operation in (2, 3, 6, 7, 10, 11):
        return Kind("multiply long", 16)
    if operation in (1, 5, 9) or (operation in (0, 4) and not unsigned):
        return Kind("float", width)
    return Kind("multiply", width)


def _three_same(high: int, unsigned: int, operation: int, width: int) -> Kind:
    if operation >= 0b11000:
        divides = unsigned and operation == 0b11111 and not high
        return Kind("float divide" if divides else "float", width)
    if operation in (0b10010, 0b10011, 0b10110):
        return Kind("multiply", width)
    if operation in (0b01000, 0b01001, 0b01010, 0b01011):
        return Kind("shift", width)
    return Kind("accumulate" if operation == 0b01111 else "vector other", width)


def _copy_or_permute(word: int, unsigned: int, width: int) -> Kind:
    if word >> 10 & 1:
        if word >> 15 & 1:  # dot products, and others that came after Armv8.0
            operation = word >> 11 & 15
            if operation in (2, 3, 4, 5):
                return Kind("dot", width)
            return Kind("float" if operation >= 8 else "multiply", width)
        if word >> 22 & 1:  # float16
            divides = unsigned and word >> 11 & 7 == 7 and not word >> 23 & 1
            return Kind("float divide" if divides else "float", width)
        if not unsigned and word >> 11 & 15 in (1, 3):
            return Kind("from integer", width)
        if not unsigned and word >> 11 & 15 in (5, 7):
            return Kind("to integer", width)
        return Kind("vector other", width)
    if unsigned or word >> 15 & 1:
        return Kind("vector other", width)
    if word >> 11 & 1:
        return Kind("zip" if word >> 12 & 1 else "vector other", width)
    return Kind("table", width, 1 + (word >> 13 & 3))


def _two_registers(word: int, unsigned: int) -> str:
    operation = word >> 12 & 31
    if word >> 17 & 15 == 0b1000:
        return "accumulate"  # over all lanes
    if operation == 0b00110:
        return "accumulate"
    if operation in (0b10011, 0b10100) or (operation == 0b10010 and unsigned):
        return "shift"
    if operation == 0b11111:
        return "float divide"
    if 0b10110 <= operation <= 0b11101:
        return "convert"
    return "float" if 0b01100 <= operation <= 0b01111 else "vector other"


def _scalar_float(word: int) -> str:
    if word >> 24 & 1:
        return "float"  # multiply-add
    if not word >> 21 & 1:
        return "convert"
    last = word >> 10 & 63
    if last & 3 == 2:
        return "float divide" if last >> 2 == 1 else "float"
    if last == 0:  # between integer and float registers
        return "from integer" if word >> 16 & 7 in (2, 3, 7) else "to integer"
    if last & 31 == 0b10000:
        operation = word >> 15 & 63
        if operation == 3:
            return "float divide"
        return "convert" if operation >= 4 else "vector other"
    return "vector other" if last & 7 == 4 else "float"
