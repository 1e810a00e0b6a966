"""64-bit ARM CPUs.

Widths, latencies and caches: Arm's software optimisation guides of the Cortex-A53, A55, A72 and
A76, and their technical reference manuals. The second-level cache gives about half of what its bus
could: 16 bytes a cycle on the A53, A55 and A72, 32 on the A76. Clocks: Raspberry Pi 3, 4 and 5,
and the small cores of the RK3588. Memory: for the A72, STREAM's copy
(www.sci-pi.org.uk/bench/stream.html); for the A53, twice lmbench's bcopy, which reads and writes
(Texas Instruments, SPRADG0A); assumed for the others.
"""

from __future__ import annotations

from dataclasses import replace

from mobilenet_tvm.targets.target import KIB, Target

ARM64 = Target(
    name="arm64",
    architecture="aarch64",
    cpu="generic",
    description="any ARMv8-A: Cortex-A35 and later, Apple, Neoverse",
    features=("+neon",),
    required_features=("asimd",),
    # Out-of-order cores do as well with the same tiles.
    in_order=True,
    dot="neon",
)

_V8_2 = ("asimd", "asimddp", "asimdhp", "asimdrdm", "atomics", "crc32", "fphp", "lrcpc")

#: In the order in which they are listed.
ARM = (
    ARM64,
    replace(
        ARM64,
        name="arm64-fp16",
        preset="arm64-fp16",
        description="ARMv8.2-A with float16: Cortex-A55, A75 and later, Apple A11, Neoverse",
        features=("+neon", "+fullfp16"),
        required_features=("asimd", "asimdhp", "fphp"),
        base="arm64",
        float16=True,
    ),
    Target(
        name="cortex-a53",
        architecture="aarch64",
        cpu="cortex-a53",
        dot="neon",
        description="Cortex-A53: Raspberry Pi 3, many phones' small cores",
        required_features=("asimd", "crc32"),
        in_order=True,
        clock_ghz=1.2,
        memory_gb_per_s=3.9,
    ),
    Target(
        name="cortex-a55",
        architecture="aarch64",
        cpu="cortex-a55",
        dot="dotprod",
        float16=True,
        description="Cortex-A55: the small cores of phones since 2018",
        required_features=_V8_2,
        in_order=True,
        l2_bytes=128 * KIB,
        clock_ghz=1.8,
        memory_gb_per_s=6.0,
    ),
    Target(
        name="cortex-a72",
        architecture="aarch64",
        cpu="cortex-a72",
        dot="neon",
        description="Cortex-A72: Raspberry Pi 4, RK3399",
        required_features=("asimd", "crc32"),
        # Two units of 64 bits: 15.9 GFLOP/s at 2 GHz (wlog.flatlib.jp, 2015-10-30).
        fma_per_cycle=1,
        fma_latency=7,
        l2_bytes=1024 * KIB,
        l1d_ways=2,
        memory_gb_per_s=5.5,
    ),
    Target(
        name="cortex-a76",
        architecture="aarch64",
        cpu="cortex-a76",
        dot="dotprod",
        float16=True,
        description="Cortex-A76: Raspberry Pi 5, RK3588, phones of 2019",
        required_features=_V8_2,
        fma_per_cycle=2,
        l1d_bytes=64 * KIB,
        l2_ways=8,
        clock_ghz=2.4,
        l2_bytes_per_cycle=16.0,
        memory_gb_per_s=10.0,
    ),
)

#: Instruction sets that multiply integers beyond those of presets, the best first: the name, the
#: CPU features by Linux's names, and by LLVM's.
ARM_DOTS = (
    ("i8mm", ("asimddp", "i8mm"), ("+dotprod", "+i8mm")),
    ("dotprod", ("asimddp",), ("+dotprod",)),
)

#: Preset by part number in the core's main ID register (source: the technical reference manuals).
ARM_PARTS = {
    0xD03: "cortex-a53",
    0xD05: "cortex-a55",
    0xD08: "cortex-a72",
    0xD0B: "cortex-a76",
}
