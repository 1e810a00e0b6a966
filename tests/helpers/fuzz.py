"""Feeds damaged models, artifacts, metadata, logs and messages to what reads them.

``python tests/helpers/fuzz.py 2000 1`` tries 2,000 inputs of seed 1. Anything but an answer or a
`UserError` ends it: another exception, a signal, more than 60 s for an input, more than 2 GB. The
last input is then in the folder that the first line names.
"""

from __future__ import annotations

import random
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread

from artifacts import ADD, write_add
from odd_models import Net

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.logs.log import TuningLog
from mobilenet_tvm.runtime import load
from mobilenet_tvm.runtime.address import join_host_port
from mobilenet_tvm.runtime.metadata import Metadata
from mobilenet_tvm.runtime.remote.devices import list_boards
from mobilenet_tvm.runtime.remote.listen import listen
from mobilenet_tvm.runtime.remote.lobby import Lobby
from mobilenet_tvm.runtime.remote.wire import SESSION_MAGIC
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.presets import get_target

#: Most seconds for an input, and most bytes of memory.
SECONDS, MEMORY = 60, 2 << 30

#: What compiled models have in their metadata beside what `ADD` has.
EXTRA = {
    "dtype": "float32",
    "functions": 1,
    "calls": [
        {"function": "f", "node": "n", "workload": "w", "flops": 1, "bytes": 1}
        | {"decision": {"tile": 1}, "tuned": True, "source": "measured"}
    ],
    "recipe": {"model": "v2", "alpha": 0.5, "until": ["a"]},
}

Try = Callable[[bytes], object]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return data with some bytes flipped, repeated, left out or replaced by telling ones."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place = rng.randrange(len(result) + 1)
        match rng.randrange(5):
            case 0:
                result[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                result[place : place + 4] = rng.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"))
            case 2:
                del result[place : place + rng.randrange(1, 64)]
            case 3:
                result[place:place] = result[place : place + rng.randrange(1, 64)]
            case 4:
                result[place : place + 1] = rng.choice((b"[" * 5000, b"Infinity", b"1e999", b"-1"))
    return bytes(result)


def kinds(folder: Path) -> dict[str, tuple[bytes, Try]]:
    """Return a whole input of each kind, and what reads it."""
    net = Net([1, 3, 8, 8])
    value = net.node("Relu", net.conv("input", 3, 4, 3))
    value = net.node("Reshape", net.node("GlobalAveragePool", value), net.weight([1, -1], "int64"))
    model = net.model(net.node("Softmax", value), shapes=[[1, 4]])
    artifact = write_add(folder / "add.so").read_bytes()
    log = Path(__file__).parents[2] / "tuning_logs" / "x86.jsonl"
    said = b"client: -timeout=60.0"
    hello = SESSION_MAGIC.to_bytes(4, "little") + len(said).to_bytes(4, "little") + said
    listener = listen("127.0.0.1", [0])
    place, lobby = listener.getsockname(), Lobby(listener)

    def compiled(data: bytes) -> None:
        path = folder / "m.onnx"
        path.write_bytes(data)
        compile_model(path, "x86", folder / "m.so", tuning_log="none")

    def loaded(data: bytes) -> None:
        path = folder / "damaged.so"
        path.write_bytes(data)
        load(path)

    def read(data: bytes) -> None:
        path = folder / "log.jsonl"
        path.write_bytes(data)
        TuningLog.read(path, get_target("x86"))

    def greeted(data: bytes) -> None:
        with socket.create_connection(place) as client:
            client.sendall(data)
            found = lobby.next(0.01)
            if found is not None:
                found[0].connection.close()

    answer = b'[0, {"queue_info": {"a": {"free": 1}}, "server_info": [{"key": "server:a", '
    answer += b'"addr": ["127.0.0.1", 9090], "busy": true, "board": {"name": "b", "cores": 4}}]}]'
    tracker = listen("127.0.0.1", [0])
    address = join_host_port(*tracker.getsockname()[:2])

    def asked(data: bytes) -> None:
        def serve() -> None:
            with suppress(OSError), tracker.accept()[0] as client:
                client.sendall(client.recv(4))
                client.recv(1 << 12)
                client.sendall(data)

        thread = Thread(target=serve)
        thread.start()
        try:
            list_boards(address)
        finally:
            thread.join()

    return {
        "model": (model.SerializeToString(), compiled),
        "artifact": (artifact, loaded),
        "metadata": (replace(ADD, extra=EXTRA).to_json().encode(), Metadata.from_json),
        "log": (b"".join(log.read_bytes().splitlines(keepends=True)[:3]), read),
        "handshake": (hello, greeted),
        "tracker": (len(answer).to_bytes(4, "little") + answer, asked),
    }


def main() -> None:
    """Try as many inputs as the first argument says, of the seed that the second one is."""
    count, seed = map(int, sys.argv[1:])
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    sys.stdout.write(f"last input: {folder}\n")
    sys.stdout.flush()
    tries = kinds(folder)
    counts, slowest = Counter[str](), (0.0, "")
    for number in range(count):
        rng = random.Random(f"{seed} {number}")  # noqa: S311
        kind = rng.choice(list(tries))
        whole, attempt = tries[kind]
        data = damaged(whole, rng)
        (folder / f"last.{kind}").write_bytes(data)
        began = time.monotonic()
        signal.alarm(SECONDS)
        with suppress(UserError):
            attempt(data)
        signal.alarm(0)
        counts[kind] += 1
        slowest = max(slowest, (time.monotonic() - began, f"{kind} {number}"))
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        if used > MEMORY:
            sys.exit(f"{used} bytes of memory")
    shutil.rmtree(folder)
    sys.stdout.write(
        f"tried {count}: {dict(counts)}; {used >> 20} MiB at most; slowest {slowest[1]}, "
        f"{slowest[0]:.1f} s\n"
    )


if __name__ == "__main__":
    main()
