"""Compiled CUDA code, as an artifact holds it: hidden in what TVM takes for its source."""

from __future__ import annotations

import base64
import binascii

#: TVM asks this function for the code of what an artifact holds as CUDA's source.
_COMPILE = "tvm_callback_cuda_compile"
_MARK = "// mobilenet-tvm, compiled: "


def as_source(code: bytes) -> str:
    """Return compiled code as text.

    A TVM without CUDA, as on a machine without an NVIDIA driver, puts only source text into an
    artifact, and leaves the compiling to the machine that loads it.
    """
    return _MARK + base64.b64encode(code).decode("ascii")


def from_source(text: str) -> bytes:
    """Return the compiled code that `as_source` has hidden.

    Raises
    ------
    ValueError
        If the text is something else.
    """
    if not text.startswith(_MARK):
        raise ValueError("CUDA source that mobilenet-tvm has not compiled")
    try:
        return base64.b64decode(text.removeprefix(_MARK), validate=True)
    except binascii.Error:
        raise ValueError("damaged CUDA code") from None


def decode_on_load() -> None:
    """Let TVM's CUDA runtime take the code of this project's artifacts."""
    import tvm_ffi

    tvm_ffi.register_global_func(_COMPILE, from_source, override=True)
