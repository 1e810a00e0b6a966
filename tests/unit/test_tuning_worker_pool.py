"""The pool of worker processes ends, also while its processes are killed by others."""

from __future__ import annotations

import os
import signal
import threading
import time

import psutil
import pytest

from mobilenet_tvm.compile.tuning.local.pool import WorkerPool


@pytest.mark.parametrize("pause", [0.0, 0.001, 0.002, 0.005])
def test_it_ends_while_its_processes_are_terminated(pause: float) -> None:
    pool = WorkerPool(max_workers=2, timeout=60)
    assert [job.result() for job in [pool.submit(abs, -number) for number in (1, 2)]] == [1, 2]
    jobs = [pool.submit(time.sleep, 60) for _ in range(3)]
    workers = psutil.Process().children()
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
    time.sleep(pause)
    end = threading.Thread(target=pool.shutdown, daemon=True)
    end.start()
    end.join(30)
    assert not end.is_alive()
    assert all(job.done() for job in jobs)
    assert not set(workers) & set(psutil.Process().children())
    pool.shutdown()
