"""Runs a small module on boards, to find out which of them work."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import tvm
from tvm import te

from mobilenet_tvm.compile.codegen.build import write_library
from mobilenet_tvm.runtime.address import Address, split_host_port
from mobilenet_tvm.runtime.remote.devices import ListedBoard
from mobilenet_tvm.runtime.remote.errors import NoBoard
from mobilenet_tvm.runtime.remote.session import Session
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.presets import get_target

#: Timeout of a check in seconds; an emulated board takes a few.
_TIMEOUT = 60.0


def check_boards(tracker: str, boards: Sequence[ListedBoard]) -> dict[str, str]:
    """Run a small module on each board that is free.

    Parameters
    ----------
    tracker : str
        ``HOST:PORT``.
    boards : sequence of ListedBoard
        The boards that it lists.

    Returns
    -------
    dict of str to str
        What is wrong with each board that failed, by its address.
    """
    host, port = split_host_port(tracker)
    problems = {}
    free = [board for board in boards if not board.busy]
    for key in sorted({board.key for board in free}):
        unseen = {board.address: board for board in free if board.key == key}
        # All are held at once: a board that is given back could be assigned again.
        with ExitStack() as held:
            for _ in range(len(unseen)):
                try:
                    session = Session.open(
                        Address("tracker", host, port, key), timeout=_TIMEOUT, wait=5.0
                    )
                except NoBoard:
                    continue
                held.enter_context(session)
                unseen.pop(session.address, None)
                try:
                    check_board(session)
                except UserError as error:
                    problems[session.address] = str(error)
        for address, board in unseen.items():
            problems[address] = f"board {board.info.name} accepted no session; it hangs or is gone"
    return problems


def check_board(session: Session) -> None:
    """Run a small module on a board.

    Parameters
    ----------
    session : Session
        The board.

    Raises
    ------
    UserError
        If the module does not run there, or its result is wrong.
    """
    board = session.board
    name = board.target or {"x86_64": "x86-sse4", "aarch64": "arm64"}.get(board.architecture)
    if name is None:
        raise UserError(f"board {board.name} does not say that it is x86-64 or 64-bit ARM")
    a = te.placeholder((64, 64), name="a")
    b = te.placeholder((64, 64), name="b")
    k = te.reduce_axis((0, 64), name="k")
    product = te.compute((64, 64), lambda i, j: te.sum(a[i, k] * b[k, j], axis=k), name="product")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "check.so"
        func = te.create_prim_func([a, b, product])
        write_library(tvm.IRModule({"main": func}), get_target(name), library)
        remote = session.upload(library)
    rng = np.random.default_rng(0)
    given = [rng.integers(-8, 8, (64, 64)).astype(np.float32) for _ in range(2)]
    module = session.load_module(remote)
    with session.guarded():
        tensors = [tvm.runtime.tensor(array, session.device) for array in (*given, given[0])]
        module["main"](*tensors)
        result = tensors[-1].numpy()
    if not np.array_equal(result, given[0] @ given[1]):
        raise UserError(f"board {board.name} gives wrong results: a product of integers differs")
