"""Functions of floats against double precision: errors in units in the last place, and NaN."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import s_tir, te, tirx

from mobilenet_tvm.compile.codegen.build import write_library
from mobilenet_tvm.targets.host import cpu_features
from mobilenet_tvm.targets.presets import PRESETS

Array = np.ndarray[Any, Any]


#: Function in double precision, and the largest error.
FUNCTIONS: dict[str, tuple[Callable[[Array], Array], float]] = {
    "exp": (np.exp, 2),
    "log": (np.log, 3),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 4),
    "tanh": (np.tanh, 4),
    "erf": (np.vectorize(math.erf), 8),
}


def compute(name: str, values: Array, lanes: int, folder: Path) -> Array:
    """Return a function of values, computed in vectors of some length."""
    target = PRESETS["x86"]
    if missing := {*target.required_features} - cpu_features():
        pytest.skip(f"this CPU lacks {', '.join(sorted(missing))}")
    size = len(values) // lanes * lanes
    data = te.placeholder((size,), str(values.dtype), name="data")
    result = te.compute((size,), lambda i: getattr(tirx, name)(data[i]), name="result")
    sch = s_tir.Schedule(te.create_prim_func([data, result]))
    _, vector = sch.split(*sch.get_loops(sch.get_sblock("result")), [None, lanes])
    sch.vectorize(vector)
    func = sch.mod["main"].with_attr("global_symbol", "main")
    library = folder / f"{name}_{lanes}.so"
    write_library(tvm.IRModule({"main": func}), target, library)
    tensors = [tvm.runtime.tensor(values[:size]), tvm.runtime.tensor(np.empty(size, values.dtype))]
    tvm.runtime.load_module(str(library))["main"](*tensors)
    return np.asarray(tensors[1].numpy())


def samples() -> Array:
    """Return values of all magnitudes and signs."""
    rng = np.random.default_rng(0)
    small = np.exp(rng.uniform(-60, 4, 40_000)) * rng.choice([-1, 1], 40_000)
    parts = [rng.uniform(-100, 100, 40_000), rng.standard_normal(40_000), small]
    return np.concatenate(parts).astype(np.float32)


@pytest.mark.parametrize("lanes", [8, 13])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors_are_a_few_units_in_the_last_place(name: str, lanes: int, tmp_path: Path) -> None:
    function, limit = FUNCTIONS[name]
    values = np.abs(samples()) if name == "log" else samples()
    found = compute(name, values, lanes, tmp_path)
    with np.errstate(over="ignore"):
        right = function(values[: len(found)].astype(np.float64))
    # Beyond these, the result is 0 or infinite.
    usual = (np.abs(right) > 2e-38) & (np.abs(right) < 3e38)
    assert usual.sum() > 10_000
    units = np.abs(found - right)[usual] / np.spacing(np.abs(right[usual]).astype(np.float32))
    assert units.max() <= limit


@pytest.mark.parametrize(
    ("name", "results"),
    [
        ("exp", [math.nan, math.inf, 0, 1, math.inf, 0]),
        ("log", [math.nan, math.inf, math.nan, -math.inf, math.log(100), math.nan]),
        ("sigmoid", [math.nan, 1, 0, 0.5, 1, 0]),
        ("tanh", [math.nan, 1, -1, 0, 1, -1]),
        ("erf", [math.nan, 1, -1, 0, 1, -1]),
    ],
)
def test_values_at_the_ends(name: str, results: list[float], tmp_path: Path) -> None:
    values = np.array([math.nan, math.inf, -math.inf, 0, 100, -100], np.float32)
    found = compute(name, values, 1, tmp_path)
    np.testing.assert_allclose(found, np.array(results, np.float32), rtol=2e-7, atol=1e-37)


@pytest.mark.parametrize("name", ["exp", "erf"])
def test_results_in_float16_are_the_nearest(name: str, tmp_path: Path) -> None:
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    with np.errstate(all="ignore"):
        right = FUNCTIONS[name][0](values.astype(np.float64)).astype(np.float16)
    found = compute(name, values, 8, tmp_path)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(values))
    real = ~np.isnan(values)
    # Except where float32's error decides.
    assert (found != right)[real].mean() < 1e-3
    np.testing.assert_allclose(found[real], right[real], rtol=1e-3, atol=6e-8)


def test_code_calls_no_library(tmp_path: Path) -> None:
    compute("exp", samples(), 8, tmp_path)
    assert b"expf" not in (tmp_path / "exp_8.so").read_bytes()
