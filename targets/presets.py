"""The targets that have a name, as data, and the choice among them."""

from __future__ import annotations

import difflib
from dataclasses import replace

from mobilenet_tvm.targets.errors import UserError, WrongUseError
from mobilenet_tvm.targets.gpu import Gpu
from mobilenet_tvm.targets.host import architecture, cache_bytes, cpu_features, cpu_parts
from mobilenet_tvm.targets.target import Target

KIB = 1024

#: Features of the x86-64 psABI's microarchitecture levels, in Linux' spelling, where LLVM uses
#: them for this kind of code (source: x86-64 psABI, section 3.1.1).
_V2 = ("cx16", "popcnt", "sse4_1", "sse4_2", "ssse3")
_V3 = (*_V2, "abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")
_V4 = (*_V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")

_X86_V2 = Target(
    name="x86-sse4",
    architecture="x86_64",
    cpu="x86-64-v2",
    description="x86-64 with SSE4.2 (x86-64-v2), for machines before AVX2",
    required_features=_V2,
    vector_registers=16,
    fma_per_cycle=2,
)
_ARM64 = Target(
    name="arm64",
    architecture="aarch64",
    cpu="generic",
    description="any ARMv8-A: Cortex-A35 and later, Apple, Neoverse",
    features=("+neon",),
    required_features=("asimd",),
    # The others do as well with the same tiles.
    in_order=True,
)
_V8_2 = ("asimd", "asimddp", "asimdhp", "asimdrdm", "atomics", "crc32", "fphp", "lrcpc")

# Widths, latencies and caches: Arm's software optimisation guides of the Cortex-A53, A55, A72 and
# A76 and their technical reference manuals; Agner Fog's instruction tables for x86. From the
# second-level cache comes about half of what its bus could bring: 16 bytes a cycle on the A53, A55
# and A72, 32 on the A76, 64 on Zen. Clocks are those of the Raspberry Pi 3, 4 and 5 and of the
# RK3588's small cores. Memory: for the A72, STREAM's copy (www.sci-pi.org.uk/bench/stream.html);
# for the A53, twice lmbench's bcopy, as it reads and writes (Texas Instruments, SPRADG0A); for
# x86, what the dense layer of MobileNetV2 got on a Zen 4 server; the others' are assumed.
_PRESETS = (
    Target(
        name="x86",
        architecture="x86_64",
        cpu="x86-64-v3",
        description="x86-64 with AVX2 and FMA (x86-64-v3): Haswell, Zen and later",
        required_features=_V3,
        vector_bits=256,
        vector_registers=16,
        fma_per_cycle=2,
        l1d_ways=8,
        l2_ways=8,
        clock_ghz=3.5,
        l2_bytes_per_cycle=32.0,
        memory_gb_per_s=40.0,
        # LLVM 14's model of Zen 3 does one 256-bit multiply-add a cycle; the core does two.
        core="znver2",
    ),
    Target(
        name="x86-avx512",
        architecture="x86_64",
        cpu="x86-64-v4",
        description="x86-64 with AVX-512 (x86-64-v4): Skylake-X, Ice Lake, Zen 4 and later",
        required_features=_V4,
        vector_bits=512,
        # One 512-bit unit, or two of 256 bits that work as one: Zen 4, most Intel cores.
        fma_per_cycle=1,
        l2_bytes=1024 * KIB,
        l1d_ways=8,
        l2_ways=8,
        clock_ghz=3.5,
        l2_bytes_per_cycle=32.0,
        memory_gb_per_s=40.0,
    ),
    _X86_V2,
    _ARM64,
    Target(
        name="cortex-a53",
        architecture="aarch64",
        cpu="cortex-a53",
        description="Cortex-A53: Raspberry Pi 3, many phones' small cores",
        required_features=("asimd", "crc32"),
        in_order=True,
        clock_ghz=1.2,
        memory_gb_per_s=3.9,
        core="cortex-a53",
    ),
    Target(
        name="cortex-a55",
        architecture="aarch64",
        cpu="cortex-a55",
        description="Cortex-A55: the small cores of phones since 2018",
        required_features=_V8_2,
        in_order=True,
        l2_bytes=128 * KIB,
        clock_ghz=1.8,
        memory_gb_per_s=6.0,
        core="cortex-a55",
    ),
    Target(
        name="cortex-a72",
        architecture="aarch64",
        cpu="cortex-a72",
        description="Cortex-A72: Raspberry Pi 4, RK3399",
        required_features=("asimd", "crc32"),
        # Two units of 64 bits: 15.9 GFLOP/s at 2 GHz (wlog.flatlib.jp, 2015-10-30).
        fma_per_cycle=1,
        fma_latency=7,
        l2_bytes=1024 * KIB,
        l1d_ways=2,
        memory_gb_per_s=5.5,
        core="cortex-a72",
    ),
    Target(
        name="cortex-a76",
        architecture="aarch64",
        cpu="cortex-a76",
        description="Cortex-A76: Raspberry Pi 5, RK3588, phones of 2019",
        required_features=_V8_2,
        fma_per_cycle=2,
        l1d_bytes=64 * KIB,
        l2_ways=8,
        clock_ghz=2.4,
        l2_bytes_per_cycle=16.0,
        # No `core`: LLVM 14 takes its model of the A57, which does half as many multiply-adds.
        memory_gb_per_s=10.0,
    ),
)

# Arm: the Mali Bifrost and Valhall OpenCL developer guide (101574) and the Mali GPU datasheet, of
# the G57, whose 16 threads in lock-step suit the 4 and 8 of earlier ones as well; a phone's usual
# number of cores and clock. NVIDIA: the A100's and H100's white papers and the CUDA C++
# programming guide's table of compute capabilities. Latencies are assumed.
_MALI = Gpu(kind="opencl", float16_rate=2)
_A100 = Gpu(
    kind="cuda",
    arch="sm_80",
    units=108,
    lockstep=32,
    threads=2048,
    registers=255,
    group_threads=1024,
    shared_bytes=48 * KIB,
    fma_per_cycle=64,
    tensor_fma_per_cycle=1024,
    load_bytes_per_cycle=128,
    load_latency=200,
    launch_cycles=3000,
    l2_bytes=40 * 1024 * KIB,
    clock_ghz=1.41,
    memory_gb_per_s=1555.0,
)
_H100 = replace(
    _A100,
    arch="sm_90",
    units=132,
    fma_per_cycle=128,
    tensor_fma_per_cycle=2048,
    l2_bytes=50 * 1024 * KIB,
    clock_ghz=1.75,
    memory_gb_per_s=3350.0,
)
_X86_64 = Target(name="", architecture="x86_64", cpu="x86-64", description="")
_GPUS = (
    replace(
        _ARM64,
        name="mali",
        preset="mali",
        description="Mali GPUs (Bifrost, Valhall) by OpenCL, 64-bit ARM beside them",
        gpu=_MALI,
    ),
    replace(
        _X86_64,
        name="mali-x86",
        preset="mali-x86",
        description="any OpenCL device beside x86-64, by the Mali's kernels",
        gpu=_MALI,
    ),
    replace(
        _X86_64,
        name="cuda",
        preset="cuda",
        description="NVIDIA GPUs from Ampere on by CUDA; the driver finishes the code",
        gpu=replace(_A100, portable=True),
    ),
    replace(
        _X86_64,
        name="cuda-sm_80",
        preset="cuda-sm_80",
        description="NVIDIA A100 and other GPUs of compute capability 8",
        gpu=_A100,
    ),
    replace(
        _X86_64,
        name="cuda-sm_90",
        preset="cuda-sm_90",
        description="NVIDIA H100 and H200 (compute capability 9.0)",
        gpu=_H100,
    ),
)

#: Targets by name, in the order in which they are listed.
PRESETS = {target.name: target for target in (*_PRESETS, *_GPUS)}
#: Other names for them.
ALIASES = {
    "aarch64": "arm64",
    "rpi3": "cortex-a53",
    "rpi4": "cortex-a72",
    "rpi5": "cortex-a76",
    "x86_64": "x86",
}
#: All features that some target requires.
RELEVANT_FEATURES = frozenset().union(*(target.required_features for target in _PRESETS))
#: The part number in an Arm core's main ID register, and the preset for it (source: Arm's manuals).
_ARM_PARTS = {
    0xD03: "cortex-a53",
    0xD05: "cortex-a55",
    0xD08: "cortex-a72",
    0xD0B: "cortex-a76",
}


def get_target(name: str) -> Target:
    """Return the target of a name, an alias, or `native` for this machine.

    `cuda:sm_90` is another spelling of `cuda-sm_90`.

    Raises
    ------
    UserError
        If there is no such target; the nearest name is offered.
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
    known = {_ARM_PARTS.get(part) for part in cpu_parts()}
    if len(known) == 1 and (part := known.pop()) is not None:
        best = PRESETS[part]
    else:
        names = ("x86-avx512", "x86", "x86-sse4") if machine == "x86_64" else ("arm64",)
        fitting = [
            PRESETS[name]
            for name in names
            if PRESETS[name].architecture == machine
            and features.issuperset(PRESETS[name].required_features)
        ]
        if not fitting:
            raise UserError(
                f"this machine ({machine}) is not supported as a target; it takes x86-64 with "
                "SSE4.2 or 64-bit ARM; name another target with --target"
            )
        best = fitting[0]
    return replace(
        best,
        name="native",
        description=f"this machine, as {best.name}",
        l1d_bytes=cache_bytes(1) or best.l1d_bytes,
        l2_bytes=cache_bytes(2) or best.l2_bytes,
    )
