"""Fixtures that several test modules share."""

import os
from collections.abc import Iterator

import cuda_on_cpu
import pytest
from board import Board
from pocl import Pocl


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "board" in getattr(item, "fixturenames", ()):
            item.add_marker("board")


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
    reason = board.reason()
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return board


@pytest.fixture(scope="session")
def gcc() -> None:
    reason = cuda_on_cpu.reason()
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def pocl() -> Iterator[Pocl]:
    pocl = Pocl()
    reason = pocl.reason()
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    pocl.open()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in pocl.environment().items():
            patch.setenv(name, value)
        yield pocl
