"""GPUs, each with the CPU that starts its kernels.

Arm: the Mali Bifrost and Valhall OpenCL developer guide (101574) and the Mali GPU datasheet, for
the G57, whose 16 threads in lockstep also suit the 4 and 8 of earlier ones; cores and clock of a
typical phone. NVIDIA: the white papers of the A100 and the H100, and the CUDA C++ programming
guide's table of compute capabilities. Latencies are assumed.
"""

from __future__ import annotations

from dataclasses import replace

from mobilenet_tvm.targets.gpu import Gpu
from mobilenet_tvm.targets.presets.arm import ARM64
from mobilenet_tvm.targets.target import KIB, Target

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

#: In the order in which they are listed.
GPUS = (
    replace(
        ARM64,
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
