"""Tells whether this process may use AMX tiles, and keeps the libraries it loads from them."""

from __future__ import annotations

import ctypes
import os

from mobilenet_tvm.targets.host import architecture

# Linux gives a process the tiles' registers when it asks for them by arch_prctl: see its
# Documentation/arch/x86/xstate.rst.
_ARCH_PRCTL = 158
_GET_SUPPORTED, _GET_PERMITTED = 0x1021, 0x1022
_TILE_DATA = 1 << 18

# Larger than a signal's frame with AVX-512 (3.5 KiB), smaller than one with tiles (12 KiB).
_STACK = ctypes.create_string_buffer(8192)


class _SignalStack(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def supported() -> bool:
    """Return whether the processor has tiles and the kernel lends them."""
    return _bit(_GET_SUPPORTED)


def permitted() -> bool:
    """Return whether a library in this process has asked for tiles and got them."""
    return _bit(_GET_PERMITTED)


def refuse() -> None:
    """Keep libraries that this process loads from now on from using tiles.

    The kernel refuses them to a process with a signal stack that is too small for them, and
    ONNX Runtime and XNNPACK then do without. OpenVINO enlarges the stack first, but its oneDNN
    reads a variable with the best instructions to use, here those of a machine with VNNI only.

    Raises
    ------
    OSError
        If the signal stack cannot be set.
    """
    if not supported():
        return
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_VNNI"
    stack = _SignalStack(ctypes.addressof(_STACK), 0, len(_STACK))
    if ctypes.CDLL(None, use_errno=True).sigaltstack(ctypes.byref(stack), None):
        raise OSError(ctypes.get_errno(), "sigaltstack failed")


def _bit(option: int) -> bool:
    if architecture() != "x86_64":
        return False
    features = ctypes.c_uint64()
    failed = ctypes.CDLL(None).syscall(_ARCH_PRCTL, option, ctypes.byref(features))
    return not failed and bool(features.value & _TILE_DATA)
