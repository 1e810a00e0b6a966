"""The expression in C by which a model finds out whether the CPU has what its code uses."""

from __future__ import annotations

from collections import defaultdict

from mobilenet_tvm.targets.host import hardware_capabilities
from mobilenet_tvm.targets.target import Target

_EBX, _ECX, _EDX, _EAX = 1, 2, 3, 0

#: Where CPUID reports a feature: leaf, subleaf, register, bit (Intel's manual, volume 2A, CPUID;
#: `abm` is AMD's, and stands for LZCNT).
_CPUID = {
    "abm": (0x80000001, 0, _ECX, 5),
    "amx_int8": (7, 0, _EDX, 25),
    "amx_tile": (7, 0, _EDX, 24),
    "avx": (1, 0, _ECX, 28),
    "avx2": (7, 0, _EBX, 5),
    "avx512_vnni": (7, 0, _ECX, 11),
    "avx512bw": (7, 0, _EBX, 30),
    "avx512cd": (7, 0, _EBX, 28),
    "avx512dq": (7, 0, _EBX, 17),
    "avx512f": (7, 0, _EBX, 16),
    "avx512vbmi": (7, 0, _ECX, 1),
    "avx512vl": (7, 0, _EBX, 31),
    "avx_vnni": (7, 1, _EAX, 4),
    "bmi1": (7, 0, _EBX, 3),
    "bmi2": (7, 0, _EBX, 8),
    "cx16": (1, 0, _ECX, 13),
    "f16c": (1, 0, _ECX, 29),
    "fma": (1, 0, _ECX, 12),
    "movbe": (1, 0, _ECX, 22),
    "popcnt": (1, 0, _ECX, 23),
    "sse4_1": (1, 0, _ECX, 19),
    "sse4_2": (1, 0, _ECX, 20),
    "ssse3": (1, 0, _ECX, 9),
}
#: OSXSAVE: the system saves registers, and says which.
_SAVES = (1, 0, _ECX, 27)
#: The states of XCR0 that the system has to save for registers of a kind (volume 1, chapter 13).
_STATES = {"avx": 0x6, "avx512f": 0xE6, "amx_tile": 0x60000}


def cpu_check(target: Target) -> str:
    """Return an expression that is true where the CPU, and the system, have what code needs.

    Parameters
    ----------
    target : Target
        A CPU.

    Returns
    -------
    str
        Of the functions `has`, `saves` and `may_use_tiles` in runtime.c.
    """
    features = target.required_features
    if target.architecture == "aarch64":
        words = hardware_capabilities(features)
        return " && ".join(f"has({entry}, {bits:#x})" for entry, bits in words.items()) or "true"
    places = [_CPUID[feature] for feature in features]
    states = 0
    for feature in features:
        states |= _STATES.get(feature, 0)
    masks: defaultdict[tuple[int, int, int], int] = defaultdict(int)
    for leaf, subleaf, register, bit in [*places, *([_SAVES] if states else [])]:
        masks[leaf, subleaf, register] |= 1 << bit
    checks = [
        f"has({leaf:#x}, {subleaf}, {register}, {bits:#x})"
        for (leaf, subleaf, register), bits in sorted(masks.items())
    ]
    checks += [f"saves({states:#x})"] if states else []
    checks += ["may_use_tiles()"] if "amx_tile" in features else []
    return " && ".join(checks) or "true"
