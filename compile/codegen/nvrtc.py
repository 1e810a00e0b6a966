"""Compiles CUDA C++ without a GPU: by NVRTC, from its pip package or the system, else by nvcc."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.gpu import Gpu

#: Of the places where Linux distributions and NVIDIA's installer put it.
_SYSTEM = ("libnvrtc.so.13", "libnvrtc.so.12", "/usr/local/cuda/lib64/libnvrtc.so")

#: What TVM's source includes, as far as it needs it; CUDA's own headers are another 100 MB. PTX's
#: instructions are those of its manual.
_HEADERS = {
    "cuda/std/cstdint": """
#pragma once
namespace cuda { namespace std {
using int8_t = signed char; using uint8_t = unsigned char;
using int16_t = short; using uint16_t = unsigned short;
using int32_t = int; using uint32_t = unsigned int;
using int64_t = long long; using uint64_t = unsigned long long;
} }
""",
    "cuda/std/type_traits": """
#pragma once
namespace cuda { namespace std {
template <bool V> struct bool_constant { static constexpr bool value = V; };
template <class A, class B> struct is_same : bool_constant<false> {};
template <class A> struct is_same<A, A> : bool_constant<true> {};
template <class A, class B> inline constexpr bool is_same_v = is_same<A, B>::value;
template <class A> struct is_integral; template <class A> struct is_signed;
template <class A> struct is_unsigned; template <class A> struct is_floating_point;
template <bool C, class A = void> struct enable_if {};
template <class A> struct enable_if<true, A> { using type = A; };
template <bool C, class A, class B> struct conditional { using type = A; };
template <class A, class B> struct conditional<false, A, B> { using type = B; };
} }
""",
    "math_constants.h": """
#pragma once
#define CUDART_INF_F __int_as_float(0x7f800000)
#define CUDART_NAN_F __int_as_float(0x7fffffff)
""",
    # Whose dot products of int8 TVM's source does not call.
    "sm_61_intrinsics.h": "",
    "cuda_fp16.h": """
#pragma once
struct alignas(2) half {
  unsigned short bits;
  half() = default;
  __device__ half(float value) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value)); }
  __device__ operator float() const {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
  }
};
typedef half __half;
struct alignas(4) half2 { half x, y; };
typedef half2 __half2;
__device__ inline float __half2float(half x) { return x; }
__device__ inline half __float2half(float x) { return x; }
__device__ inline half __float2half_rn(float x) { return x; }
__device__ inline bool __hgt(half a, half b) { return float(a) > float(b); }
__device__ inline bool __hlt(half a, half b) { return float(a) < float(b); }
""",
    "mma.h": """
