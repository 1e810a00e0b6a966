"""What a machine is, as far as code generation and schedules need to know."""

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
        The name on the command line and in logs.
    architecture : str
        As `uname -m` prints it: `x86_64` or `aarch64`.
    cpu : str
        LLVM's name of the CPU.
    description : str
        One line for people.
    features : tuple of str
        LLVM features to add to those of `cpu`, such as `+neon`.
    required_features : tuple of str
        What the running CPU must have, spelled as Linux spells it in /proc/cpuinfo.
    vector_bits : int
        Width of a vector register in bits.
    vector_registers : int
        Number of architectural vector registers.
    fma_per_cycle : int
        Full-width float32 multiply-adds started per cycle.
    fma_latency : int
        Cycles from a multiply-add to one that adds to its result.
    in_order : bool
        Whether the core starts no multiply-add while it loads a vector, at 64 bits a cycle.
    l1d_bytes, l2_bytes : int
        Data caches of one core, in bytes.
    l1d_ways, l2_ways : int
        How many lines of the same place they hold.
    clock_ghz : float
        Cycles in a nanosecond, of a usual machine.
    l2_bytes_per_cycle : float
        What comes from the second-level cache.
    memory_gb_per_s : float
        What one core gets from behind it, in 10^9 bytes.
    core : str
        LLVM's model of the core, by which static tuning counts cycles; empty where none fits.
    preset : str
        The preset that this is a variant of, by whose name tuning logs go. Default: `name`.
    gpu : Gpu, optional
        What computes the layers, where the CPU only starts them.
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
    core: str = ""
    preset: str = ""
    gpu: Gpu | None = None

    def __post_init__(self) -> None:
        """Let a target that is no variant be its own preset."""
        if not self.preset:
            object.__setattr__(self, "preset", self.name)

    @property
    def kind(self) -> str:
        """TVM's name of what the layers' code is: `llvm`, `opencl` or `cuda`."""
        return "llvm" if self.gpu is None else self.gpu.kind

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
