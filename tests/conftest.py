"""Fixtures that several test modules share."""

import os

import pytest
from board import Board


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "board" in getattr(item, "fixturenames", ()):
            item.add_marker("board")


@pytest.fixture(scope="session")
def board() -> Board:
    board = Board()
    reason = board.reason()
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return board
