"""A process that is called, hangs and dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
from remote_boards import wait_until

from mobilenet_tvm.compile.tuning.boards.child import Child
from mobilenet_tvm.runtime.address import Address
from mobilenet_tvm.targets.errors import WrongUseError


@pytest.fixture
def child() -> Iterator[Child]:
    made = Child()
    yield made
    made.kill()


def test_it_keeps_its_state_from_call_to_call(child: Child) -> None:
    first, second = (child.call(os.getpid, timeout=10) for _ in "12")
    assert first == second != os.getpid()


def test_a_call_that_hangs_ends_at_its_time_out(child: Child) -> None:
    child.call(os.getpid, timeout=10)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        child.call(time.sleep, 60, timeout=0.3)
    assert time.monotonic() - began < 2
    assert not child.alive


def test_its_death_is_seen_at_once(child: Child) -> None:
    with pytest.raises(ChildProcessError):
        child.call(os._exit, 3, timeout=10)
    assert not child.alive
    with pytest.raises(ChildProcessError):
        child.call(os.getpid, timeout=10)


def test_errors_for_the_user_stay_what_they_are_and_others_are_told(child: Child) -> None:
    with pytest.raises(WrongUseError, match="unknown address 'nowhere'"):
        child.call(Address.parse, "nowhere", timeout=10)
    with pytest.raises(ChildProcessError, match="ValueError: invalid literal"):
        child.call(int, "x", timeout=10)
    assert child.alive


def test_it_leaves_ctrl_c_to_its_parent(child: Child) -> None:
    os.kill(child.call(os.getpid, timeout=10), signal.SIGINT)
    assert child.call(int, "3", timeout=10) == 3


def test_it_ends_with_a_parent_that_is_killed_even_within_a_call() -> None:
    code = """
import os, time
from mobilenet_tvm.compile.tuning.boards.child import Child
child = Child()
print(child.call(os.getpid, timeout=10), flush=True)
child.call(time.sleep, 600, timeout=None)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    process = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    wait_until(lambda: not process.is_running(), 5)
