"""Processes that take turns: each is stopped while another one is timed.

So that its idle workers do not take a core from the others, and all see the same machine load.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

Run = Callable[[], Any]


def standard_output() -> TextIO:
    """Return the standard output, which then no longer gets what libraries print there."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def bind(threads: int) -> None:
    """Bind this process to as many cores as threads."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def serve(run: Run, first: Any, answers: TextIO) -> None:
    """Answer a `Turn`: `first`, then for each number on standard input as many times of runs."""
    print(json.dumps(first), file=answers, flush=True)
    for line in sys.stdin:
        run()
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - start))
        print(json.dumps(times), file=answers, flush=True)


class Turn:
    """A process that calls `serve`, and is stopped while it is not timed.

    Parameters
    ----------
    command : list of str
        What to run.
    log : Path
        A file for what it writes to standard error.

    Attributes
    ----------
    first : Any
        Its first answer; None if it died before that.
    """

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log.open("w+")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        answer = self._read()
        self.first = json.loads(answer) if answer else None
        self._signal(signal.SIGSTOP)

    def time(self, repeats: int) -> list[float]:
        """Return the times of some runs in milliseconds."""
        self._signal(signal.SIGCONT)
        print(repeats, file=self.process.stdin, flush=True)
        times: list[float] = json.loads(self._read())
        self._signal(signal.SIGSTOP)
        return times

    def reason(self) -> str:
        """Return the last exception that the process wrote before it died, or its last line."""
        self.log.seek(0)
        return last_error(self.log.read())

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.log.close()

    def _read(self) -> str:
        return str(self.process.stdout.readline()).strip() if self.process.stdout else ""

    def _signal(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)


def last_error(log: str) -> str:
    """Return the last exception in what a process wrote, or its last line."""
    lines = log.strip().splitlines()
    # TVM writes warnings after the exception.
    exceptions = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Fail)\b", line)]
    return (exceptions or lines or ["no reason given"])[-1]