#pragma once
namespace nvcuda { namespace wmma {
struct matrix_a; struct matrix_b; struct accumulator; struct row_major;
enum layout_t { mem_row_major };
template <class Use, int M, int N, int K, class T, class Layout = void> struct fragment;
template <> struct fragment<matrix_a, 16, 16, 16, half, row_major> { unsigned x[8]; };
template <> struct fragment<matrix_b, 16, 16, 16, half, row_major> { unsigned x[8]; };
template <> struct fragment<accumulator, 16, 16, 16, float> { float x[8]; };
typedef fragment<matrix_a, 16, 16, 16, half, row_major> Data;
typedef fragment<matrix_b, 16, 16, 16, half, row_major> Weights;
typedef fragment<accumulator, 16, 16, 16, float> Sums;
#define ALL(kind, x) kind(x[0]), kind(x[1]), kind(x[2]), kind(x[3]), \\
                     kind(x[4]), kind(x[5]), kind(x[6]), kind(x[7])
__device__ inline unsigned place(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}
__device__ inline void fill_fragment(Sums& sums, float value) {
  for (int i = 0; i < 8; ++i) sums.x[i] = value;
}
__device__ inline void load_matrix_sync(Data& data, const half* matrix, unsigned row) {
  asm volatile("wmma.load.a.sync.aligned.row.m16n16k16.shared.f16 "
               "{%0, %1, %2, %3, %4, %5, %6, %7}, [%8], %9;"
               : ALL("=r", data.x) : "r"(place(matrix)), "r"(row) : "memory");
}
__device__ inline void load_matrix_sync(Weights& weights, const half* matrix, unsigned row) {
  asm volatile("wmma.load.b.sync.aligned.row.m16n16k16.shared.f16 "
               "{%0, %1, %2, %3, %4, %5, %6, %7}, [%8], %9;"
               : ALL("=r", weights.x) : "r"(place(matrix)), "r"(row) : "memory");
}
__device__ inline void store_matrix_sync(float* matrix, const Sums& sums, unsigned row, layout_t) {
  asm volatile("wmma.store.d.sync.aligned.row.m16n16k16.shared.f32 "
               "[%0], {%1, %2, %3, %4, %5, %6, %7, %8}, %9;"
               :: "r"(place(matrix)), ALL("f", sums.x), "r"(row) : "memory");
}
__device__ inline void mma_sync(Sums& result, const Data& data, const Weights& weights,
                                const Sums& sums) {
  asm volatile("wmma.mma.sync.aligned.row.row.m16n16k16.f32.f32 "
               "{%0, %1, %2, %3, %4, %5, %6, %7}, {%8, %9, %10, %11, %12, %13, %14, %15}, "
               "{%16, %17, %18, %19, %20, %21, %22, %23}, "
               "{%24, %25, %26, %27, %28, %29, %30, %31};"
               : ALL("=f", result.x) : ALL("r", data.x), ALL("r", weights.x), ALL("f", sums.x));
}
#undef ALL
} }
""",
}


def compile_cuda(source: str, gpu: Gpu) -> bytes:
    """Compile kernels.

    Parameters
    ----------
    source : str
        CUDA C++, as TVM writes it.
    gpu : Gpu
        Its architecture; and whether later ones are to run the code.

    Returns
    -------
    bytes
        A cubin for one architecture, or PTX, which a driver finishes for its own.

    Raises
    ------
    UserError
        If neither NVRTC nor nvcc is there, or the architecture is one that it does not know.
    """
    library = _nvrtc()
    if library is not None:
        return _by_nvrtc(library, source, gpu)
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise UserError(
            "no CUDA compiler: run pip install 'mobilenet-tvm[cuda]', or put nvcc on the PATH"
        )
    return _by_nvcc(nvcc, source, gpu)


def _architecture(gpu: Gpu) -> str:
    return gpu.arch.replace("sm_", "compute_") if gpu.portable else gpu.arch


def _by_nvrtc(library: Any, source: str, gpu: Gpu) -> bytes:
    program = ctypes.c_void_p()
    names = [name.encode() for name in _HEADERS]
    texts = [text.encode() for text in _HEADERS.values()]
    array = ctypes.c_char_p * len(_HEADERS)
    parts = (source.encode(), b"kernels.cu", len(_HEADERS), array(*texts), array(*names))
    _check(library, library.nvrtcCreateProgram(ctypes.byref(program), *parts))
    try:
        options = [f"--gpu-architecture={_architecture(gpu)}".encode(), b"-default-device"]
        given = (ctypes.c_char_p * len(options))(*options)
        if library.nvrtcCompileProgram(program, len(options), given):
            log = _read(library, program, "ProgramLog").decode(errors="replace")
            lines = [line.strip(" \n\0") for line in log.splitlines() if "error" in line]
            reason = lines[0] if lines else "no reason given"
            raise UserError(f"NVRTC cannot compile for {gpu.arch} ({reason})")
        code = _read(library, program, "PTX" if gpu.portable else "CUBIN")
        return code.rstrip(b"\0") + b"\0" if gpu.portable else code
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _read(library: Any, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(library, library[f"nvrtcGet{what}Size"](program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(library, library[f"nvrtcGet{what}"](program, buffer))
    return buffer.raw


def _check(library: Any, status: int) -> None:
    if status:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise UserError(f"NVRTC failed ({library.nvrtcGetErrorString(status).decode()})")


def _by_nvcc(nvcc: str, source: str, gpu: Gpu) -> bytes:
    kind = "ptx" if gpu.portable else "cubin"
    with tempfile.TemporaryDirectory() as folder:
        path, output = Path(folder) / "kernels.cu", Path(folder) / "code"
        path.write_text(source)
        command = [nvcc, f"--{kind}", f"-arch={_architecture(gpu)}", "-o", str(output), str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            reason = (result.stderr or result.stdout).strip().splitlines() or ["no reason given"]
            raise UserError(f"nvcc cannot compile for {gpu.arch} ({reason[0]})")
        return output.read_bytes()


@functools.cache
def _nvrtc() -> Any:
    """Return NVRTC's library, the pip package's before the system's; None where there is none."""
    for path in (*_packaged(), *_SYSTEM):
        try:
            return ctypes.CDLL(str(path))
        except OSError:
            continue
    return None


def _packaged() -> Iterator[Path]:
    spec = importlib.util.find_spec("nvidia")
    for root in spec.submodule_search_locations or () if spec else ():
        for pattern in ("cu*/lib/libnvrtc.so.*", "cuda_nvrtc/lib/libnvrtc.so.*"):
            yield from sorted(Path(root).glob(pattern), reverse=True)
