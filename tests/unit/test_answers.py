"""Answers of hostile boards and trackers: each wrong type, size or value is a `UserError`."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifacts import some_inputs, write_add

from mobilenet_tvm.runtime.remote import answers
from mobilenet_tvm.runtime.remote.devices import list_boards
from mobilenet_tvm.runtime.remote.errors import BoardError, NoBoard
from mobilenet_tvm.runtime.remote.info import BoardInfo
from mobilenet_tvm.runtime.remote.measuring import read_answer
from mobilenet_tvm.runtime.remote.model import RemoteModel
from mobilenet_tvm.runtime.remote.wire import TrackerLink, WrongPeerError

DEEP = "[" * 100_000

#: What may come instead of any answer.
ODD: list[Any] = [None, "", "1", b"", b"\xff", [], {}, [[]], 0, -1, 1.5, 1 << 62, DEEP, "NaN", True]


class HostileSession:
    """Stands for a session: gives the answers that a test sets."""

    board = BoardInfo("hostile")

    def __init__(self, **given: Any) -> None:
        self.given = {"threads": 1, "load": lambda *_: None} | given

    def upload(self, path: Path) -> str:
        """Return a name."""
        return path.name

    def guarded(self) -> Any:
        """Do nothing."""
        return nullcontext()

    def call(self, name: str, *_: Any) -> Any:
        """Return the answer that is set."""
        return self.given[name.rpartition(".")[2]]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_add(tmp_path_factory.mktemp("answers") / "add.so")


def model(artifact: Path, **given: Any) -> RemoteModel:
    return RemoteModel(HostileSession(**given), artifact, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: str(odd)[:5])
def test_odd_answers_are_refused(artifact: Path, odd: Any) -> None:
    for name in ("threads", "load"):
        with pytest.raises(BoardError):
            model(artifact, **{name: odd})
    with pytest.raises(BoardError):
        model(artifact, load=lambda *_: odd)(*some_inputs(0))
    with pytest.raises(BoardError):
        model(artifact, bench=odd).measure_latency()
    if odd != []:
        with pytest.raises(BoardError):
            answers.read_calls(odd)
    with pytest.raises(BoardError):
        model(artifact, profile=odd).profile()
    with pytest.raises(ValueError, match=r"\w"):
        read_answer(odd)


def test_values_that_are_impossible_are_refused(artifact: Path) -> None:
    for seconds in ([], [0], [-1], [float("nan")], [float("inf")], [1e9], [[1]], ["a"], [1, [2]]):
        with pytest.raises(BoardError, match="did not answer with times"):
            model(artifact, bench=json.dumps(seconds)).measure_latency()
    for calls in ([["f"]], [["f", [1], 2]], [[1, [1]]], [["f", 1]]):
        with pytest.raises(BoardError):
            model(artifact, profile=json.dumps(calls)).profile()
    for size in (0, 1, 2 * 4 * 1024 - 1, 2 * 4 * 1024 + 1):
        with pytest.raises(BoardError, match="8192 bytes"):
            model(artifact, load=lambda *_, size=size: bytes(size))(*some_inputs(0))


def test_right_answers_are_taken(artifact: Path) -> None:
    right = model(
        artifact, threads=3, load=lambda *_: bytes(8192), bench="[0.5]", profile='[["f", [0.25]]]'
    )
    assert right.threads == 3
    assert not any(np.any(output) for output in right(*some_inputs(0)).values())
    assert right.measure_latency().seconds.tolist() == [0.5]
    (call,) = right.profile()
    assert (call.function, call.median) == ("f", 0.25)


@contextmanager
def tracker(answer: bytes) -> Iterator[int]:
    """Serve one client as a tracker that answers its first question so; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError), listener.accept()[0] as client:
                client.sendall(client.recv(4))
                client.recv(1 << 12)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def message(text: str) -> bytes:
    return struct.pack("<i", len(text)) + text.encode()


@pytest.mark.parametrize(
    "answer",
    [
        *map(message, ["", "{}", "7", "null", "[0]", "[1, {}]", DEEP, "[0, []]", "[0, {}]"]),
        message('[0, {"queue_info": [], "server_info": []}]'),
        message('[0, {"queue_info": {"a": 1}, "server_info": []}]'),
        message('[0, {"queue_info": {"a": {"free": "all"}}, "server_info": []}]'),
        message('[0, {"queue_info": {}, "server_info": 1}]'),
        struct.pack("<i", -1),
        struct.pack("<i", 0x7FFFFFFF),
        b"\1",
        message("[0]")[:-1],
        struct.pack("<i", 1) + b"\xff",
    ],
    ids=repr,
)
def test_odd_answers_of_a_tracker_are_refused(answer: bytes) -> None:
    with tracker(answer) as port, pytest.raises(NoBoard, match="no tracker answers"):
        list_boards(f"127.0.0.1:{port}")
    with (
        tracker(answer) as port,
        TrackerLink("127.0.0.1", port) as link,
        pytest.raises((WrongPeerError, ConnectionResetError)),
    ):
        link.request("key", 1, 5.0)


@pytest.mark.parametrize("answer", ["7", "{}", "null", '"all"'])
def test_a_board_survives_odd_offers_of_a_tracker(answer: str) -> None:
    # `OSError` is what a board takes for a lost tracker.
    with (
        tracker(message(answer)) as port,
        TrackerLink("127.0.0.1", port) as link,
        pytest.raises(OSError, match="unexpected"),
    ):
        link.offered()
