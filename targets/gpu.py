"""What a GPU is, as far as code generation and schedules need to know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """A GPU or a family of GPUs.

    Parameters
    ----------
    kind : str
        TVM's name of what its code is: `opencl` or `cuda`.
    arch : str
        NVIDIA's name of the architecture, such as `sm_80`; empty for OpenCL, whose driver compiles.
    portable : bool
        Whether the code is for later architectures too: the driver finishes it when it is loaded.
    units : int
        Shader cores (Arm) or streaming multiprocessors (NVIDIA).
    lockstep : int
        Threads that take each branch together: a warp.
    threads : int
        Threads that one unit keeps in flight if none has more than `full_registers`.
    registers, full_registers : int
        32-bit registers that a thread may have without a spill, and with which a unit is full of
        threads; with more than those it holds fewer, in proportion.
    group_threads : int
        Most threads of a work-group.
    shared_bytes : int
        Memory that a work-group shares on the chip; 0 where it is ordinary cached memory.
    fma_per_cycle : int
        float32 multiply-adds that a unit starts per cycle.
    float16_rate : int
        How many times as many float16 multiply-adds it starts, two in one register; 1 where
        float16 values are computed in float32.
    tensor_fma_per_cycle : int
        float16 multiply-adds that a unit's tensor cores start per cycle, with sums in float32; 0
        where it has none.
    load_bytes_per_cycle : int
        What a unit's first-level cache gives.
    load_latency : int
        Cycles from a load that hits a cache to its use.
    launch_cycles : int
        What starting another kernel costs.
    l2_bytes : int
        The cache that all units share.
    clock_ghz : float
        Cycles in a nanosecond, of a usual device.
    memory_gb_per_s : float
        What all units together get from behind the caches, in 10^9 bytes.
    """

    kind: str
    arch: str = ""
    portable: bool = False
    units: int = 4
    lockstep: int = 16
    threads: int = 1024
    registers: int = 64
    full_registers: int = 32
    group_threads: int = 256
    shared_bytes: int = 0
    fma_per_cycle: int = 32
    float16_rate: int = 1
    tensor_fma_per_cycle: int = 0
    load_bytes_per_cycle: int = 64
    load_latency: int = 100
    launch_cycles: int = 10_000
    l2_bytes: int = 1024 * 1024
    clock_ghz: float = 0.85
    memory_gb_per_s: float = 12.0
