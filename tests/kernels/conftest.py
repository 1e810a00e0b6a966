"""Fixtures of the integer schedules: the x86 instruction sets, and types of weights."""

from __future__ import annotations

import pytest
from integer_machines import MACHINES, Machine

QUICK = "avx512-vnni"
#: Machines that multiply weights of 16 bits as another does, and that other one.
AS_ELSEWHERE = {"avx-vnni": "avx2", "avx512bw": "avx512-vnni"}


@pytest.fixture(
    params=[
        pytest.param(
            machine, id=machine.name, marks=() if machine.name == QUICK else pytest.mark.full
        )
        for machine in MACHINES
    ]
)
def machine(request: pytest.FixtureRequest) -> Machine:
    found: Machine = request.param
    if (reason := found.missing()) is not None:
        pytest.skip(reason)
    return found


@pytest.fixture
def weights(request: pytest.FixtureRequest, machine: Machine) -> str:
    """Return the type of the weights, unless another machine tries the same instructions."""
    dtype = str(request.param)
    if dtype == "int16" and machine.name in AS_ELSEWHERE:
        pytest.skip(f"weights of 16 bits are multiplied as on {AS_ELSEWHERE[machine.name]}")
    return dtype
