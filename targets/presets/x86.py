"""x86-64 CPUs, by the psABI's microarchitecture levels.

Widths, latencies and caches: Agner Fog's instruction tables. The second-level cache gives about
half of what its bus could: 64 bytes a cycle on Zen. Memory: what the dense layer of MobileNetV2
got on a Zen 4 server.
"""

from __future__ import annotations

from dataclasses import replace

from mobilenet_tvm.targets.target import KIB, Target

#: Features of the levels, in Linux' spelling, where LLVM uses them for this kind of code (source:
#: x86-64 psABI, section 3.1.1).
_V2 = ("cx16", "popcnt", "sse4_1", "sse4_2", "ssse3")
_V3 = (*_V2, "abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")
_V4 = (*_V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")

_X86 = Target(
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
    dot="avx2",
)
_AVX512 = Target(
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
    dot="avx512bw",
)

#: In the order in which they are listed.
X86 = (
    _X86,
    _AVX512,
    replace(
        _AVX512,
        name="x86-vnni",
        preset="x86-vnni",
        description="x86-64-v4 with AVX-512 VNNI: Cascade Lake, Ice Lake, Zen 4 and later",
        features=("+avx512vnni",),
        required_features=(*_V4, "avx512_vnni"),
        base="x86-avx512",
        dot="avx512-vnni",
    ),
    replace(
        _AVX512,
        name="x86-amx",
        preset="x86-amx",
        description="x86-64-v4 with AMX: Sapphire Rapids and later, on Linux 5.16 and later",
        features=("+avx512vnni", "+avx512vbmi", "+amx-tile", "+amx-int8"),
        required_features=(*_V4, "avx512_vnni", "avx512vbmi", "amx_tile", "amx_int8"),
        fma_per_cycle=2,
        l1d_bytes=48 * KIB,
        l2_bytes=2048 * KIB,
        l1d_ways=12,
        l2_ways=16,
        clock_ghz=3.0,
        base="x86-vnni",
        dot="avx512-vnni",
    ),
    replace(
        _X86,
        name="x86-avx-vnni",
        preset="x86-avx-vnni",
        description="x86-64-v3 with AVX-VNNI: Alder Lake, Arrow Lake and later",
        features=("+avxvnni",),
        required_features=(*_V3, "avx_vnni"),
        base="x86",
        dot="avx-vnni",
    ),
    Target(
        name="x86-sse4",
        architecture="x86_64",
        cpu="x86-64-v2",
        description="x86-64 with SSE4.2 (x86-64-v2), for machines before AVX2",
        required_features=_V2,
        vector_registers=16,
        fma_per_cycle=2,
        dot="sse4.1",
    ),
)
