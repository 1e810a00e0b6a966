"""Sums up what `counter.c` counted: instructions by class, cycles and bytes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from mobilenet_tvm.compile.tuning.emulated import ports
from mobilenet_tvm.compile.tuning.emulated.decode import CLASSES, kind

#: Bytes of a cache line, on all cores.
LINE_BYTES = 64


@dataclass(frozen=True)
class Block:
    """Instructions that run one after the other.

    Parameters
    ----------
    address : int
        Of the first one.
    executions : int
        How often they ran.
    from_l2, from_memory : int
        Cache lines that all runs took from the second-level cache, and those that came from memory.
    words : tuple of int
        The instructions.
    """

    address: int
    executions: int
    from_l2: int
    from_memory: int
    words: tuple[int, ...]


@dataclass
class Counts:
    """What a program, or a part of it, executes.

    Parameters
    ----------
    classes : Counter of str
        Instructions by class, one of the values of `decode.CLASSES`.
    cycles : float
        At least so many by the ports of the core.
    busy : dict of str to float
        Cycles for which each port, and the core's width, is busy.
    chain : float
        Cycles in which multiply-adds wait for the sums that they add to.
    l2_bytes, memory_bytes : float
        Bytes that come from the second-level cache, and from memory.
    """

    classes: Counter[str] = field(default_factory=Counter)
    cycles: float = 0.0
    busy: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    chain: float = 0.0
    l2_bytes: float = 0.0
    memory_bytes: float = 0.0

    def add(self, block: Block, core: str) -> None:
        """Add the runs of a block on a core."""
        kinds = Counter(map(kind, block.words))
        for each, number in kinds.items():
            self.classes[CLASSES[each.name]] += number * block.executions
        busy = ports.busy(core, kinds.items())
        self.cycles += block.executions * max(busy.values())
        for port, cycles in busy.items():
            self.busy[port] += block.executions * cycles
        self.chain += block.executions * ports.chain(core, block.words)
        self.l2_bytes += LINE_BYTES * block.from_l2
        self.memory_bytes += LINE_BYTES * block.from_memory

    def per(self, inferences: int) -> dict[str, float]:
        """Return the numbers of one inference as JSON's types."""
        numbers = {
            "total": self.classes.total(),
            **{name: self.classes[name] for name in CLASSES.values()},
            "cycles": self.cycles,
            "l2_bytes": self.l2_bytes,
            "memory_bytes": self.memory_bytes,
        }
        return {name: number / inferences for name, number in numbers.items()}


def parse(text: str) -> dict[int, list[Block]]:
    """Read the file that the plug-in wrote: the blocks of all sections of the same number."""
    found: dict[int, list[Block]] = {}
    for line in text.splitlines():
        if line.startswith("section "):
            section = found.setdefault(int(line.split()[1]), [])
        else:
            address, executions, l2, memory, *words = (int(word, 16) for word in line.split())
            section.append(Block(address, executions, l2, memory, tuple(words)))
    return found


def count(blocks: Iterable[Block], core: str) -> Counts:
    """Return the sum of blocks on a core, one of `ports.CORES`."""
    found = Counts()
    for block in blocks:
        found.add(block, core)
    return found


def within(blocks: Iterable[Block], maps: str, library: str) -> list[Block]:
    """Return the blocks of a library's code.

    Parameters
    ----------
    blocks : iterable of Block
        Those of a process.
    maps : str
        Its /proc/self/maps.
    library : str
        The name of the library's file.
    """
    lines = [line.split() for line in maps.splitlines() if line.endswith(f"/{library}")]
    edges = [int(edge, 16) for line in lines for edge in line[0].split("-")]
    return [block for block in blocks if min(edges) <= block.address < max(edges)]
