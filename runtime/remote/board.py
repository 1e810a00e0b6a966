"""The board's side of a session: the functions that a client may call, in a process of its own.

TVM's runtime library speaks the protocol and calls the functions that are registered here. Some
have the names of those in TVM's own server, so that TVM's clients can use the board too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi

from mobilenet_tvm.runtime.atomic import replacing
from mobilenet_tvm.runtime.base_model import Array, BaseModel
from mobilenet_tvm.runtime.bench import measure_latency
from mobilenet_tvm.runtime.c_library import CModel
from mobilenet_tvm.runtime.device import open_device
from mobilenet_tvm.runtime.folders import cache_folder
from mobilenet_tvm.runtime.library import load_artifact
from mobilenet_tvm.runtime.measure import shortest_run
from mobilenet_tvm.runtime.model import Model, load
from mobilenet_tvm.runtime.profile import profile
from mobilenet_tvm.runtime.remote import measuring
from mobilenet_tvm.runtime.remote.info import BoardInfo
from mobilenet_tvm.runtime.remote.marks import MAX_UPLOAD, PREFIX, USER_ERROR
from mobilenet_tvm.runtime.threads import Threads
from mobilenet_tvm.targets.errors import UserError

#: Maximum length of an error message that a client gets.
_MAX_MESSAGE = 500


def serve_session(connection: int, info: BoardInfo, folder: Path) -> None:
    """Serve a client until it closes the connection.

    Parameters
    ----------
    connection : int
        File descriptor of the socket, after the handshake; it is closed in the end.
    info : BoardInfo
        The board's description.
    folder : Path
        Folder for files of this session only.
    """
    for name, function in _functions(info, folder).items():
        tvm_ffi.register_global_func(name, _marking_user_errors(function), override=True)
    loop = tvm_ffi.get_global_func("rpc.ServerLoop")
    # In another thread: in a forked process, `threads` allows the first one no workers.
    with ThreadPoolExecutor(1) as executor:
        executor.submit(loop, connection).result()


def _functions(info: BoardInfo, folder: Path) -> dict[str, Callable[..., Any]]:
    def path_of(name: str) -> Path:
        uploaded = uploads() / Path(name).name
        return uploaded if uploaded.exists() else folder / Path(name).name

    @lru_cache(1)
    def model(name: str, threads: int) -> Model | CModel:
        return load(path_of(name), threads or None)

    return {
        "tvm.rpc.server.workpath": lambda name: str(folder / Path(name).name),
        "tvm.rpc.server.load_module": lambda name: load_artifact(path_of(name)),
        f"{PREFIX}info": lambda: json.dumps(info.to_dict()),
        measuring.FUNCTION: measuring.answerer(path_of),
        f"{PREFIX}has": has_upload,
        f"{PREFIX}store": store_upload,
        f"{PREFIX}load": lambda name, threads: _callable(model(name, threads)),
        f"{PREFIX}threads": lambda name, threads: model(name, threads).threads,
        f"{PREFIX}gpu": lambda kind: open_device(kind).name,
        f"{PREFIX}time": lambda name, shapes, threads, kind: Threads(threads).call(
            shortest_run, path_of(name), json.loads(shapes), kind
        ),
        f"{PREFIX}bench": lambda name, threads, rounds: json.dumps(
            measure_latency(model(name, threads), rounds=rounds).seconds.tolist()
        ),
        f"{PREFIX}profile": lambda name, threads, rounds: json.dumps(
            [
                (call.function, call.seconds.tolist())
                for call in profile(model(name, threads), rounds)
            ]
        ),
    }


def uploads() -> Path:
    """Return the folder of uploaded files, which all of a user's boards on a machine share.

    A file's name is the SHA-256 of its contents, with the suffix that the client gave it.

    Raises
    ------
    UserError
        If there is no place for it.
    """
    folder = cache_folder() / "uploads"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be made ({error.strerror}); set XDG_CACHE_HOME to a folder that can "
            "be written"
        ) from None
    return folder


def has_upload(name: str) -> bool:
    """Return whether a file was uploaded and is whole, and mark it as recently used."""
    path = uploads() / Path(name).name
    try:
        whole = hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
        os.utime(path)
    except OSError:
        return False
    return whole


def store_upload(name: str, contents: bytes) -> None:
    """Store an uploaded file.

    Parameters
    ----------
    name : str
        The SHA-256 of its contents, and a suffix.
    contents : bytes
        As they arrived.

    Raises
    ------
    UserError
        If it is damaged, or cannot be written.
    """
    path = uploads() / Path(name).name
    if len(contents) > MAX_UPLOAD:
        raise UserError(f"{name}: {len(contents)} bytes, of which boards take {MAX_UPLOAD}")
    if hashlib.sha256(contents).hexdigest() != path.stem:
        raise UserError(f"{name}: the file arrived damaged; upload it again")
    try:
        with replacing(path) as scratch:
            scratch.write_bytes(contents)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def _callable(model: BaseModel) -> Any:
    """Return a function that maps the bytes of a model's inputs to those of its outputs."""

    def call(*inputs: bytes) -> bytes:
        arrays = [
            np.frombuffer(data, info.dtype).reshape(info.shape)
            for data, info in zip(inputs, model.inputs, strict=True)
        ]
        result = model(*arrays)
        outputs: list[Array] = list(result.values()) if isinstance(result, dict) else [result]
        return b"".join(output.tobytes() for output in outputs)

    return tvm_ffi.convert(_marking_user_errors(call))


def _marking_user_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    def marked(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except UserError as error:
            raise RuntimeError(f"{USER_ERROR}{error}") from None
        except Exception as error:
            # Clients show one line; TVM's errors have many.
            message = " ".join(f"{type(error).__name__}: {error}".split())
            raise RuntimeError(message[:_MAX_MESSAGE]) from None

    return marked
