"""Named targets, and the selection of one."""

from __future__ import annotations

import difflib
from dataclasses import replace

from mobilenet_tvm.targets.errors import UserError, WrongUseError
from mobilenet_tvm.targets.host import architecture, cache_bytes, cpu_features, cpu_parts
from mobilenet_tvm.targets.presets.arm import ARM, ARM_DOTS, ARM_PARTS
from mobilenet_tvm.targets.presets.gpus import GPUS
from mobilenet_tvm.targets.presets.x86 import X86
from mobilenet_tvm.targets.target import Target

#: Targets by name, in the order in which they are listed.
PRESETS = {target.name: target for target in (*X86, *ARM, *GPUS)}
#: Other names for targets.
ALIASES = {
    "aarch64": "arm64",
    "rpi3": "cortex-a53",
    "rpi4": "cortex-a72",
    "rpi5": "cortex-a76",
    "x86_64": "x86",
}
#: Features that `native` uses where a machine has them, in Linux' spelling and LLVM's, by the
#: instruction set that multiplies integers.
OPTIONAL_FEATURES = {"avx512-vnni": {"avx512vbmi": "+avx512vbmi"}}
#: All CPU features that some target requires.
RELEVANT_FEATURES = frozenset().union(
    *(target.required_features for target in PRESETS.values()), *OPTIONAL_FEATURES.values()
)


def get_target(name: str) -> Target:
    """Return the target with a name.

    Parameters
    ----------
    name : str
        A preset's name in any case, one of `ALIASES`, or `native` for this machine.
        `cuda:sm_90` is another spelling of `cuda-sm_90`.

    Raises
    ------
    WrongUseError
        If there is no such target; the message suggests the closest name.
    UserError
        If `native` is asked for and this machine is not supported.
    """
    if name == "native":
        return native()
    spelled = name.lower().replace(":", "-")
    key = ALIASES.get(spelled, spelled)
    if key in PRESETS:
        return PRESETS[key]
    names = [*PRESETS, *ALIASES, "native"]
    near = difflib.get_close_matches(spelled, names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known targets: {', '.join(names)}"
    raise WrongUseError(f"unknown target '{name}'; {hint}")


def native() -> Target:
    """Describe this machine: the best preset that it can run, with its own caches.

    Raises
    ------
    UserError
        If it is neither x86-64 with SSE4.2 nor 64-bit ARM.
    """
    machine, features = architecture(), cpu_features()
    known = {ARM_PARTS.get(part) for part in cpu_parts()}
    if len(known) == 1 and (part := known.pop()) is not None:
        best = PRESETS[part]
    else:
        x86 = ("x86-amx", "x86-vnni", "x86-avx512", "x86-avx-vnni", "x86", "x86-sse4")
        names = x86 if machine == "x86_64" else ("arm64-fp16", "arm64")
        fitting = [
            PRESETS[name]
            for name in names
            if PRESETS[name].architecture == machine
            and features.issuperset(PRESETS[name].required_features)
        ]
        if not fitting:
            raise UserError(
                f"this machine ({machine}) is not supported as a target, which takes x86-64 with "
                "SSE4.2 or 64-bit ARM; choose another target with --target"
            )
        best = fitting[0]
    possible = features - {*best.required_features}
    extra = [name for name in OPTIONAL_FEATURES.get(best.dot, {}) if name in possible]
    return replace(
        _with_dot(best, features),
        name="native",
        description=f"this machine, as {best.name}",
        features=(*best.features, *(OPTIONAL_FEATURES[best.dot][name] for name in extra)),
        required_features=(*best.required_features, *extra),
        l1d_bytes=cache_bytes(1) or best.l1d_bytes,
        l2_bytes=cache_bytes(2) or best.l2_bytes,
    )


def _with_dot(target: Target, features: frozenset[str]) -> Target:
    """Return an ARM target with the best instruction set for integers that the CPU has."""
    if target.architecture != "aarch64":
        return target
    for dot, needed, additional in ARM_DOTS:
        if target.dot == dot:
            break
        if features.issuperset(needed):
            required = dict.fromkeys((*target.required_features, *needed))
            return replace(
                target,
                dot=dot,
                features=(*target.features, *additional),
                required_features=tuple(required),
            )
    return target
