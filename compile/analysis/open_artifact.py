"""Opens an artifact where it is to run: in this process, or on a board."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mobilenet_tvm.runtime import CModel, Model, connect, load
from mobilenet_tvm.runtime.address import Address
from mobilenet_tvm.runtime.remote.model import RemoteModel


@contextmanager
def open_artifact(
    path: str | Path, device: str = "local", threads: int | None = None
) -> Iterator[Model | CModel | RemoteModel]:
    """Load an artifact; a board is held for as long as the context lasts.

    Parameters
    ----------
    path : str or Path
        The ``.so`` that `compile_model` wrote.
    device : str
        ``local``, ``rpc://HOST:PORT``, ``tracker://HOST:PORT/KEY`` or ``ssh://[USER@]HOST[:PORT]``.
    threads : int, optional
        Threads to run with. Default: one for each of the fast cores.

    Yields
    ------
    Model, CModel or RemoteModel
        The loaded model.

    Raises
    ------
    UserError
        If the file is no artifact, the device cannot run it, or there is no such device.
    """
    address = Address.parse(device)
    if address.scheme == "local":
        yield load(path, threads=threads)
        return
    with connect(address) as session:
        yield session.load(path, threads)
