"""Helpers to compose the Python statements that `trace` executes.

Registers are in the dict `r`, memory in the dict `m`. The list `f` represents the flags by the two
compared numbers and their width in bits. `t` is called with each cache line that is touched, except
for the stack.
"""

from __future__ import annotations

#: Bytes of a cache line, on all targets.
LINE_BYTES = 64


class UnknownInstructionError(Exception):
    """An instruction that `trace` cannot translate."""


def mask(value: str, bits: int) -> str:
    """Return the expression of the low bits of a value."""
    return f"({value} & {(1 << bits) - 1})"


def signed(value: str, bits: int) -> str:
    """Return the expression of an unsigned value of `bits` bits reinterpreted as signed."""
    return f"(({value} ^ {1 << bits - 1}) - {1 << bits - 1})"


def condition(relation: str) -> str:
    """Return the expression that tests the compared numbers: `<` is signed, `u<` unsigned."""
    if relation in ("==", "!="):
        return f"f[0] {relation} f[1]"
    if relation[0] == "u":
        return f"f[0] {relation[1:]} f[1]"
    return f"as_signed(f[0], f[2]) {relation} as_signed(f[1], f[2])"


def touch(address: str) -> str:
    """Return the statement that records an accessed cache line."""
    return f"t(({address}) // {LINE_BYTES})"
