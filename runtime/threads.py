"""Calls TVM with a fixed number of threads, from any Python thread.

TVM gives every thread that calls it its own pool of workers, which lives as long as that thread and
cannot grow. Short-lived threads would leave many spinning workers behind. Only threads that load
models therefore get a pool; calls from other threads are handed over to threads that are kept for
them, which takes some 20 microseconds. With one thread, TVM needs no pool, and any thread calls it
directly.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.host import core_count

# TVM's affinity mode kSpecifyThreadShareAllCore: workers are not bound to one core each.
_SHARE_CORES = -3

# tvm::runtime::threading::SetMaxConcurrency(int), which is exported but not registered.
_SET_MAX_CONCURRENCY = "_ZN3tvm7runtime9threading17SetMaxConcurrencyEi"


class _State(threading.local):
    """The state of the calling thread."""

    may_have_pool = False
    threads = 0
    # The number of threads in the thread's pool, as soon as it is known.
    limit = 1 << 16


_state = _State()


def _forget_workers() -> None:
    # TVM does not notice that a forked process lacks its parent's workers, and would wait for them.
    _state.threads, _state.limit = 0, 1


os.register_at_fork(after_in_child=_forget_workers)


class Threads:
    """Threads that share the work of calls to TVM, whose runtime must be loaded.

    Parameters
    ----------
    count : int
        How many threads work on one call. There are never more than the CPUs that this process
        may use, since they would wait for each other.

    Attributes
    ----------
    count : int
        How many there are.
    """

    def __init__(self, count: int) -> None:
        self.count = min(count, core_count())
        self._process = os.getpid()
        self._executor = ThreadPoolExecutor(
            # As many concurrent calls as the cores have room for.
            core_count() // self.count,
            thread_name_prefix="mobilenet-tvm",
            initializer=_allow_pool,
        )
        _allow_pool()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function that calls TVM.

        Parameters
        ----------
        function : callable
            Called in this thread or in one that is kept for such calls.
        *arguments
            Its arguments.

        Returns
        -------
        Any
            Its result.

        Raises
        ------
        UserError
            In a forked process, which lacks its parent's threads.
        """
        if _set_threads(self.count):
            return function(*arguments)
        if os.getpid() != self._process:
            raise UserError(
                "the model was loaded before this process was forked; load it in the forked process"
            )
        return self._executor.submit(_call_with, self.count, function, arguments).result()


def _call_with(count: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    _set_threads(count)
    return function(*arguments)


def _allow_pool() -> None:
    _state.may_have_pool = True


def _set_threads(count: int) -> bool:
    """Set how many threads TVM uses for calls from this thread; return whether that is possible."""
    if _state.threads == count:
        return True
    if count == 1:
        ctypes.CDLL(None)[_SET_MAX_CONCURRENCY](1)
        _state.threads = 1
        return True
    if not _state.may_have_pool or count > _state.limit:
        return False
    import tvm_ffi

    # If this thread has no pool yet, it gets one with as many threads as CPUs are listed.
    cpus = sorted(os.sched_getaffinity(0))[:count]
    tvm_ffi.get_global_func("runtime.config_threadpool")(_SHARE_CORES, count, list(map(str, cpus)))
    _state.threads = tvm_ffi.get_global_func("runtime.NumThreads")()
    if _state.threads < count:
        _state.limit = _state.threads
    return _state.threads == count
