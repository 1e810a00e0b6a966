"""Measures candidates on one board, from a process that has one session at a time."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mobilenet_tvm.runtime.address import Address
from mobilenet_tvm.runtime.device import CPU
from mobilenet_tvm.runtime.measure import Failure, Measurement, Place, check, time_until_stable
from mobilenet_tvm.runtime.remote.errors import BoardError, BoardLost
from mobilenet_tvm.runtime.remote.info import BoardInfo
from mobilenet_tvm.runtime.remote.measuring import FUNCTION, Request, read_answer
from mobilenet_tvm.runtime.remote.session import Session

#: Flushes all arguments but the first, where TVM's own servers lack this project's protocol.
_FLUSH = "cache_flush_cpu_non_first_arg"


@dataclass(frozen=True)
class Files:
    """What a board needs to measure a candidate, as it lies here.

    Parameters
    ----------
    library : Path
        The candidate.
    arguments : sequence of Path
        Its arguments but the output, as numpy stores arrays.
    weights : sequence of int
        Which of them stay the same from one inference to the next.
    reference : Path
        The right result.
    allowed : float
        How far apart two right results may be, as a share of the largest value.
    threads : int
        How many share the layer.
    place : Place
        Where on the board it runs.
    """

    library: Path
    arguments: Sequence[Path]
    weights: Sequence[int]
    reference: Path
    allowed: float
    threads: int
    place: Place


class _Client:
    """A session, the board at its other end, and what was uploaded."""

    def __init__(self, session: Session, board: BoardInfo) -> None:
        self.session = session
        self.board = board
        self.names: dict[Path, str] = {}

    def upload(self, path: Path, timeout: float) -> None:
        if path not in self.names:
            self.names[path] = self.session.upload(path, timeout)


_client: _Client | None = None


def open_session(
    address: Address, priority: int, limit: float, wait: float, kind: str
) -> tuple[BoardInfo, str]:
    """Wait for a board and keep it.

    Parameters
    ----------
    address : Address
        Where.
    priority : int
        Among those who wait.
    limit : float
        Seconds that the board lets the session last.
    wait : float
        Seconds to wait for a free board.
    kind : str
        TVM's name of the kind of device.

    Returns
    -------
    (BoardInfo, str)
        What it is, and the address at which it listens. Its machine is what the candidates run
        on: its GPU where they are for one.
    """
    global _client
    session = Session.open(address, priority, limit, wait)
    board = session.board
    if kind != CPU:
        # On a board that has none the first candidate fails, and says so.
        with suppress(BoardError):
            board = replace(board, machine=session.gpu(kind))
    _client = _Client(session, replace(board, name=_line(board.name), machine=_line(board.machine)))
    return _client.board, session.address


def close_session() -> None:
    """Give the board back."""
    global _client
    if _client is not None:
        _client.session.close()
        _client = None


def upload(files: Files, timeout: float) -> None:
    """Bring to the board what it does not have yet; it has so many seconds for each answer."""
    client = _current()
    client.upload(files.library, timeout)
    if client.session.native:
        for path in (files.reference, *files.arguments):
            client.upload(path, timeout)


def measure_on_board(files: Files, timeout: float) -> Measurement | Failure:
    """Check and time an uploaded candidate.

    Parameters
    ----------
    files : Files
        The candidate.
    timeout : float
        Seconds in which the board has to answer.

    Raises
    ------
    UserError
        Whatever goes wrong with the board.
    """
    client = _current()
    board = client.board
    if not client.session.native:
        outcome = _measure_by_evaluator(client, files, timeout)
    else:
        request = Request(
            client.names[files.library],
            [client.names[path] for path in files.arguments],
            files.weights,
            client.names[files.reference],
            files.allowed,
            files.threads,
            files.place,
        )
        answer = client.session.call(FUNCTION, request.to_json(), timeout=timeout)
        try:
            outcome = read_answer(answer)
        except ValueError as error:
            raise BoardLost(f"board {board.name} sent an invalid answer ({error})") from None
    if isinstance(outcome, Failure):
        return outcome
    return replace(outcome, board=board.name, device=board.machine)


def _line(text: Any) -> str:
    """Return what a board says about itself as one printable line, for the log."""
    return "".join(filter(str.isprintable, str(text)))


def _current() -> _Client:
    assert _client is not None  # noqa: S101
    return _client


def _measure_by_evaluator(client: _Client, files: Files, timeout: float) -> Measurement | Failure:
    """Measure on one of TVM's own servers, which has no more than a time evaluator."""
    import tvm_ffi

    session, function = client.session, tvm_ffi.get_global_func
    session.call("runtime.config_threadpool", 1, files.threads)
    module = session.load_module(client.names[files.library])
    expected = np.load(files.reference)
    arrays = [*map(np.load, files.arguments), np.full_like(expected, np.nan)]
    with session.guarded(timeout):
        tensors = [_tensor(session.device, array) for array in arrays]
        module["main"](*tensors)
        result = np.empty_like(expected)
        function("runtime.TVMTensorCopyToBytes")(tensors[-1], _pointer(result), result.nbytes)
        wrong = check(result, files.reference, files.allowed)
        if wrong is not None:
            return wrong
        evaluator = function("runtime.RPCTimeEvaluator")
        cpu = session.device.dlpack_device_type()

        def run(repeats: int) -> Sequence[float]:
            once = evaluator(module, "main", cpu, 0, 1, repeats, 0, 0, 0, 1, 0, _FLUSH)
            return struct.unpack(f"={repeats}d", once(*tensors))

        return time_until_stable(run)


def _tensor(device: Any, array: np.ndarray[Any, Any]) -> Any:
    import tvm_ffi

    empty = tvm_ffi.get_global_func("runtime.TVMTensorAllocWithScope")
    tensor = empty(tvm_ffi.Shape(array.shape), tvm_ffi.dtype(str(array.dtype)), device, None)
    copy = tvm_ffi.get_global_func("runtime.TVMTensorCopyFromBytes")
    copy(tensor, _pointer(array), array.nbytes)
    return tensor


def _pointer(array: np.ndarray[Any, Any]) -> Any:
    return ctypes.c_void_p(array.ctypes.data)
