"""Descriptions of machines for code generation and schedules."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mobilenet_tvm.targets.gpu import Gpu

KIB = 1024


@dataclass(frozen=True)
class Target:
    """A CPU or a family of CPUs, or a GPU and the CPU that starts its kernels.

    Parameters
    ----------
    name : str
        Its name on the command line and in logs.
    architecture : str
        As `uname -m` prints it: `x86_64` or `aarch64`.
    cpu : str
        LLVM's name for the CPU.
    description : str
        One line for `mobilenet-tvm targets`.
    features : tuple of str
        LLVM features in addition to those of `cpu`, such as `+neon`.
    required_features : tuple of str
        CPU features that the code needs, as spelled in Linux's /proc/cpuinfo.
    vector_bits : int
        Width of a vector register in bits.
    vector_registers : int
        Number of architectural vector registers.
    fma_per_cycle : int
        Full-width float32 multiply-adds that start in a cycle.
    fma_latency : int
        Cycles from a multiply-add to one that uses its result.
    in_order : bool
        Whether a vector load, at 64 bits a cycle, keeps the core from starting multiply-adds.
    l1d_bytes, l2_bytes : int
        Sizes of one core's data caches, in bytes.
    l1d_ways, l2_ways : int
        Their associativity.
    clock_ghz : float
        Clock of a typical machine.
    l2_bytes_per_cycle : float
        Bandwidth of the second-level cache.
    memory_gb_per_s : float
        Memory bandwidth of one core, in 10^9 bytes per second.
    preset : str
        The preset that this is a variant of, which names its tuning log. Default: `name`.
    base : str
        A preset whose log serves this target too, as far as its decisions fit.
    dot : str
        The instruction set that multiplies integers, by its name in `schedules.cpu.dot`.
    float16 : bool
        Whether the CPU multiplies vectors of float16.
    gpu : Gpu, optional
        The GPU that computes the layers, where the CPU only starts its kernels.
    """

    name: str
    architecture: str
    cpu: str
    description: str
    features: tuple[str, ...] = ()
    required_features: tuple[str, ...] = ()
    vector_bits: int = 128
    vector_registers: int = 32
    fma_per_cycle: int = 1
    fma_latency: int = 4
    in_order: bool = False
    l1d_bytes: int = 32 * KIB
    l2_bytes: int = 512 * KIB
    l1d_ways: int = 4
    l2_ways: int = 16
    clock_ghz: float = 1.5
    l2_bytes_per_cycle: float = 8.0
    memory_gb_per_s: float = 4.0
    preset: str = ""
    base: str = ""
    dot: str = ""
    float16: bool = False
    gpu: Gpu | None = None

    def __post_init__(self) -> None:
        """Make a target that is not a variant its own preset."""
        if not self.preset:
            object.__setattr__(self, "preset", self.name)

    @property
    def kind(self) -> str:
        """TVM's name for the kind of the layers' code: `llvm`, `opencl` or `cuda`."""
        return "llvm" if self.gpu is None else self.gpu.kind

    @property
    def bytes_type(self) -> str:
        """The type in which quantised networks keep their values: what multiplications take."""
        return "int8" if self.architecture == "aarch64" else "uint8"

    @property
    def triple(self) -> str:
        """LLVM's target triple."""
        return f"{self.architecture}-linux-gnu"

    def lanes_of(self, dtype: str) -> int:
        """Return the number of values in a vector register.

        Parameters
        ----------
        dtype : str
            Their type by NumPy's name, such as `float16` or `uint8`.
        """
        return self.vector_bits // (8 * np.dtype(dtype).itemsize)
