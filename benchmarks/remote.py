"""Measures the overhead of a board: the upload of a model, and the round trip of a call.

``python benchmarks/remote.py FILE.so [--device rpc://HOST:PORT]`` starts a board on loopback unless
another is given.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mobilenet_tvm.runtime import connect
from mobilenet_tvm.runtime.remote.marks import PREFIX


@contextmanager
def local_board() -> Iterator[str]:
    """Serve on a free loopback port, with an empty cache of uploads."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "mobilenet_tvm.runtime.remote.serve", "--port", "0"]
        began = time.perf_counter()
        with subprocess.Popen(
            command,
            env=os.environ | {"XDG_CACHE_HOME": cache},
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None  # noqa: S101
            found = re.search(r"listens on (\S+)", process.stderr.readline())
            assert found is not None  # noqa: S101
            print(f"board ready     {time.perf_counter() - began:8.2f} s")
            try:
                yield f"rpc://{found[1]}"
            finally:
                process.terminate()


def compare(file: Path, device: str) -> None:
    """Print the times."""
    size = file.stat().st_size / 1e6
    for attempt in ("first", "again"):
        with connect(device) as session:
            began = time.perf_counter()
            session.upload(file)
            print(f"upload, {attempt}   {time.perf_counter() - began:8.3f} s  ({size:.1f} MB)")
    with connect(device) as session:
        model = session.load(file, threads=1)
        on_board, round_trip = (
            model.measure_latency(100).median,
            model.measure_round_trip(50).median,
        )
        trips = []
        for _ in range(200):
            began = time.perf_counter()
            session.call(f"{PREFIX}has", "nothing")
            trips.append(time.perf_counter() - began)
    print(f"on the board    {1e3 * on_board:8.3f} ms")
    print(f"call from here  {1e3 * round_trip:8.3f} ms")
    print(f"empty call      {1e3 * statistics.median(trips):8.3f} ms")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--device")
    options = parser.parse_args()
    if options.device:
        compare(options.file, options.device)
        return
    with local_board() as device:
        compare(options.file, device)


if __name__ == "__main__":
    main()
