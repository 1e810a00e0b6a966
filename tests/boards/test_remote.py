"""Tests of boards over TVM's RPC, with real trackers and boards: they survive what runs there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from artifacts import scale_and_add, write_add
from click.testing import CliRunner
from remote_boards import Server, board, running, tracker, wait_until, write_call

from mobilenet_tvm.compile.analysis.check_board import check_boards
from mobilenet_tvm.compile.cli.main import cli
from mobilenet_tvm.runtime import connect, load
from mobilenet_tvm.runtime.remote import session as session_module
from mobilenet_tvm.runtime.remote.devices import list_boards
from mobilenet_tvm.runtime.remote.errors import (
    BoardCrashed,
    BoardError,
    BoardLost,
    BoardTimeout,
    NoBoard,
)
from mobilenet_tvm.runtime.remote.info import BoardInfo
from mobilenet_tvm.runtime.remote.listen import listen
from mobilenet_tvm.runtime.remote.lobby import Lobby
from mobilenet_tvm.runtime.remote.marks import MAX_UPLOAD, PREFIX
from mobilenet_tvm.runtime.remote.session import Session
from mobilenet_tvm.runtime.remote.wire import SESSION_MAGIC, TrackerLink, receive, send_text
from mobilenet_tvm.targets.errors import UserError, WrongUseError
from mobilenet_tvm.targets.host import architecture

GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "nothing": b"",
    "half a number": b"ab",
    "a wrong number": b"abcd",
    "a text of negative length": SESSION_MAGIC.to_bytes(4, "little") + b"\xff\xff\xff\xff",
    "a text of 2 GB": SESSION_MAGIC.to_bytes(4, "little") + b"\xff\xff\xff\x7f",
    "a text that is none": SESSION_MAGIC.to_bytes(4, "little") + b"\2\0\0\0\xff\xff",
    "another key": SESSION_MAGIC.to_bytes(4, "little") + b"\x0c\0\0\0client:other",
}


@pytest.fixture(scope="module", autouse=True)
def _uploads_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("remote")


@pytest.fixture(scope="module")
def direct(folder: Path) -> Iterator[Server]:
    """Run a board without a tracker."""
    with board(folder, "direct") as server:
        yield server


@pytest.fixture(scope="module")
def farm(folder: Path) -> Iterator[Server]:
    """Run a tracker with two boards."""
    with (
        tracker(folder) as queue,
        board(folder, "one", "--tracker", queue.address, "--key", "here"),
        board(folder, "two", "--tracker", queue.address, "--key", "here"),
    ):
        wait_until(lambda: free_boards(queue, "here") == 2)
        yield queue


@pytest.fixture(scope="module")
def artifact(folder: Path) -> Path:
    return write_add(folder / "add.so")


@pytest.fixture
def inputs() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.standard_normal((1, 4, 16, 16), np.float32),
        "offset.1": rng.standard_normal((1, 4, 1, 1), np.float32),
    }


def open_session(server: Server, timeout: float = 60.0, wait: float = 20.0) -> Session:
    return Session.open(f"rpc://{server.address}", timeout=timeout, wait=wait)


def free_boards(queue: Server, key: str) -> int:
    with TrackerLink("127.0.0.1", queue.port) as link:
        return link.summary()[0].get(key, {"free": 0})["free"]


def run_library(session: Session, library: Path, timeout: float | None = None) -> int:
    """Call the function of a library that `write_call` wrote."""
    module = session.load_module(session.upload(library))
    with session.guarded(timeout):
        result = tvm.runtime.tensor(np.zeros(1, np.float32), session.device)
        module["main"](result)
        return int(result.numpy()[0])


def test_a_model_on_a_board_answers_as_it_does_here(
    direct: Server, artifact: Path, inputs: dict[str, Any]
) -> None:
    with connect(f"rpc://{direct.address}") as session:
        model = session.load(artifact, threads=2)
        local = load(artifact, threads=2)
        assert (model.inputs, model.outputs) == (local.inputs, local.outputs)
        assert model.threads == local.threads
        answers = model(inputs["image"], **{"offset.1": inputs["offset.1"]})
        expected = scale_and_add(inputs["image"], inputs["offset.1"])
        assert list(answers) == list(expected)
        for name, array in answers.items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-6)
            assert array.dtype == expected[name].dtype
            array += 1


def test_a_session_and_its_model_describe_themselves_in_one_line(
    direct: Server, artifact: Path
) -> None:
    with connect(f"rpc://{direct.address}") as session:
        board = str(session.board)
        assert board.startswith("direct (")
        assert repr(session) == f"<Session with board {board} at {direct.address}>"
        assert repr(session.load(artifact, threads=1)) == (
            "<RemoteModel scale_and_add for test: "
            "image float32[1,4,16,16], offset.1 float32[1,4,1,1] -> "
            f"sum float32[1,4,16,16], positive.1 int32[1,4,16,16], threads: 1, on board {board}>"
        )
    assert repr(session) == f"<Session with board {board} at {direct.address}, closed>"


def test_a_model_on_a_board_checks_its_inputs_as_it_does_here(
    direct: Server, artifact: Path, inputs: dict[str, Any]
) -> None:
    with connect(f"rpc://{direct.address}") as session:
        model = session.load(artifact)
        for wrong in ({}, inputs | {"image": np.zeros(3)}, inputs | {"more": np.zeros(3)}):
            with pytest.raises(UserError) as here:
                load(artifact)(**wrong)
            with pytest.raises(UserError) as there:
                model(**wrong)
            assert str(there.value) == str(here.value)
        assert set(model(**inputs)) == {"sum", "positive.1"}


@pytest.mark.parametrize(
    ("changes", "machine", "message"),
    [
        ({"required_features": ("avx1024",)}, None, "needs avx1024, which the CPU of board direct"),
        ({}, {"x86_64": "aarch64", "aarch64": "x86_64"}[architecture()], "compiled for"),
    ],
)
def test_a_board_that_cannot_run_a_model_gets_no_byte_of_it(
    direct: Server, tmp_path: Path, changes: Any, machine: str | None, message: str
) -> None:
    path = write_add(tmp_path / "other.so", machine, **changes)
    with connect(f"rpc://{direct.address}") as session:
        with pytest.raises(UserError, match=message):
            session.load(path)
        assert not session._uploaded


def test_a_file_is_uploaded_once(direct: Server, artifact: Path) -> None:
    cache = Path(os.environ["XDG_CACHE_HOME"]) / "mobilenet-tvm" / "uploads"
    with open_session(direct) as session:
        name = session.upload(artifact)
    before = (cache / name).stat().st_ino
    with open_session(direct) as session:
        assert session.upload(artifact) == name
        assert (cache / name).stat().st_ino == before
        assert (cache / name).read_bytes() == artifact.read_bytes()


def test_a_file_that_arrives_damaged_is_refused(direct: Server) -> None:
    with open_session(direct) as session:
        with pytest.raises(BoardError, match="damaged"):
            session.call(f"{PREFIX}store", f"{'0' * 64}.so", b"contents")
        assert not session.call(f"{PREFIX}has", f"{'0' * 64}.so")


def test_an_upload_that_was_damaged_on_the_board_is_repaired(
    direct: Server, artifact: Path, inputs: dict[str, Any]
) -> None:
    with open_session(direct) as session:
        name = session.upload(artifact)
    cached = Path(os.environ["XDG_CACHE_HOME"]) / "mobilenet-tvm" / "uploads" / name
    for damaged in (b"", artifact.read_bytes()[:-1] + b"?"):
        cached.write_bytes(damaged)
        with open_session(direct) as session:
            assert set(session.load(artifact)(**inputs)) == {"sum", "positive.1"}
        assert cached.read_bytes() == artifact.read_bytes()


def test_a_file_larger_than_boards_take_is_not_sent(direct: Server, tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.truncate(MAX_UPLOAD + 1)
    with open_session(direct) as session, pytest.raises(UserError, match="of which boards take"):
        session.upload(path)


def test_an_error_of_a_function_there_ends_no_session(direct: Server) -> None:
    with open_session(direct) as session:
        with pytest.raises(BoardError, match=r"board direct: .*no such file"):
            session.call(f"{PREFIX}load", "missing.so", 1)
        with pytest.raises(BoardError, match="TypeError"):
            session.call(f"{PREFIX}load")
        with pytest.raises(BoardError, match=r"no function mobilenet_tvm\.board\.none"):
            session.call(f"{PREFIX}none")
        assert BoardInfo.from_dict(BoardInfo.of_this_machine("direct").to_dict()) == session.board


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_code_that_crashes_ends_its_session_and_not_the_board(
    direct: Server, tmp_path: Path, number: signal.Signals
) -> None:
    library = write_call(tmp_path / "crash.so", "raise", number)
    with (
        open_session(direct) as session,
        pytest.raises(BoardCrashed, match=rf"board direct .*{number.name}"),
    ):
        run_library(session, library)
    with pytest.raises(BoardLost, match="over"):
        session.call(f"{PREFIX}info")
    with open_session(direct) as session:
        assert session.board.name == "direct"


def test_code_that_hangs_is_ended_by_the_board_at_the_sessions_limit(
    direct: Server, tmp_path: Path
) -> None:
    library = write_call(tmp_path / "hang.so", "sleep", 1000)
    start = time.monotonic()
    with open_session(direct, timeout=2.0) as session, pytest.raises(BoardTimeout, match="limit"):
        run_library(session, library)
    assert time.monotonic() - start < 4
    with open_session(direct) as session:
        assert session.board.name == "direct"


def test_a_call_has_a_time_limit_of_its_own_and_frees_the_board(
    direct: Server, tmp_path: Path
) -> None:
    library = write_call(tmp_path / "hang.so", "sleep", 1000)
    with open_session(direct) as session, pytest.raises(BoardTimeout, match="silent"):
        run_library(session, library, timeout=0.5)
    start = time.monotonic()
    with open_session(direct) as session:
        assert session.board.name == "direct"
    assert time.monotonic() - start < 4


def test_a_client_that_is_killed_frees_the_board(direct: Server, tmp_path: Path) -> None:
    library = write_call(tmp_path / "hang.so", "sleep", 1000)
    code = (
        "import sys; from mobilenet_tvm.runtime.remote.session import Session;"
        "session = Session.open(sys.argv[1]); name = session.upload(sys.argv[2]);"
        "print('ready', flush=True);"
        "session.call('mobilenet_tvm.board.time', name, '[[1]]', 1)"
    )
    command = [sys.executable, "-c", code, f"rpc://{direct.address}", str(library)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            client.wait(0.3)
        client.kill()
    start = time.monotonic()
    with open_session(direct) as session:
        assert session.board.name == "direct"
    assert time.monotonic() - start < 4


def test_a_board_that_is_stopped_is_noticed(folder: Path) -> None:
    with board(folder, "stopped") as server:
        with open_session(server) as session:
            server.process.send_signal(signal.SIGSTOP)
            children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
            (child,) = map(int, children.read_text().split())
            os.kill(child, signal.SIGSTOP)
            # All its threads, of which one answers.
            threads = list(Path(f"/proc/{child}/task").iterdir())
            wait_until(lambda: all("T (stopped)" in (t / "status").read_text() for t in threads))
            with pytest.raises(BoardTimeout, match="silent"):
                session.call(f"{PREFIX}info", timeout=0.5)
        start = time.monotonic()
        with pytest.raises(NoBoard, match="did not answer"):
            open_session(server, wait=0.5)
        assert time.monotonic() - start < 2
    wait_until(lambda: not Path(f"/proc/{child}").exists())


@pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh: install OpenSSH's client")
def test_a_board_that_ssh_does_not_reach_is_said_in_its_words() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(NoBoard, match=f"'ssh -p {port} pi@127.0.0.1' has to work"):
            Session.open(f"ssh://pi@127.0.0.1:{port}")


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_garbage_on_the_port_ends_nothing(direct: Server, farm: Server, garbage: bytes) -> None:
    for port in (direct.port, farm.port):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(garbage)
    with open_session(direct) as session:
        assert session.board.name == "direct"
    assert len(list_boards(farm.address)) == 2


def test_idle_and_slow_connections_keep_a_board_from_nobody(direct: Server) -> None:
    place = ("127.0.0.1", direct.port)
    with ExitStack() as stack:
        slow = stack.enter_context(socket.create_connection(place))
        slow.sendall(SESSION_MAGIC.to_bytes(4, "little") + (4000).to_bytes(4, "little"))
        for _ in range(300):
            stack.enter_context(socket.create_connection(place))
        start = time.monotonic()
        with open_session(direct, wait=10) as session:
            assert session.board.name == "direct"
            assert time.monotonic() - start < 2
            # Also not from those who wait while it is busy.
            for _ in range(300):
                stack.enter_context(socket.create_connection(place))
        start = time.monotonic()
        with open_session(direct, wait=10) as session:
            assert session.board.name == "direct"
        assert time.monotonic() - start < 2
        slow.settimeout(10)
        with suppress(ConnectionResetError):
            while True:
                # Each byte starts no new time limit.
                slow.sendall(b"a")
                with suppress(TimeoutError):
                    slow.settimeout(0.2)
                    if not slow.recv(1):
                        break
                assert time.monotonic() - start < 8


def test_clients_that_wait_are_served_in_turn_and_those_that_leave_are_forgotten() -> None:
    with listen("127.0.0.1", [0]) as listener:
        place, lobby = listener.getsockname(), Lobby(listener)
        clients = [socket.create_connection(place) for _ in range(3)]
        for index in (2, 0, 1):
            said = f"client:{index}".encode()
            head = SESSION_MAGIC.to_bytes(4, "little") + len(said).to_bytes(4, "little")
            clients[index].sendall(head[:5])
            lobby.attend(1)
            clients[index].sendall(head[5:] + said)
            lobby.attend(1)
        clients[0].close()
        lobby.attend(1)
        served = [lobby.next(0.1) for _ in range(3)]
        assert [found and found[1] for found in served] == ["client:2", "client:1", None]
        for client in clients:
            client.close()
        for found in served[:2]:
            assert found is not None
            found[0].connection.close()
        lobby.close()


@pytest.mark.parametrize(
    "messages",
    [
        [[5, {"key": 5, "addr": [None, 1]}]],
        [[5, {"key": "server:here", "addr": [None, "x"]}]],
        [[5, {"key": "server:here", "addr": "there"}]],
        [[5, {"key": "server:here", "addr": [None, 1], "board": {"name": [], "cores": "x"}}]],
        [[5, {"key": "server:here", "addr": [None, 1], "board": 7}]],
        [[3, "here", ["x", "y"], None]],
        [[3, ["here"], [1, "y"], None]],
        [[3, "here", [1, None], None]],
        [[4, "here", "", "first"]],
    ],
)
def test_who_registers_wrongly_disturbs_no_other(farm: Server, messages: list[Any]) -> None:
    with socket.create_connection(("127.0.0.1", farm.port), 5) as stranger:
        stranger.sendall((0x2F271).to_bytes(4, "little"))
        assert len(receive(stranger, 4)) == 4
        for message in messages:
            send_text(stranger, json.dumps(message))
        stranger.settimeout(0.3)
        with suppress(OSError):
            stranger.recv(64)
        assert {board.info.name for board in list_boards(farm.address)} == {"one", "two"}
        with Session.open(f"tracker://{farm.address}/here", wait=10) as session:
            assert session.board.name in ("one", "two")
    wait_until(lambda: free_boards(farm, "here") == 2)


def test_idle_connections_keep_a_tracker_from_nobody(farm: Server) -> None:
    with ExitStack() as stack:
        for _ in range(920):
            stack.enter_context(socket.create_connection(("127.0.0.1", farm.port)))
        assert len(list_boards(farm.address)) == 2


def test_a_tracker_gives_each_client_a_board_of_its_own(farm: Server) -> None:
    address = f"tracker://{farm.address}/here"
    with Session.open(address) as first, Session.open(address) as second:
        assert {first.board.name, second.board.name} == {"one", "two"}
        assert [board.busy for board in list_boards(farm.address)] == [True, True]
        with pytest.raises(NoBoard, match=r"no board of key here became free .* of 2"):
            Session.open(address, wait=0.3)
    wait_until(lambda: free_boards(farm, "here") == 2)
    assert [board.busy for board in list_boards(farm.address)] == [False, False]


def test_no_board_says_why(farm: Server, direct: Server) -> None:
    with pytest.raises(NoBoard, match="no board of key other; keys: here"):
        Session.open(f"tracker://{farm.address}/other")
    one = list_boards(farm.address)[0]
    with pytest.raises(NoBoard, match="takes clients of its tracker only"):
        Session.open(f"rpc://{one.address}")
    with pytest.raises(NoBoard, match="no tracker answers"):
        Session.open(f"tracker://{direct.address}/here")
    with pytest.raises(NoBoard, match="is not a board"):
        Session.open(f"rpc://{farm.address}", wait=3)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(NoBoard, match="nothing listens"):
            Session.open(f"rpc://127.0.0.1:{unused.getsockname()[1]}")
    with pytest.raises(WrongUseError, match="this machine"):
        Session.open("local")


def test_a_board_that_hangs_is_found_and_passed_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "CONNECT_TIMEOUT", 1.5)
    with tracker(folder) as queue:
        register = ("--tracker", queue.address, "--key", "x")
        with board(folder, "stuck", *register) as stuck:
            wait_until(lambda: free_boards(queue, "x") == 1)
            stuck.process.send_signal(signal.SIGSTOP)
            with board(folder, "alive", *register):
                wait_until(lambda: free_boards(queue, "x") == 2)
                boards = list_boards(queue.address)
                problems = check_boards(queue.address, boards)
                assert list(problems) == [stuck.address]
                assert "hangs" in problems[stuck.address]
                with Session.open(f"tracker://{queue.address}/x") as session:
                    assert session.board.name == "alive"


def test_a_board_comes_back_when_its_tracker_does(folder: Path) -> None:
    with tracker(folder) as queue:
        port = queue.port
        with board(folder, "loyal", "--tracker", queue.address, "--key", "x") as server:
            wait_until(lambda: free_boards(queue, "x") == 1)
            with Session.open(f"tracker://{queue.address}/x") as session:
                assert queue.stop(signal.SIGKILL) == -signal.SIGKILL
                assert session.call(f"{PREFIX}has", "x.so") is False
                server.wait_for("listens")
            server.wait_for("trying again")
            with tracker(folder, port) as queue:
                wait_until(lambda: free_boards(queue, "x") == 1)
                with Session.open(f"tracker://{queue.address}/x") as session:
                    assert session.board.name == "loyal"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_board_and_tracker_cleanly(folder: Path, number: signal.Signals) -> None:
    with tracker(folder) as queue:
        register = ("--tracker", queue.address, "--key", "x")
        with board(folder, "brief", *register) as server:
            wait_until(lambda: free_boards(queue, "x") == 1)
            with Session.open(f"tracker://{queue.address}/x") as session:
                assert server.stop(number) == 0
                assert server.said()[-1] == "board brief ended"
                with pytest.raises(BoardLost):
                    session.call(f"{PREFIX}info")
        wait_until(lambda: not list_boards(queue.address))
        assert queue.stop(number) == 0
        assert queue.said()[-1] == "tracker ended"
        assert "Traceback" not in queue.log.read_text()


def test_ports_are_searched_and_one_that_was_asked_for_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with listen("127.0.0.1", [0]) as first:
        port = first.getsockname()[1]
        with listen("127.0.0.1", [port, 0]) as second:
            assert second.getsockname()[1] != port
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port}"):
            listen("127.0.0.1", [port])
    with pytest.raises(UserError, match="cannot listen on"):
        listen("192.0.2.1", [0])
    assert not caplog.records


def test_an_address_that_others_reach_comes_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    listen("0.0.0.0", [0]).close()  # noqa: S104
    assert "no authentication" in caplog.text


@pytest.mark.parametrize(
    "options",
    [["--key", "x"], ["--tracker", "127.0.0.1:1"], ["--tracker", "here", "--key", "x"]],
)
def test_wrong_use_of_serve_is_one_line(options: list[str]) -> None:
    command = [sys.executable, "-m", "mobilenet_tvm.compile.cli.main", "serve", *options]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 2
    assert len(finished.stderr.splitlines()) == 1


def test_commands_reach_a_board(farm: Server, artifact: Path) -> None:
    device = f"tracker://{farm.address}/here"
    bench = CliRunner().invoke(cli, ["bench", str(artifact), "--device", device, "--rounds", "5"])
    assert bench.exit_code == 0, bench.output
    assert re.search(r"^board +(one|two) \(", bench.output, re.MULTILINE)
    assert re.search(r"^call +[\d.]+ ms from here", bench.output, re.MULTILINE)
    profile = CliRunner().invoke(cli, ["profile", str(artifact), "--device", device])
    assert profile.exit_code == 0, profile.output
    assert re.match(r"peak of \d+ threads of (one|two): [\d.]+ GFLOP/s", profile.output)
    assert "add" in profile.output
    devices = CliRunner().invoke(cli, ["devices", "--tracker", farm.address, "--check"])
    assert devices.exit_code == 0, devices.output
    assert devices.output.count("works") == 2


def test_servers_of_tvms_own_are_boards_too(folder: Path, artifact: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        ports = [f"--port={free.getsockname()[1]}", "--port-end=65536"]
    command = [sys.executable, "-m", "tvm.exec.rpc_server", "--host", "127.0.0.1", *ports]
    ready = r"bind to 127.0.0.1:(\d+)"
    with (
        running(command, folder / "stock.log", ready=ready) as server,
        open_session(server) as session,
    ):
        assert session.board.architecture == architecture()
        assert session.board.features is None
        assert run_library(session, write_call(tmp_path / "abs.so", "abs", -7)) == 7
        with pytest.raises(UserError, match="TVM's own server"):
            session.load(artifact)


def test_clients_of_tvms_own_can_use_a_board(farm: Server, tmp_path: Path) -> None:
    library = write_call(tmp_path / "abs.so", "abs", -7)
    remote = tvm.rpc.connect_tracker("127.0.0.1", farm.port).request("here", session_timeout=30)
    remote.upload(str(library))
    module = remote.load_module(library.name)
    result = tvm.runtime.tensor(np.zeros(1, np.float32), remote.cpu(0))
    module["main"](result)
    assert result.numpy() == [7]
    seconds = module.time_evaluator("main", remote.cpu(0), number=2, repeat=3)(result).results
    assert len(seconds) == 3
