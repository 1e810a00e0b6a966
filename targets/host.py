"""Detection of this machine by Linux: architecture, CPU features, cores and caches."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
from collections.abc import Collection
from pathlib import Path

from mobilenet_tvm.targets.cgroup import cpu_quota
from mobilenet_tvm.targets.errors import UserError

_CPUS = Path("/sys/devices/system/cpu")
_CPUINFO = Path("/proc/cpuinfo")
# The board's name, where the firmware gives one.
_BOARD = Path("/proc/device-tree/model")

# Types of the auxiliary vector's entries, from Linux's include/uapi/linux/auxvec.h.
_AT_HWCAP = 16
_AT_HWCAP2 = 26

# Bit n of the entry stands for the n-th name, from Linux's arch/arm64/kernel/cpuinfo.c.
_HWCAP = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma "
    "lrcpc dcpop sha3 sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb paca pacg"
)
_HWCAP2 = (
    "dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm "
    "svebf16 i8mm bf16 dgh rng bti mte ecv afp rpres mte3 sme"
)

# From Linux's arch/x86/include/uapi/asm/prctl.h, and the state component of AMX's tiles.
_SYS_ARCH_PRCTL = 158
_ARCH_REQ_XCOMP_PERM = 0x1023
_XFEATURE_XTILEDATA = 18

# The implementer code of Arm's own cores, from the Arm architecture's MIDR_EL1.
_ARM_LTD = 0x41

# A MobileNet's layers take microseconds: more threads cost more to start than they save.
_MAX_DEFAULT_THREADS = 8


def architecture() -> str:
    """Return the architecture that this process runs on.

    Returns
    -------
    str
        ``"x86_64"`` or ``"aarch64"``; for any other, the kernel's name for it. A 32-bit
        process on a 64-bit kernel gets the 32-bit name.
    """
    machine = os.uname().machine.lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    if sys.maxsize < 2**32:
        return {"x86_64": "i386", "aarch64": "arm"}.get(machine, machine)
    return machine


def machine_name() -> str:
    """Return the name of this machine: the board's, or the CPU model's.

    Returns
    -------
    str
        Such as ``"Raspberry Pi 4 Model B Rev 1.4"`` or ``"AMD EPYC, family 25, model 17"``.
    """
    board = _read(_BOARD).strip("\0\n ")
    if board:
        return board
    facts = dict(re.findall(r"^(model name|cpu family|model)\s*: (.+)$", _read(_CPUINFO), re.M))
    name = facts.get("model name")
    if not name:
        return architecture()
    numbers = [
        f"{k.removeprefix('cpu ')} {facts[k]}" for k in ("cpu family", "model") if k in facts
    ]
    return ", ".join([name.strip(), *numbers])


def cpu_features() -> frozenset[str]:
    """Return the features of this machine's CPU, spelled as in ``/proc/cpuinfo``.

    Returns
    -------
    frozenset of str
        On x86-64 the flags (``avx2``, ``fma``, ``avx512f``), on aarch64 the hardware
        capabilities (``asimd``, ``asimddp``, ``fphp``), on other machines nothing.

    Raises
    ------
    UserError
        On x86-64, if ``/proc`` is not mounted.

    Notes
    -----
    On aarch64 the capabilities come from the process's auxiliary vector, because an emulator may
    show the host's ``/proc/cpuinfo``.
    """
    if architecture() == "x86_64":
        flags = re.search(r"^flags\s*:(.*)$", _read(_CPUINFO), re.MULTILINE)
        if flags is None:
            raise UserError(f"{_CPUINFO} does not tell what this CPU can do; mount /proc")
        found = frozenset(flags[1].split())
        return found if permit_tiles() else found - {"amx_bf16", "amx_int8", "amx_tile"}
    if architecture() == "aarch64":
        getauxval = ctypes.CDLL(None).getauxval
        getauxval.argtypes, getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
        return _names(getauxval(_AT_HWCAP), _HWCAP) | _names(getauxval(_AT_HWCAP2), _HWCAP2)
    return frozenset()


def hardware_capabilities(features: Collection[str]) -> dict[int, int]:
    """Return where an aarch64 process finds features in its auxiliary vector.

    Parameters
    ----------
    features : collection of str
        As `cpu_features` spells them.

    Returns
    -------
    dict of int to int
        The bits of the features, by the type of the entry that holds them.
    """
    entries: dict[int, int] = {}
    for entry, names in ((_AT_HWCAP, _HWCAP), (_AT_HWCAP2, _HWCAP2)):
        bits = sum(1 << bit for bit, name in enumerate(names.split()) if name in features)
        if bits:
            entries[entry] = bits
    return entries


@functools.cache
def permit_tiles() -> bool:
    """Ask the kernel for the use of AMX's tile registers in this process and its threads, once.

    Without it their first use ends the process (source: Linux, Documentation/arch/x86/xstate.rst).

    Returns
    -------
    bool
        Whether they may be used; False where there are none.
    """
    if architecture() != "x86_64" or sys.platform != "linux":
        return False
    status = ctypes.CDLL(None).syscall(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA)
    return bool(status == 0)


def core_count() -> int:
    """Return how many logical CPUs this process may use, given its affinity."""
    return len(_usable_cpus())


def default_threads() -> int:
    """Return how many threads suit a MobileNet on this machine.

    Returns
    -------
    int
        The number of fast physical cores that this process may use, at most 8. Hardware
        threads that share a core count once, since one alone keeps the core's multipliers
        busy. Cores with less than half the capacity of the largest do not count, since
        layers are split evenly and would wait for them. In a container with a limit of CPU time
        there are no more than that lasts for, since Linux stops all threads once it is used up.
    """
    capacities = {cpu: _read_int(_CPUS / f"cpu{cpu}/cpu_capacity") for cpu in _usable_cpus()}
    largest = max(capacities.values())
    cores = {
        _read(_CPUS / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu)
        for cpu, capacity in capacities.items()
        if 2 * capacity >= largest
    }
    return max(1, int(min(len(cores), _MAX_DEFAULT_THREADS, cpu_quota())))


def cache_bytes(level: int) -> int | None:
    """Return the size of one core's data cache.

    Parameters
    ----------
    level : int
        1 for the cache closest to the core, and so on.

    Returns
    -------
    int or None
        Size in bytes of the data or unified cache of the first CPU that this process may use;
        None where the kernel does not report it, as on many virtual machines and older boards.
    """
    for index in _CPUS.glob(f"cpu{min(_usable_cpus())}/cache/index*"):
        size = re.fullmatch(r"(\d+)([KM]?)", _read(index / "size"))
        kind = _read(index / "type")
        if size and kind in ("Data", "Unified") and _read_int(index / "level") == level:
            return int(size[1]) * {"": 1, "K": 1 << 10, "M": 1 << 20}[size[2]]
    return None


def cpu_parts() -> tuple[int, ...]:
    """Return the part numbers of an aarch64 machine's cores.

    Returns
    -------
    tuple of int
        For each logical CPU, in the kernel's order, the part number in its MIDR register,
        such as 0xd08 for a Cortex-A72; 0 for cores that are not Arm's own. Empty on other
        machines.
    """
    text = _read(_CPUINFO)
    implementers = re.findall(r"^CPU implementer\s*:\s*(0x[0-9a-f]+)$", text, re.MULTILINE)
    parts = re.findall(r"^CPU part\s*:\s*(0x[0-9a-f]+)$", text, re.MULTILINE)
    return tuple(
        int(part, 16) if int(implementer, 16) == _ARM_LTD else 0
        for implementer, part in zip(implementers, parts, strict=False)
    )


def _usable_cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _names(bits: int, names: str) -> frozenset[str]:
    return frozenset(name for bit, name in enumerate(names.split()) if bits >> bit & 1)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _read_int(path: Path) -> int:
    text = _read(path)
    return int(text) if text.isdecimal() else 0
