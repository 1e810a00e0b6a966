"""Fixtures that several test modules share."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import cuda_on_cpu
import pytest
from arm_emulator import Emulator
from board import Board
from intel_opencl import IntelOpenCL
from pocl import Pocl

from mobilenet_tvm.compile.codegen import nvrtc

#: Fixtures for what a script in tests/helpers sets up; the quick tier leaves their tests out.
PARTS = {"board", "intel", "on_intel", "pocl"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if "board" in fixtures:
            item.add_marker("board")
        if fixtures & PARTS or item.get_closest_marker("alone"):
            item.add_marker("full")


@pytest.fixture(scope="session", autouse=True)
def _interrupts_are_raised() -> None:
    """Let SIGINT interrupt, which a shell has ignored by what it starts in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _no_tuning_logs_of_ones_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(autouse=True)
def _no_tuning_logs_of_other_tests(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="session")
def board() -> Board:
    board = Board()
    _demand(board.reason())
    return board


@pytest.fixture(scope="session")
def counting_board(board: Board) -> Emulator:
    emulator = Emulator(board.cache)
    _demand(emulator.reason())
    return emulator


@pytest.fixture(scope="session")
def gcc() -> None:
    _demand(cuda_on_cpu.reason())


@pytest.fixture(scope="session")
def nvrtc_library() -> None:
    missing = nvrtc._nvrtc() is None
    _demand("no NVRTC: pip install 'mobilenet-tvm[cuda]'" if missing else None)


@pytest.fixture(scope="session")
def pocl() -> Iterator[Pocl]:
    pocl = Pocl()
    _demand(pocl.reason())
    pocl.open()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in pocl.environment().items():
            patch.setenv(name, value)
        yield pocl


@pytest.fixture(scope="session")
def intel() -> IntelOpenCL:
    intel = IntelOpenCL()
    _demand(intel.reason())
    return intel


@pytest.fixture(scope="session")
def on_intel(intel: IntelOpenCL) -> Iterator[Callable[..., Any]]:
    """Call functions in another process, where the OpenCL driver is Intel's: it takes float16.

    A process has one OpenCL loader, and that of this one has PoCL's drivers.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in intel.environment().items():
                patch.setenv(name, value)
            # The process starts with its first work.
            pool.submit(int).result()
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


def _demand(reason: str | None) -> None:
    """Skip what needs a part that is missing, for a reason; fail where all parts have to be."""
    if reason is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
