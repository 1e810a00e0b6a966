"""MetaSchedule without half a minute of imports, and without a log line per candidate."""

from __future__ import annotations

import logging
import sys
import types
from typing import Any

import tvm_ffi
from tvm.s_tir import meta_schedule

# Ctrl-C in a function that TVM calls would come out of TVM as a RuntimeError without a word.
tvm_ffi.register_error("KeyboardInterrupt", KeyboardInterrupt)

_INTRINSICS = "tvm.s_tir.tensor_intrin"


def tune_context(*args: Any, **kwargs: Any) -> meta_schedule.TuneContext:
    """Make a `TuneContext`, which imports TVM's tensor intrinsics, without them.

    Their import parses 496 functions in 30 seconds; no schedule of ours uses one. An empty
    module stands in for them meanwhile, so that whoever needs them later still gets them. They
    are also imported by TVM's default build function, which the builder here does not call.
    """
    logging.getLogger("tvm.s_tir.meta_schedule").setLevel(logging.WARNING)
    absent = _INTRINSICS not in sys.modules
    if absent:
        sys.modules[_INTRINSICS] = types.ModuleType(_INTRINSICS)
    try:
        return meta_schedule.TuneContext(*args, **kwargs)
    finally:
        if absent:
            del sys.modules[_INTRINSICS]
