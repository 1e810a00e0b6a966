"""The limit that control groups, as containers have them, set to a process's time on the CPUs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def cpu_quota() -> float:
    """Return how many CPUs' time this process may use.

    Returns
    -------
    float
        Such as 1.5 in a container with ``--cpus 1.5``; infinite without a limit, or where the
        kernel does not tell.

    References
    ----------
    Linux, Documentation/admin-guide/cgroup-v2.rst (cpu.max) and scheduler/sched-bwc.rst (version 1:
    cpu.cfs_quota_us, cpu.cfs_period_us).
    """
    # Every group that this process's group is in has a limit of its own.
    return min(map(_quota_of, _groups()), default=float("inf"))


def _groups() -> Iterator[Path]:
    """Yield the folders of this process's group, and of those that it is in."""
    # In a container, its own group is often where the tree is mounted, under another path.
    yield _MOUNT
    yield _MOUNT / "cpu"
    for line in _read(_OWN).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = _MOUNT
        elif "cpu" in controllers.split(","):
            root = _MOUNT / controllers
        else:
            continue
        parts = Path(path.strip("/")).parts
        yield from (root.joinpath(*parts[:count]) for count in range(len(parts) + 1))


def _quota_of(group: Path) -> float:
    text = _read(group / "cpu.max") or (
        f"{_read(group / 'cpu.cfs_quota_us')} {_read(group / 'cpu.cfs_period_us')}"
    )
    try:
        quota, period = map(int, text.split())
    except ValueError:
        # 'max', or no such file.
        return float("inf")
    return quota / period if quota > 0 and period > 0 else float("inf")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
