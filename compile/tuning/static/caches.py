"""Simulates the data caches of a core: two levels with least-recently-used replacement."""

from __future__ import annotations

from collections.abc import Sequence

from mobilenet_tvm.compile.tuning.static.statements import LINE_BYTES
from mobilenet_tvm.targets.target import Target


class Caches:
    """The data caches of one core.

    Writes fetch their line, as reads do. Lines that a hardware prefetcher would fetch count like
    all others, since bandwidth limits them too.

    Parameters
    ----------
    target : Target
        Determines the sizes and associativity.

    Attributes
    ----------
    from_l2, from_memory : int
        Misses of the first-level cache, and those of them that also missed the second-level one.
    """

    def __init__(self, target: Target) -> None:
        self._l1_ways, self._l2_ways = target.l1d_ways, target.l2_ways
        self._l1 = _sets(target.l1d_bytes, target.l1d_ways)
        self._l2 = _sets(target.l2_bytes, target.l2_ways)
        self.from_l2 = 0
        self.from_memory = 0

    def touch(self, lines: Sequence[int]) -> None:
        """Access cache lines, given by number, in order."""
        l1, l1_ways, l1_count = self._l1, self._l1_ways, len(self._l1)
        l2, l2_ways, l2_count = self._l2, self._l2_ways, len(self._l2)
        last = -1
        for line in lines:
            if line == last:
                continue
            last = line
            found = l1[line % l1_count]
            if line in found:
                if found[-1] != line:
                    found.remove(line)
                    found.append(line)
                continue
            found.append(line)
            if len(found) > l1_ways:
                del found[0]
            self.from_l2 += 1
            found = l2[line % l2_count]
            if line in found:
                found.remove(line)
            else:
                self.from_memory += 1
                if len(found) == l2_ways:
                    del found[0]
            found.append(line)

    def reset(self) -> None:
        """Reset the counters, but not the contents of the caches."""
        self.from_l2 = self.from_memory = 0


def _sets(size: int, ways: int) -> list[list[int]]:
    return [[] for _ in range(max(1, size // (LINE_BYTES * ways)))]
