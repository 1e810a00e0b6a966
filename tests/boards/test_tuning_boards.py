"""Tuning on boards that share this machine: real tracker, servers and sessions, and real faults."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from board import Board
from farm_parts import (
    Part,
    Relay,
    ServedBoard,
    Tracker,
    answers,
    emulated,
    free_port,
    processes_below,
)
from remote_boards import wait_until
from tvm import tirx

from mobilenet_tvm.compile.tuning.boards.farm import Farm, misfit, require_fitting, survey
from mobilenet_tvm.compile.tuning.boards.files import compile_with_arguments
from mobilenet_tvm.compile.tuning.boards.runner import BoardRunner
from mobilenet_tvm.compile.tuning.local.builder import Builder
from mobilenet_tvm.compile.tuning.measure import Measurement
from mobilenet_tvm.compile.tuning.progress import Event
from mobilenet_tvm.compile.tuning.space import Space
from mobilenet_tvm.compile.tuning.task import Outcome, Task
from mobilenet_tvm.compile.tuning.tune import Tuned, tune
from mobilenet_tvm.runtime.address import Address
from mobilenet_tvm.runtime.remote.devices import ListedBoard
from mobilenet_tvm.runtime.remote.info import BoardInfo
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.workloads import (
    Depthwise,
    GlobalPool,
    Pointwise,
    Step,
    Window,
    Workload,
    parse,
)
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.presets import get_target, native
from mobilenet_tvm.targets.target import Target

BIAS, CLIP = Step("add_channel"), Step("clip", (0.0, 6.0))
NATIVE = native()
#: Of six decisions on any machine.
WIDE_POOL = GlobalPool(1, 9, 384)
DENSE = Pointwise(10, 16, 32, (BIAS, Step("add")))
DEPTHWISE = Depthwise(1, 6, 6, 16, Window((3, 3), (1, 1), (1, 1, 1, 1)), (BIAS, CLIP))
LAYERS: dict[Workload, int] = {WIDE_POOL: 1, DENSE: 3, DEPTHWISE: 2}
#: A search that lasts: each has hundreds of decisions.
MANY: dict[Workload, int] = {Pointwise(49, 96, 16 * n, (BIAS,)): 1 for n in range(4, 12)}

#: Boards that are not what they seem to be: Python that runs before their server.
SLOW = """
import time
from mobilenet_tvm.runtime.remote import measuring
real = measuring.answerer
def answerer(locate):
    def answer(request, real=real(locate)):
        time.sleep(0.1)
        return real(request).replace('"seconds": ', '"seconds": 1')
    return answer
measuring.answerer = answerer
"""
GARBAGE = """
from mobilenet_tvm.runtime.remote import measuring
measuring.answerer = lambda locate: lambda request: '{"seconds": NaN}'
"""
WRONG = """
from mobilenet_tvm.runtime import measure
from mobilenet_tvm.runtime.remote import measuring
def wrong(*arguments):
    return measure.Failure("wrong", "two and two are five")
measuring.measure_candidate = wrong
"""
#: Registers as a board, shakes hands, and then talks nonsense.
NONSENSE = """
import os, random, socket, struct, sys
from mobilenet_tvm.runtime.remote.wire import TrackerLink, receive_int, receive_text
link = TrackerLink("127.0.0.1", int(sys.argv[1]))
link.describe({"key": "server:x86", "addr": ["127.0.0.1", 1]})
listener = socket.create_server(("127.0.0.1", 0))
while True:
    key = f"x86:{random.random()}"
    link.offer("x86", listener.getsockname()[1], key, None)
    connection, _ = listener.accept()
    receive_int(connection), receive_text(connection)
    connection.sendall(struct.pack("<ii", 0xff271, 10) + b"server:x86" + os.urandom(4096))
    connection.close()
