"""Constants in kernels keep their values, and those that seven digits hold stay readable."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from opencl_kernels import source
from tvm import te, tirx

from mobilenet_tvm.compile.passes.exact_constants import exact_constants
from mobilenet_tvm.schedules.fallback import gpu
from mobilenet_tvm.targets.presets import get_target


def kernel(target: str, *constants: float, dtype: str = "float32") -> str:
    """Return the source of a kernel that adds constants to numbers."""
    machine = get_target(target)
    assert machine.gpu is not None
    data = te.placeholder((8,), dtype, name="data")
    total = te.compute((8,), lambda i: sum((tirx.const(c, dtype) for c in constants), data[i]))
    func = gpu.apply(te.create_prim_func([data, total]), machine).mod["main"]
    mod = exact_constants(tvm.IRModule({"main": func}), machine.gpu)
    return source(mod["main"], machine)


@pytest.mark.parametrize("value", [6 / 11, -1 / 3, 1.0000001, 12345678.0])
def test_what_seven_digits_do_not_hold_is_written_as_bits(value: float) -> None:
    bits = int(np.float32(value).view(np.int32))
    assert f"(as_float({bits})" in kernel("mali", value)
    assert f"(__int_as_float({bits})" in kernel("cuda:sm_90", value)


@pytest.mark.parametrize("value", [0.5, 6.0, -0.1, float("inf")])
def test_other_constants_stay_numbers(value: float) -> None:
    assert "as_float" not in kernel("mali", value)
    assert "as_float" not in kernel("cuda:sm_90", value)


def test_values_of_other_types_stay_numbers() -> None:
    assert "as_float" not in kernel("mali", 1 / 3, dtype="float16")
