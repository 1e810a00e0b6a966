"""Worker processes that end safely, whatever happens to them meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from typing import Any

from tvm.support.popen_pool import PopenPoolExecutor, kill_child_processes


class WorkerPool(PopenPoolExecutor):  # type: ignore[misc]
    """TVM's pool of processes, with an end of its own.

    TVM's ends workers under its threads: where one dies at that moment, as after a SIGTERM to the
    process group, `shutdown` fails with its lock held, and the process never ends.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._jobs: set[futures.Future[Any]] = set()

    def submit(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> futures.Future[Any]:
        """Run a function in one of the processes."""
        job: futures.Future[Any] = super().submit(fn, *args, **kwargs)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return job

    def shutdown(self, wait: bool = True) -> None:
        """End the processes; what they have not finished is lost."""
        self._threadpool.shutdown(wait=False, cancel_futures=True)
        # A thread may start another process at any time until its job is done.
        while running := list(self._jobs):
            for worker in list(self._worker_map.values()):
                process = worker._proc
                if process is not None:
                    kill_child_processes(process.pid)
                    process.kill()
            futures.wait(running, timeout=0.05)
        super().shutdown(wait)
