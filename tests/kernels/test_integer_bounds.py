"""Integer schedules: nothing is read or written outside their arguments.

Each test runs on every x86 instruction set; in the quick tier, on AVX-512 VNNI alone.
"""

from __future__ import annotations

import ctypes
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import pytest
from guarded import ALIGNMENT, Place
from integer_machines import Machine, check_guarded
from integer_shapes import PARTIAL, QUANTIZED, WEIGHTS, depthwise, few, fused, layer
from numpy_integers import Layer, problem

from mobilenet_tvm.schedules.workloads import Depthwise


@pytest.fixture(scope="module")
def processes() -> Iterator[list[ProcessPoolExecutor]]:
    """Keep one process that may be killed, which tests share and replace."""
    kept: list[ProcessPoolExecutor] = []
    yield kept
    for pool in kept:
        pool.shutdown()


def in_another_process(kept: list[ProcessPoolExecutor], function: Any, *arguments: Any) -> None:
    if not kept:
        kept.append(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
    try:
        kept[0].submit(function, *arguments).result()
    except BrokenProcessPool:
        kept.clear()
        raise


@WEIGHTS
@pytest.mark.parametrize("shape", few(PARTIAL, 5))
def test_nothing_outside_the_arguments_is_touched(
    shape: Layer, weights: str, machine: Machine, processes: list[ProcessPoolExecutor]
) -> None:
    epilogues = [(*QUANTIZED, "add_quantized"), (*QUANTIZED, "lookup"), ("dequantize",)]
    problems = [
        problem(layer(shape, machine, steps, weights), machine.dtype) for steps in epilogues
    ]
    for made in problems:
        assert made.data.nbytes % ALIGNMENT == made.right[0].nbytes % ALIGNMENT == 0
    in_another_process(processes, check_guarded, machine, problems)


@pytest.mark.parametrize(
    "shape",
    few(
        [
            (10, depthwise((1, 8, 8, 17))),
            (33, depthwise((1, 16, 16, 24), stride=(2, 2), padding=(0, 0, 1, 1))),
            (16, depthwise((2, 8, 8, 71), (5, 5), padding=(2, 2, 2, 2))),
        ],
        3,
    ),
)
def test_fused_halves_touch_nothing_outside_their_arguments(
    shape: tuple[int, Depthwise], machine: Machine, processes: list[ProcessPoolExecutor]
) -> None:
    made = problem(fused(shape, machine, (*QUANTIZED, "lookup")), machine.dtype)
    assert made.data.nbytes % ALIGNMENT == made.right[0].nbytes % ALIGNMENT == 0
    in_another_process(processes, check_guarded, machine, [made])


def read_behind() -> int:
    """Read the byte behind an argument."""
    array = Place(np.zeros(64, np.uint8), guarded=True, at_end=True).array
    return ctypes.string_at(array.ctypes.data + 64, 1)[0]


def test_what_reads_behind_a_guarded_argument_is_killed(
    processes: list[ProcessPoolExecutor],
) -> None:
    with pytest.raises(BrokenProcessPool):
        in_another_process(processes, read_behind)