"""


class Run:
    """A run of the tuner, and what it has said when.

    Parameters
    ----------
    address : str
        Of the boards.
    at : int
        After so many candidates,
    act : callable
        this is done.
    **options
        Of `tune`, and of `Farm` where they are its.
    """

    def __init__(
        self,
        address: str,
        layers: dict[Workload, int] | None = None,
        at: int = 0,
        act: Callable[[], Any] | None = None,
        **options: Any,
    ) -> None:
        self.results: list[tuple[Workload, Any, Measurement]] = []
        self.events: list[Event] = []
        #: Moments after the act, by what was said then.
        self.lines: dict[str, float] = {}
        self.acted = time.monotonic()
        self._at, self._act = at, act
        farm = {k: options.pop(k) for k in ("limit", "priority", "wait_timeout") if k in options}
        self.tuned: Tuned = tune(
            layers or LAYERS,
            options.pop("target", NATIVE),
            farm=Farm(Address.parse(address), **farm),
            on_result=lambda *result: self.results.append(result),
            on_event=self._event,
            say=self._say,
            **options,
        )

    @property
    def boards(self) -> dict[str, int]:
        """How many candidates each board has measured."""
        return dict(self.tuned.boards)

    def said(self, words: str) -> float:
        """Return how many seconds after the act something was said first."""
        return next(moment for line, moment in self.lines.items() if words in line)

    def _say(self, line: str) -> None:
        self.lines.setdefault(line, time.monotonic() - self.acted)

    def _event(self, event: Event) -> None:
        self.events.append(event)
        if len(self.events) == self._at and self._act is not None:
            self.acted = time.monotonic()
            self._act()


@pytest.fixture
def tracker() -> Iterator[Tracker]:
    part = Tracker()
    yield part
    part.end()


@pytest.fixture
def start(tracker: Tracker) -> Iterator[Callable[..., ServedBoard]]:
    parts: list[Part] = []

    def start(name: str, first: str = "") -> ServedBoard:
        board = ServedBoard(tracker, "x86", name, first, core=len(parts))
        parts.append(board)
        return board

    yield start
    for part in parts:
        part.end()


@pytest.fixture
def two(tracker: Tracker, start: Callable[..., ServedBoard]) -> list[ServedBoard]:
    boards = [start("one"), start("two")]
    tracker.wait_for("x86", 2)
    return boards


@pytest.mark.alone
@pytest.mark.usefixtures("two")
def test_two_boards_share_a_run_and_are_free_afterwards(tracker: Tracker) -> None:
    before = processes_below()
    run = Run(tracker.address("x86"), trials=30)
    assert run.tuned.trials == 30
    assert not run.tuned.over
    assert run.boards.keys() == {"one", "two"}
    assert min(run.boards.values()) >= 8
    for task in run.tuned.tasks:
        assert not task.failures
        assert next(iter(task.outcomes)) is not None
        assert task.default is not None
        assert task.times[task.best].seconds <= task.default.seconds
    assert len({(workload, decision) for workload, decision, _ in run.results}) == 30
    assert {measurement.device for *_, measurement in run.results} == {survey_machine(tracker)}
    assert processes_below() <= before
    tracker.wait_for("x86", 2)


def survey_machine(tracker: Tracker) -> str:
    (machine,) = {board.info.machine for board in survey(Address.parse(tracker.address("x86")))}
    return machine


@pytest.mark.alone
def test_servers_of_tvms_own_measure_too(tracker: Tracker) -> None:
    port = free_port()
    server = [sys.executable, "-m", "tvm.exec.rpc_server", "--host=127.0.0.1", "--key=stock"]
    where = [f"--port={port}", f"--port-end={port + 1}", f"--tracker=127.0.0.1:{tracker.port}"]
    board = Part(*server, *where, stdout=subprocess.DEVNULL)
    try:
        tracker.wait_for("stock", 1)
        run = Run(tracker.address("stock"), trials=12)
        assert run.tuned.trials == 12
        assert not sum(sum(task.failures.values()) for task in run.tuned.tasks)
        assert sum(run.boards.values()) == 12
        assert all(task.default is not None for task in run.tuned.tasks)
    finally:
        board.end()


@pytest.mark.alone
@pytest.mark.usefixtures("two")
def test_a_run_keeps_to_its_number_of_boards(tracker: Tracker) -> None:
    fewest = []
    run = Run(
        tracker.address("x86"),
        at=8,
        act=lambda: fewest.append(tracker.state("x86")[1]),
        trials=16,
        limit=1,
    )
    assert run.tuned.trials == 16
    assert fewest == [1]
    assert len(run.boards) == 1


@pytest.mark.alone
def test_a_board_that_is_killed_is_noticed_and_the_other_goes_on(
    tracker: Tracker, two: list[ServedBoard]
) -> None:
    run = Run(tracker.address("x86"), at=8, act=two[0].end, trials=40)
    assert run.tuned.trials == 40
    assert not run.tuned.over
    assert not sum(sum(task.failures.values()) for task in run.tuned.tasks)
    assert run.said("board one") < 3
    assert run.boards["two"] > run.boards["one"]


@pytest.mark.alone
def test_a_board_that_stops_is_noticed_at_the_time_out_and_used_when_it_goes_on(
    tracker: Tracker, two: list[ServedBoard]
) -> None:
    def stop() -> None:
        two[0].signal(signal.SIGSTOP)
        threading.Timer(4, two[0].signal, [signal.SIGCONT]).start()

    run = Run(tracker.address("x86"), MANY, at=8, act=stop, trials=200, timeout=2.0)
    assert not run.tuned.over
    assert run.tuned.trials >= 100
    assert not sum(sum(task.failures.values()) for task in run.tuned.tasks)
    assert run.said("board one") < 2.0 + 2
    # Those that were measured meanwhile are the other board's.
    again = run.said("is tried again")
    assert 4 < again < 4 + 6


@pytest.mark.alone
@pytest.mark.usefixtures("two")
def test_a_tracker_that_is_started_again_ends_no_run(tracker: Tracker) -> None:
    again: list[Tracker] = []

    def restart() -> None:
        tracker.end()
        again.append(Tracker(tracker.port))

    try:
        run = Run(tracker.address("x86"), MANY, at=8, act=restart, trials=60)
        assert run.tuned.trials == 60
        assert not run.tuned.over
        again[0].wait_for("x86", 2)
    finally:
        for part in again:
            part.end()


@pytest.mark.alone
def test_the_network_may_be_away_for_a_time() -> None:
    serve = [sys.executable, "-m", "mobilenet_tvm.runtime.remote.serve", "--name", "far"]
    port = free_port()
    board = Part(*serve, "--port", str(port))
    try:
        wait_until(lambda: answers(port))
        relay = Relay(port)

        def cut() -> None:
            relay.cut()
            threading.Timer(4, relay.restore).start()

        run = Run(f"rpc://127.0.0.1:{relay.port}", at=8, act=cut, trials=30)
        assert run.tuned.trials == 30
        assert not run.tuned.over
        assert run.said("board far") < 2
        assert 4 < run.said("is tried again") < 4 + 6
    finally:
        board.end()


@pytest.mark.alone
def test_with_no_board_left_the_run_waits_and_then_ends_with_all_it_has(
    tracker: Tracker, two: list[ServedBoard]
) -> None:
    def end() -> None:
        for board in two:
            board.end()

    run = Run(tracker.address("x86"), at=8, act=end, trials=60, wait_timeout=4.0)
    ended = time.monotonic() - run.acted
    assert "no board is left" in run.tuned.over
    assert 4 < ended < 4 + 8
    assert 8 <= run.tuned.trials < 60
    assert len(run.results) == run.tuned.trials
    assert all(task.ended for task in run.tuned.tasks)


@pytest.mark.alone
@pytest.mark.parametrize("fault", [GARBAGE, WRONG], ids=["garbage", "wrong"])
def test_a_board_with_wrong_answers_measures_nothing(
    fault: str, tracker: Tracker, start: Callable[..., ServedBoard]
) -> None:
    start("good")
    start("bad", fault)
    tracker.wait_for("x86", 2)
    run = Run(tracker.address("x86"), trials=16)
    assert run.tuned.trials == 16
    assert not sum(sum(task.failures.values()) for task in run.tuned.tasks)
    assert run.boards.keys() == {"good"}
    assert run.said("board bad") < 20


@pytest.mark.alone
def test_a_peer_that_talks_nonsense_harms_nobody(
    tracker: Tracker, start: Callable[..., ServedBoard]
) -> None:
    peer = Part(sys.executable, "-c", NONSENSE, str(tracker.port))
    try:
        start("good")
        tracker.wait_for("x86", 2)
        run = Run(tracker.address("x86"), trials=16)
        assert run.tuned.trials == 16
        assert run.boards == {"good": 16}
    finally:
        peer.end()


@pytest.mark.alone
def test_a_slow_board_is_reported_and_set_aside(
    tracker: Tracker, start: Callable[..., ServedBoard]
) -> None:
    start("fast")
    start("slow", SLOW)
    tracker.wait_for("x86", 2)
    run = Run(tracker.address("x86"), trials=40)
    assert any("board slow" in line and "times as long" in line for line in run.lines)
    assert run.boards.get("slow", 0) <= 1


@pytest.mark.alone
@pytest.mark.usefixtures("two")
def test_a_log_that_cannot_be_written_ends_the_run(tracker: Tracker) -> None:
    def fail(*_: Any) -> None:
        raise UserError("no room")

    farm = Farm(Address.parse(tracker.address("x86")))
    with pytest.raises(UserError, match="no room"):
        tune(LAYERS, NATIVE, trials=30, farm=farm, on_result=fail)
    tracker.wait_for("x86", 2)


def aborting(func: tirx.PrimFunc) -> tirx.PrimFunc:
    return func.with_body(tirx.Evaluate(tirx.call_extern("int32", "abort")))


def hanging(func: tirx.PrimFunc) -> tirx.PrimFunc:
    return func.with_body(tirx.Evaluate(tirx.call_extern("int32", "sleep", 600)))


def unwritten(func: tirx.PrimFunc) -> tirx.PrimFunc:
    return func.with_body(tirx.Evaluate(0))


def unbuilt(_func: tirx.PrimFunc) -> tirx.PrimFunc:
    raise ValueError("no such loop")


@pytest.mark.alone
@pytest.mark.usefixtures("two")
def test_broken_candidates_are_marked_and_no_board_is_blamed(tracker: Tracker) -> None:
    decisions = registry.decisions(WIDE_POOL, NATIVE)
    kinds = [unbuilt, unwritten, aborting, hanging]
    breakages = dict(zip(decisions[1:], kinds, strict=False))

    def build(workload: Workload, decision: Any, target: Target) -> tirx.PrimFunc:
        func = registry.build(workload, decision, target)
        return breakages[decision](func) if decision in breakages else func

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        run = Run(
            tracker.address("x86"),
            {WIDE_POOL: 1},
            trials=len(decisions),
            build=build,
            timeout=2.0,
        )
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    (task,) = run.tuned.tasks
    assert task.failures == {"wrong": 1, "build": 1, "crashed": 1, "hung": 1}
    assert len(task.times) == len(decisions) - len(kinds)
    assert not breakages.keys() & {decision for _, decision, _ in run.results}
    tracker.wait_for("x86", 2)


def test_one_board_alone_measures_all_and_marks_the_broken(tracker: Tracker, start: Any) -> None:
    start("only")
    tracker.wait_for("x86", 1)
    decisions = registry.decisions(WIDE_POOL, NATIVE)

    def build(workload: Workload, decision: Any, target: Target) -> tirx.PrimFunc:
        func = registry.build(workload, decision, target)
        return unwritten(func) if decision == decisions[1] else func

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        run = Run(tracker.address("x86"), {WIDE_POOL: 1}, trials=len(decisions), build=build)
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    (task,) = run.tuned.tasks
    assert task.failures == {"wrong": 1}
    assert run.boards == {"only": len(decisions) - 1}


def other_target() -> Target:
    return get_target("cortex-a72" if NATIVE.architecture == "x86_64" else "x86")


@pytest.mark.alone
def test_boards_of_another_architecture_end_the_run_at_once(
    tracker: Tracker, start: Callable[..., ServedBoard]
) -> None:
    start("one")
    tracker.wait_for("x86", 1)
    with pytest.raises(UserError, match="board one is"):
        require_fitting(survey(Address.parse(tracker.address("x86"))), other_target())
    began = time.monotonic()
    run = Run(tracker.address("x86"), {DENSE: 1}, trials=4, target=other_target())
    assert "cannot run code for" in run.tuned.over
    assert time.monotonic() - began < 20


def test_a_board_fits_unless_something_is_known_to_be_missing() -> None:
    x86, features = get_target("x86"), frozenset(get_target("x86").required_features)
    assert not misfit(BoardInfo("b", architecture="x86_64", features=features), x86)
    assert not misfit(BoardInfo("b"), x86)
    assert "x86_64" in misfit(BoardInfo("b", architecture="aarch64"), x86)
    lacking = BoardInfo("b", architecture="x86_64", features=features - {"avx2"})
    assert misfit(lacking, x86).endswith("its CPU lacks avx2")
    assert "lacks" in misfit(BoardInfo("b", architecture="x86_64", features=frozenset()), x86)
    boards = [lacking, BoardInfo("c", machine="Pi")]
    assert require_fitting([ListedBoard("", "", None, info) for info in boards], x86) == "Pi"


@pytest.mark.alone
def test_emulated_arm_boards_tune_for_their_cpu_and_one_may_die(
    board: Board, tracker: Tracker, tmp_path: Path
) -> None:
    emulation = emulated(board, "cortex-a72", tmp_path)
    boards = [
        ServedBoard(tracker, "a72", name, core=core, **emulation)
        for core, name in enumerate(("one", "two"))
    ]
    try:
        tracker.wait_for("a72", 2)
        run = Run(
            tracker.address("a72"),
            target=get_target("cortex-a72"),
            at=6,
            act=boards[0].end,
            trials=20,
        )
    finally:
        for part in boards:
            part.end()
    assert run.tuned.trials == 20
    assert not sum(sum(task.failures.values()) for task in run.tuned.tasks)
    assert run.said("board one") < 5
    assert run.boards["two"] >= 7


@pytest.mark.parametrize("cpu", ["cortex-a53", "cortex-a76"])
def test_an_emulated_arm_board_tunes_integer_layers(
    cpu: str, board: Board, tracker: Tracker, tmp_path: Path
) -> None:
    texts = (
        "pointwise 49x40x72 int8 add_channel requantize add_quantized_second",
        "depthwise 1x6x6x40 k3x3 s1x1 p1,1,1,1 int8 add_channel requantize lookup",
        "conv2d 1x16x16x3->16 k3x3 s2x2 p0,0,1,1 nchw float32*int8+int32->int8 requantize",
    )
    served = ServedBoard(tracker, cpu, "one", **emulated(board, cpu, tmp_path))
    try:
        tracker.wait_for(cpu, 1)
        layers = {parse(text): 1 for text in texts}
        run = Run(tracker.address(cpu), layers, target=get_target(cpu), trials=15)
    finally:
        served.end()
    assert run.tuned.trials == 15
    assert not sum(sum(task.failures.values()) for task in run.tuned.tasks)


class Loads:
    """Runs of one candidate again and again, at the board of one key.

    Parameters
    ----------
    address : str
        The board's.
    folder : Path
        For the candidate.
    """

    def __init__(self, address: str, folder: Path) -> None:
        self._address = Address.parse(address)
        self._folder = folder
        task = Task(Space(WIDE_POOL, NATIVE), 1)
        builder = Builder(registry.build, folder, lambda *_: None, compile_with_arguments)
        (self._candidate,) = builder.build(task, [0])
        builder.close()
        #: Whose candidates were measured, in their order.
        self.order: list[str] = []

    def start(self, name: str, times: int, priority: int = 1) -> tuple[BoardRunner, list[Outcome]]:
        """Begin a run; return its runner and where its outcomes are kept."""
        outcomes: list[Outcome] = []

        def keep(_task: Task, _number: int, outcome: Outcome) -> None:
            outcomes.append(outcome)
            self.order.append(name)

        farm = Farm(self._address, priority=priority)
        runner = BoardRunner(farm, NATIVE, 1, self._folder, keep, self.order.append)
        runner.submit([self._candidate] * times)
        return runner, outcomes


def finish(times: int, *runs: tuple[BoardRunner, list[Outcome]]) -> None:
    for runner, outcomes in runs:
        while runner.unfinished():
            runner.wait()
        assert [type(outcome) for outcome in outcomes] == [Measurement] * times
        runner.close()


@pytest.mark.alone
def test_of_runs_that_wait_the_one_with_priority_gets_the_board(
    tracker: Tracker, start: Callable[..., ServedBoard], tmp_path: Path
) -> None:
    start("one")
    tracker.wait_for("x86", 1)
    loads = Loads(tracker.address("x86"), tmp_path)
    holder, _ = loads.start("holder", 2000)
    wait_until(lambda: len(loads.order) > 2)
    low = loads.start("low", 20)
    wait_until(lambda: tracker.pending("x86") == 1)
    high = loads.start("high", 20, priority=5)
    wait_until(lambda: tracker.pending("x86") == 2)
    assert set(loads.order) == {"holder"}
    holder.close()
    finish(20, low, high)
    assert list(dict.fromkeys(loads.order)) == ["holder", "high", "low"]


@pytest.mark.alone
def test_runs_of_one_priority_take_turns(
    tracker: Tracker,
    start: Callable[..., ServedBoard],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mobilenet_tvm.compile.tuning.boards.runner.LEASE", 0.3)
    start("one")
    tracker.wait_for("x86", 1)
    loads = Loads(tracker.address("x86"), tmp_path)
    finish(300, loads.start("first", 300), loads.start("second", 300))
    turns = [
        name
        for name, before in zip(loads.order, ["", *loads.order[:-1]], strict=True)
        if name != before
    ]
    assert len(turns) >= 4
