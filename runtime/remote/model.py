"""Models on boards, which are called like models in this process."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mobilenet_tvm.runtime.base_model import Array, BaseModel
from mobilenet_tvm.runtime.bench import Latency, random_inputs
from mobilenet_tvm.runtime.device import CPU
from mobilenet_tvm.runtime.elf import read_elf
from mobilenet_tvm.runtime.metadata import metadata_of
from mobilenet_tvm.runtime.profile import CallTime
from mobilenet_tvm.runtime.remote.answers import (
    invalid,
    read_bytes,
    read_calls,
    read_json,
    read_seconds,
    read_threads,
)
from mobilenet_tvm.runtime.remote.connection import Connection
from mobilenet_tvm.runtime.remote.marks import PREFIX


class RemoteModel(BaseModel):
    """A compiled model on a board; get it by `Session.load`.

    The board loads the artifact as this machine would. A call sends one message with the inputs,
    and receives one with the outputs.

    Parameters
    ----------
    session : Connection
        The session with the board.
    path : Path
        The artifact, on this machine.
    threads : int, optional
        See `runtime.load`.

    Attributes
    ----------
    session : Connection
        The session with the board.

    Raises
    ------
    UserError
        If the file is not an artifact, or the board cannot run it.
    """

    def __init__(self, session: Connection, path: Path, threads: int | None) -> None:
        library = read_elf(path)
        metadata = metadata_of(library)
        session.board.require(library.architecture, metadata.required_features, str(path))
        self.session = session
        self._artifact = (session.upload(path), threads or 0)
        answer = session.call(f"{PREFIX}threads", *self._artifact)
        super().__init__(metadata, read_threads(answer))
        self._function = session.call(f"{PREFIX}load", *self._artifact)
        if not callable(self._function):
            raise invalid("a model")
        self._output_sizes = [
            math.prod(info.shape) * np.dtype(info.dtype).itemsize for info in self.outputs
        ]

    def _compute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        with self.session.guarded():
            answer = self._function(*[array.tobytes() for array in inputs])
        answer = read_bytes(answer, sum(self._output_sizes))
        ends = np.cumsum(self._output_sizes)
        return [
            np.frombuffer(answer, np.uint8)[end - size : end]
            .copy()
            .view(info.dtype)
            .reshape(info.shape)
            for info, size, end in zip(self.outputs, self._output_sizes, ends, strict=True)
        ]

    def _place(self) -> str:
        on_cpu = self.metadata.target.get("kind", CPU) == CPU
        device = f"threads: {self.threads}, on" if on_cpu else "on the GPU of"
        return f"{device} board {self.session.board}"

    def measure_latency(self, rounds: int = 100) -> Latency:
        """Time calls on the board itself, without the network.

        Parameters
        ----------
        rounds : int
            Number of timed calls.

        Returns
        -------
        Latency
            See `bench.measure_latency`.
        """
        return Latency(read_seconds(self._ask("bench", rounds)))

    def measure_round_trip(self, rounds: int = 20) -> Latency:
        """Time calls from this machine, including the transfer of inputs and outputs.

        Parameters
        ----------
        rounds : int
            Number of timed calls, after one that is not timed.

        Returns
        -------
        Latency
            See `bench.measure_latency`.
        """
        inputs = list(random_inputs(self).values())
        self(*inputs)
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            self(*inputs)
            seconds.append(time.perf_counter() - start)
        return Latency(np.array(seconds))

    def profile(self, rounds: int = 30) -> list[CallTime]:
        """Time each call of a function in the network, on the board; see `profile.profile`."""
        return [CallTime(*call) for call in read_calls(self._ask("profile", rounds))]

    def _ask(self, name: str, rounds: int) -> Any:
        return read_json(self.session.call(f"{PREFIX}{name}", *self._artifact, rounds))
