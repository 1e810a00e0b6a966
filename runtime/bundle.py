"""Makes folders to copy: a model and all that runs it, or all that makes a machine a board."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mobilenet_tvm.runtime.atomic import replacing
from mobilenet_tvm.runtime.device import CPU, CUDA, OPENCL
from mobilenet_tvm.runtime.elf import read_elf
from mobilenet_tvm.runtime.folders import cache_folder
from mobilenet_tvm.runtime.library import (
    CUDA_LIBRARY,
    FFI_REQUIREMENT,
    RUNTIME_LIBRARY,
    find_runtime_library,
)
from mobilenet_tvm.runtime.metadata import Metadata, metadata_of
from mobilenet_tvm.runtime.opencl.bundled import copy_plugin
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.host import architecture

_LOGGER = logging.getLogger(__name__)

# What the loader consists of; a model's bundle has nothing else of this project.
_LOADER = {
    "runtime": (
        "__init__",
        "bench",
        "device",
        "elf",
        "library",
        "metadata",
        "model",
        "threads",
    ),
    "targets": ("__init__", "errors", "host"),
}
# What a board has besides.
_SERVER = {
    "runtime": ("address", "atomic", "folders", "measure", "profile"),
    "runtime.remote": ("__init__", "board", "info", "listen", "marks", "measuring", "wire"),
    "targets": ("gpu", "target"),
    "targets.presets": ("__init__", "arm", "gpus", "x86"),
}
# What GPUs need besides.
_OPENCL = {"runtime": ("atomic", "folders")}
_CUDA = {"runtime": ("cuda", "cuda_code")}

# What a bundle holds beside its model, and what a board's folder does.
_ENTRIES = {"README.txt", "mobilenet_tvm", "run.py"}
_BOARD_ENTRIES = {"README.txt", "mobilenet_tvm", "serve.py"}

_README = """\
{model}, compiled for {target} by mobilenet-tvm

On the device (64-bit Linux, {architecture}, Python 3.10 or later):

    pip install '{requirement}' 'numpy>=1.26,<3'
    python run.py                 random numbers in, answer and latency out
    python run.py input.npy       one file for each input

{driver}In an app, with this folder on Python's path:

    from mobilenet_tvm.runtime import load
    model = load("{artifact}")
    {outputs} = model({inputs})

{signature}

The folder `mobilenet_tvm` and the model are all of this that an app needs. The loader and
TVM's runtime library in it are under the Apache License 2.0, https://www.apache.org/licenses.
"""

_OPENCL_BUILT = """\
For its GPU the device must have an OpenCL driver.

"""
_OPENCL_SOURCE = """\
For its GPU the device must have an OpenCL driver and, on first use, a C++ compiler
(apt install g++).

"""
_CUDA_DRIVER = """\
For its GPU the device must have NVIDIA's driver, and: pip install 'nvidia-cuda-runtime>=13,<14'

"""

_BOARD_README = """\
A board for mobilenet-tvm: this folder lets other machines measure and run models here.

On the board (64-bit Linux, {architecture}, Python 3.10 or later):

    pip install '{requirement}' 'numpy>=1.26,<3'
    python serve.py                                       for rpc:// and ssh://
    python serve.py --tracker HOST:PORT --key KEY         for tracker://HOST:PORT/KEY

{driver}TVM's RPC has no authentication: whoever reaches the port can run code here. So it
listens on loopback only, unless another address is given with --host; an SSH tunnel leads there
safely.

What is here of mobilenet-tvm and TVM's runtime library are under the Apache License 2.0,
https://www.apache.org/licenses.
"""


def bundle(artifact: str | Path, output: str | Path) -> Path:
    """Make a folder that runs an artifact where neither this project nor TVM is installed.

    Parameters
    ----------
    artifact : str or Path
        The ``.so`` that ``compile`` wrote, for any architecture.
    output : str or Path
        The folder to make. An older bundle in its place is replaced; anything else is not.

    Returns
    -------
    Path
        The folder: the artifact, the loader as the package ``mobilenet_tvm`` with TVM's
        runtime library for the artifact's architecture in it, ``run.py`` and ``README.txt``; for
        an artifact for OpenCL also the plug-in, built where a compiler for that is here; for one
        for CUDA that part of TVM's runtime.

    Raises
    ------
    UserError
        If the file is no artifact, the folder holds something else, or the runtime library of
        another architecture cannot be fetched.
    """
    artifact, output = Path(artifact), Path(output)
    library = read_elf(artifact)
    metadata = metadata_of(library)
    name = artifact.with_suffix(".so").name

    def fill(folder: Path) -> str:
        _copy_modules(folder, _LOADER)
        shutil.copyfile(artifact, folder / name)
        shutil.copyfile(_source("mobilenet_tvm.runtime", "run"), folder / "run.py")
        driver = _add_gpu(folder, metadata.target.get("kind", CPU), library.architecture)
        return _readme(artifact, library.architecture, metadata, driver)

    return _make(output, library.architecture, fill)


def board_folder(machine: str, output: str | Path, kind: str = CPU) -> Path:
    """Make a folder that makes a machine a board, where this project and TVM are not installed.

    Parameters
    ----------
    machine : str
        The board's architecture.
    output : str or Path
        The folder to make. An older one in its place is replaced; anything else is not.
    kind : str
        TVM's name of the code that it shall run: a GPU's takes what that needs along.

    Returns
    -------
    Path
        The folder: ``serve.py``, the package ``mobilenet_tvm`` with what it needs and TVM's
        runtime library, and ``README.txt``.

    Raises
    ------
    UserError
        As of `bundle`.
    """

    def fill(folder: Path) -> str:
        _copy_modules(folder, _LOADER)
        _copy_modules(folder, _SERVER)
        shutil.copyfile(_source("mobilenet_tvm.runtime.remote", "serve"), folder / "serve.py")
        driver = _add_gpu(folder, kind, machine)
        return _BOARD_README.format(
            architecture=machine, requirement=FFI_REQUIREMENT, driver=driver
        )

    return _make(Path(output), machine, fill)


def _make(output: Path, machine: str, fill: Callable[[Path], str]) -> Path:
    """Make a folder in one step: TVM's runtime library, what `fill` puts there, its README."""
    _check_replaceable(output)
    runtime = runtime_library(machine)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        # Beside the output, so that the last step is a rename within one file system.
        with tempfile.TemporaryDirectory(prefix=".bundle-", dir=output.parent) as scratch:
            made = Path(scratch) / "new"
            made.mkdir()
            readme = fill(made)
            shutil.copyfile(runtime, made / "mobilenet_tvm" / "runtime" / RUNTIME_LIBRARY)
            (made / "README.txt").write_text(readme, encoding="utf-8")
            if output.exists():
                output.rename(Path(scratch) / "old")
            made.rename(output)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror})") from None
    return output


