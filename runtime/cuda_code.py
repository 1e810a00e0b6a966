"""Encodes compiled CUDA code as text, in the place of the source that TVM stores in artifacts."""

from __future__ import annotations

import base64
import binascii

#: TVM calls this function to compile the CUDA source in an artifact.
_COMPILE = "tvm_callback_cuda_compile"
_MARK = "// mobilenet-tvm, compiled: "


def as_source(code: bytes) -> str:
    """Return compiled code as text.

    On a machine without NVIDIA's driver, TVM stores only source text in an artifact, and leaves
    compilation to the machine that loads it.
    """
    return _MARK + base64.b64encode(code).decode("ascii")


def from_source(text: str) -> bytes:
    """Return the compiled code that `as_source` has encoded.

    Raises
    ------
    ValueError
        If the text is not such code, or damaged.
    """
    if not text.startswith(_MARK):
        raise ValueError("CUDA source that mobilenet-tvm did not compile")
    try:
        return base64.b64decode(text.removeprefix(_MARK), validate=True)
    except binascii.Error:
        raise ValueError("damaged CUDA code") from None


def decode_on_load() -> None:
    """Make TVM's CUDA runtime decode the code in this project's artifacts."""
    import tvm_ffi

    tvm_ffi.register_global_func(_COMPILE, from_source, override=True)
