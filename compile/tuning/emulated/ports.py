"""Cycles of instructions by the ports of ARM cores: what each occupies, without latencies.

A block of instructions takes as long as its busiest port, as in a loop whose iterations overlap. So
the sum over all blocks is a lower bound: no instruction waits for the result of another, all
branches are predicted and all data are in the first-level cache.

Sources: LLVM's scheduling models of the Neoverse N1, which has the A76's pipelines, of the A57,
which has the A72's, and of the A55. They follow Arm's software optimisation guides of these cores,
and say more than the guides do about which ports an instruction occupies. That the A55 and the A53
load 64 bits a cycle, and what keeps their multiply-adds from starting: the sources that
`tests/helpers/llvm_mca.py` names. The A53, of which there is no guide, is else like the A55.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from mobilenet_tvm.compile.tuning.emulated.decode import CLASSES, Kind, accumulates, written


@dataclass(frozen=True)
class Core:
    """How many instructions a core starts in a cycle.

    Parameters
    ----------
    width : int
        Instructions of any kind.
    ports : mapping
        How many instructions each port starts in a cycle. A port may be part of another one.
    uses : mapping
        The ports that an instruction occupies, by the names of `decode.CLASSES`: for vectors of
        64 bits and, after a bar, of 128 bits. `2V` is two cycles of V.
    load_bytes, store_bytes : int
        What a port that loads or stores moves in a cycle.
    accumulation : int
        Cycles from a multiply-add to one that adds to its result.
    blocking_bytes : int, optional
        The width of a register from which on no vector operation starts beside its load.
    """

    width: int
    ports: Mapping[str, int]
    uses: Mapping[str, str]
    load_bytes: int
    store_bytes: int
    accumulation: int
    blocking_bytes: int | None = None


#: Two vector units of 64 bits, and one port for each of loads, stores and branches. What goes to
#: both units at once is one vector of 128 bits.
_IN_ORDER_USES = {
    "float": "V | 2V",
    "float divide": "10D | 20D",
    "convert": "V | 2V",
    "dot": "V | 2V",
    "multiply": "V | 2V",
    "multiply long": "2V",
    "shift": "V | 2V",
    "accumulate": "V | 2V",
    "zip": "V | 2V",
    "table": "V | 2V",
    "from integer": "V | 2V",
    "to integer": "V",
    "vector other": "V | 2V",
    "vector load": "L",
    "vector load lane": "L",
    "vector store": "S",
    "load": "L",
    "store": "S",
    "integer": "I",
    "integer multiply": "M",
    "integer divide": "8M",
    "branch": "B",
}

CORES = {
    "cortex-a53": Core(
        width=2,
        ports={"I": 2, "M": 1, "B": 1, "V": 2, "D": 1, "L": 1, "S": 1},
        # One instruction a cycle has an address.
        uses=_IN_ORDER_USES | {"store": "L", "vector store": "L"},
        load_bytes=8,
        store_bytes=16,
        accumulation=4,
        blocking_bytes=1,
    ),
    "cortex-a55": Core(
        width=2,
        ports={"I": 2, "M": 1, "B": 1, "V": 2, "D": 1, "L": 1, "S": 1},
        uses=_IN_ORDER_USES,
        load_bytes=8,
        store_bytes=16,
        accumulation=4,
        blocking_bytes=16,
    ),
    "cortex-a72": Core(
        width=3,
        # V is F0, which multiplies integers, and F1, which shifts.
        ports={"I": 2, "M": 1, "B": 1, "V": 2, "F0": 1, "F1": 1, "L": 1, "S": 1},
        uses={
            # Floats are computed in two units of 64 bits.
            "float": "V | 2V",
            "float divide": "V 8F0 | 2V 16F0",
            "convert": "V | 2V",
            "multiply": "V F0 | 2V 2F0",
            "multiply long": "V F0",
            "shift": "V F1",
            "accumulate": "V F1",
            "zip": "V | 3V",
            "table": "V | 3V",
            "from integer": "V L",
            "to integer": "I L",
            "vector other": "V",
            "vector load": "L",
            "vector load lane": "L V",
            "vector store": "S",
            "load": "L",
            "store": "S",
            "integer": "I",
            "integer multiply": "M",
            "integer divide": "12M",
            "branch": "B",
        },
        load_bytes=16,
        store_bytes=8,
        accumulation=3,
    ),
    "cortex-a76": Core(
        width=4,
        # I is two ports for simple operations, and M; V is V0 and V1.
        ports={"I": 3, "M": 1, "B": 1, "V": 2, "V0": 1, "V1": 1, "L": 2},
        uses={
            "float": "V",
            "float divide": "7V 7V0",
            "convert": "V V0 | 2V 2V0",
            "dot": "V",
            "multiply": "V V0 | 2V 2V0",
            "multiply long": "V V0",
            "shift": "V V1",
            "accumulate": "V V1",
            "zip": "V",
            "table": "V",
            "from integer": "I M",
            "to integer": "V V1",
            "vector other": "V",
            "vector load": "L",
            "vector load lane": "L V",
            # A store has two parts of its address, and its data come through V.
            "vector store": "L V",
            "load": "L",
            "store": "L",
            "integer": "I",
            "integer multiply": "I M",
            "integer divide": "12I 12M",
            "branch": "B",
        },
        load_bytes=16,
        store_bytes=8,
        accumulation=2,
    ),
}


def busy(core: str, instructions: Iterable[tuple[Kind, int]]) -> dict[str, float]:
    """Return the cycles for which a block keeps each port of a core busy, and its width.

    Parameters
    ----------
    core : str
        One of `CORES`.
    instructions : iterable of (Kind, int)
        The kinds of its instructions, and how many there are of each.
    """
    model = CORES[core]
    total, found = 0, dict.fromkeys(model.ports, 0.0)
    for kind, number in instructions:
        total += number
        for port, each in occupied(core, kind).items():
            found[port] += number * each / model.ports[port]
    return found | {"width": total / model.width}


def chain(core: str, words: Iterable[int]) -> float:
    """Return the cycles in which the multiply-adds of a block wait for each other.

    Only sums that come from before the block and go on after it count; other chains overlap.
    """
    length, others = Counter[int](), set[int]()
    for word in words:
        if accumulates(word):
            length[word & 31] += 1
        else:
            others.update(written(word))
    carried = (number for register, number in length.items() if register not in others)
    return CORES[core].accumulation * max(carried, default=0)


@cache
def occupied(core: str, kind: Kind) -> dict[str, float]:
    """Return the cycles for which an instruction occupies each port of a core."""
    model = CORES[core]
    narrow, _, wide = model.uses[kind.name].partition("|")
    uses = re.findall(r"(\d*)([A-Z]\d?)", wide if wide and kind.bytes >= 16 else narrow)
    found = {port: float(count or 1) for count, port in uses}
    moves, width = CLASSES[kind.name].split()[-1], kind.bytes // kind.registers
    if moves in ("loads", "stores"):
        port_bytes = model.load_bytes if moves == "loads" else model.store_bytes
        times = math.ceil(kind.bytes / port_bytes)
        found = {port: times * each for port, each in found.items()}
        blocks = model.blocking_bytes
        if kind.name.startswith("vector load") and blocks and width >= blocks:
            found["V"] = float(times * model.ports["V"])
    elif kind.name == "table":
        found = {port: kind.registers * each for port, each in found.items()}
    return found
