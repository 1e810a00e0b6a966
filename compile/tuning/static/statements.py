"""Pieces of the Python statements that `trace` makes of instructions.

Registers are in the dict `r`, memory is in `m`. Flags are the two numbers that were compared and
their width in bits, in the list `f`. `t` gets the cache lines that are touched, the stack's not.
"""

from __future__ import annotations

#: Of all machines that are targets.
LINE_BYTES = 64


class UnknownInstructionError(Exception):
    """An instruction that is not translated."""


def mask(value: str, bits: int) -> str:
    """Return the expression of a value's low bits."""
    return f"({value} & {(1 << bits) - 1})"


def signed(value: str, bits: int) -> str:
    """Return the expression of what an unsigned value of so many bits means if it is signed."""
    return f"(({value} ^ {1 << bits - 1}) - {1 << bits - 1})"


def condition(relation: str) -> str:
    """Return the expression of how the compared numbers relate: `<` signed, `u<` unsigned."""
    if relation in ("==", "!="):
        return f"f[0] {relation} f[1]"
    if relation[0] == "u":
        return f"f[0] {relation[1:]} f[1]"
    return f"as_signed(f[0], f[2]) {relation} as_signed(f[1], f[2])"


def touch(address: str) -> str:
    """Return the statement that tells a cache line."""
    return f"t(({address}) // {LINE_BYTES})"
