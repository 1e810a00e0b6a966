"""Descriptions of GPUs for code generation and schedules."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """A GPU or a family of GPUs.

    Parameters
    ----------
    kind : str
        TVM's name for its kind of code: `opencl` or `cuda`.
    arch : str
        NVIDIA's name for the architecture, such as `sm_80`; empty for OpenCL, whose driver compiles
        for its own GPU.
    portable : bool
        Whether the code also runs on later architectures, for which the driver compiles it on load.
    units : int
        Shader cores (Arm) or streaming multiprocessors (NVIDIA).
    lockstep : int
        Threads that execute each instruction together: the size of a warp.
    threads : int
        Threads that one unit keeps in flight if none uses more than `full_registers`.
    registers, full_registers : int
        32-bit registers that a thread can use without spilling, and up to which a unit keeps all
        its `threads` in flight; beyond that, it keeps proportionally fewer.
    group_threads : int
        Maximum number of threads in a work-group.
    shared_bytes : int
        On-chip memory that a work-group can share; 0 where it is ordinary cached memory.
    fma_per_cycle : int
        float32 multiply-adds that a unit starts in a cycle.
    float16_rate : int
        float16 multiply-adds per float32 one, two of them in one register; 1 where float16 values
        are computed in float32.
    tensor_fma_per_cycle : int
        float16 multiply-adds, accumulated in float32, that a unit's tensor cores start in a cycle;
        0 where it has none.
    load_bytes_per_cycle : int
        Bandwidth of a unit's first-level cache.
    load_latency : int
        Cycles from a load that hits a cache to the use of its value.
    launch_cycles : int
        Cycles that starting another kernel costs.
    l2_bytes : int
        Size of the cache that all units share.
    clock_ghz : float
        Clock of a typical device.
    memory_gb_per_s : float
        Memory bandwidth of all units together, in 10^9 bytes per second.
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
