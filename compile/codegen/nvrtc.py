"""Compiles CUDA C++ without a GPU, by NVRTC (of its pip package or the system) or by nvcc."""

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

#: NVRTC as installed by Linux distributions and by NVIDIA's installer.
_SYSTEM = ("libnvrtc.so.13", "libnvrtc.so.12", "/usr/local/cuda/lib64/libnvrtc.so")

#: The parts of CUDA's headers that TVM's source needs; CUDA's own headers take another 100 MB.
_HEADERS = Path(__file__).with_name("cuda_headers")


def compile_cuda(source: str, gpu: Gpu) -> bytes:
    """Compile kernels.

    Parameters
    ----------
    source : str
        CUDA C++, as TVM generates it.
    gpu : Gpu
        The architecture, and whether the code has to run on later ones too.

    Returns
    -------
    bytes
        A cubin for one architecture, or PTX, which drivers compile for theirs.

    Raises
    ------
    UserError
        If neither NVRTC nor nvcc is installed, or it does not know the architecture.
    """
    library = _nvrtc()
    if library is not None:
        return _by_nvrtc(library, source, gpu)
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise UserError(
            "no CUDA compiler; run: pip install 'mobilenet-tvm[cuda]', or add nvcc to PATH"
        )
    return _by_nvcc(nvcc, source, gpu)


def _architecture(gpu: Gpu) -> str:
    return gpu.arch.replace("sm_", "compute_") if gpu.portable else gpu.arch


def _by_nvrtc(library: Any, source: str, gpu: Gpu) -> bytes:
    program = ctypes.c_void_p()
    headers = _headers()
    array = ctypes.c_char_p * len(headers)
    parts = (
        source.encode(),
        b"kernels.cu",
        len(headers),
        array(*headers.values()),
        array(*headers.keys()),
    )
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


@functools.cache
def _headers() -> dict[bytes, bytes]:
    """Return the headers' contents by the names by which they are included."""
    files = (path for path in sorted(_HEADERS.rglob("*")) if path.is_file())
    return {str(path.relative_to(_HEADERS)).encode(): path.read_bytes() for path in files}


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
    """Return NVRTC's library, preferably the pip package's; None if there is none."""
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