def _add_gpu(folder: Path, kind: str, machine: str) -> str:
    """Copy what a kind of GPU needs besides, and return what the README says of it."""
    runtime = folder / "mobilenet_tvm" / "runtime"
    if kind == OPENCL:
        _copy_modules(folder, _OPENCL)
        built = copy_plugin(runtime / "opencl", machine)
        return _OPENCL_BUILT if built else _OPENCL_SOURCE
    if kind == CUDA:
        _copy_modules(folder, _CUDA)
        shutil.copyfile(runtime_library(machine, CUDA_LIBRARY), runtime / CUDA_LIBRARY)
        return _CUDA_DRIVER
    return ""


def runtime_library(machine: str, name: str = RUNTIME_LIBRARY) -> Path:
    """Return TVM's runtime library for an architecture.

    Parameters
    ----------
    machine : str
        As `targets.host.architecture` names it.
    name : str
        The file's; others lie beside it.

    Returns
    -------
    Path
        This machine's own, else one from the package index: out of the wheel of the installed
        version of TVM, kept in the user's cache folder.

    Raises
    ------
    UserError
        If it cannot be fetched.
    """
    if machine == architecture():
        return find_runtime_library().with_name(name)
    version = importlib.metadata.version("apache-tvm")
    kept = cache_folder() / "runtime" / version / machine / name
    if not kept.is_file():
        _LOGGER.info("fetching TVM %s for %s (100 MB, once) for its runtime", version, machine)
        _fetch(version, machine, kept)
    return kept


def _check_replaceable(output: Path) -> None:
    if not output.exists():
        return
    if not output.is_dir():
        raise UserError(f"{output}: is a file; give a folder")
    names = {entry.name for entry in output.iterdir()}
    models = names - _ENTRIES
    is_bundle = names > _ENTRIES and [Path(name).suffix for name in models] == [".so"]
    if names and not is_bundle and names != _BOARD_ENTRIES:
        raise UserError(f"{output}: holds something other than a bundle; give another folder")


def _copy_modules(folder: Path, modules: Mapping[str, Sequence[str]]) -> None:
    for package, names in modules.items():
        destination = folder.joinpath("mobilenet_tvm", *package.split("."))
        destination.mkdir(parents=True, exist_ok=True)
        for name in names:
            source = _source(f"mobilenet_tvm.{package}", name)
            shutil.copyfile(source, destination / source.name)


def _source(package: str, module: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"the package {package} has no files here; install mobilenet-tvm with pip")
    return Path(spec.origin).with_name(f"{module}.py")


def _readme(artifact: Path, machine: str, metadata: Metadata, driver: str) -> str:
    return _README.format(
        model=metadata.model,
        target=metadata.target["name"],
        architecture=machine,
        requirement=FFI_REQUIREMENT,
        driver=driver,
        artifact=artifact.with_suffix(".so").name,
        inputs=", ".join(re.sub(r"\W", "_", info.name) for info in metadata.inputs),
        outputs="output" if len(metadata.outputs) == 1 else "outputs_by_name",
        signature="\n".join(
            [f"input   {info}" for info in metadata.inputs]
            + [f"output  {info}" for info in metadata.outputs]
        ),
    )


def _fetch(version: str, machine: str, destination: Path) -> None:
    """Take the library out of the wheel on the package index."""
    member = f"tvm/lib/{destination.name}"
    try:
        with replacing(destination) as scratch:
            folder = scratch.parent
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir"]
            wheel_of = ["--only-binary=:all:", "--platform", f"manylinux_2_28_{machine}"]
            subprocess.run(
                [*pip, *wheel_of, "--dest", str(folder), f"apache-tvm=={version}"],
                check=True,
                capture_output=True,
                text=True,
            )
            (wheel,) = folder.glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                scratch.write_bytes(archive.read(member))
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        reason = next((line for line in reversed(lines) if "ERROR" in line), lines[-1])
        raise UserError(
            f"TVM {version} for {machine} cannot be fetched ({reason.strip()}); put its "
            f"{member} at {destination}"
        ) from None
    except OSError as error:
        raise UserError(f"{destination}: cannot be written ({error.strerror})") from None
