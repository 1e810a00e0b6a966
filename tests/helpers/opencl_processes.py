"""Runs code in a Python of its own, which finds PoCL or no OpenCL driver at all."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

from pocl import Pocl

#: Prints how many OpenCL devices there are.
LIST = "from mobilenet_tvm.runtime.opencl import devices; print(len(devices()))"


def run_python(code: str, pocl: Pocl | None = None, **environment: str) -> str:
    """Return what a new Python prints, with the last line of its errors."""
    given = {"OCL_ICD_VENDORS": "/nowhere"} if pocl is None else pocl.environment()
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | given | environment,
        capture_output=True,
        text=True,
    )
    return (finished.stdout + "".join(finished.stderr.splitlines(True)[-1:])).strip()
