"""Makes folders to copy to a device: a model with all that runs it, or a board's server."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import re
import shutil
import subprocess
import sys
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
from mobilenet_tvm.runtime.scratch import scratch_folder
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.host import architecture

_LOGGER = logging.getLogger(__name__)

# Modules of the loader; a model's bundle has nothing else of this project.
_LOADER = {
    "runtime": (
        "__init__",
        "base_model",
        "bench",
        "c_library",
        "detection",
        "device",
        "checksum",
        "elf",
        "files",
        "library",
        "metadata",
        "model",
        "threads",
        "yolo",
    ),
    "targets": ("__init__", "cgroup", "errors", "host", "printable"),
}
# Modules that a board has as well.
_SERVER = {
    "runtime": ("address", "atomic", "folders", "measure", "profile", "scratch"),
    "runtime.remote": (
        "__init__",
        "board",
        "info",
        "listen",
        "lobby",
        "marks",
        "measuring",
        "wire",
    ),
    "targets": ("gpu", "target"),
    "targets.presets": ("__init__", "arm", "gpus", "x86"),
}
# Modules that GPUs need as well.
_OPENCL = {"runtime": ("atomic", "folders", "scratch")}
_CUDA = {"runtime": ("cuda", "cuda_code")}

# The entries of a bundle beside its model, and those of a board's folder.
_ENTRIES = {"README.txt", "mobilenet_tvm", "run.py"}
_BOARD_ENTRIES = {"README.txt", "mobilenet_tvm", "serve.py"}

_README = """\
{model}, compiled for {target} by mobilenet-tvm

On the device (64-bit Linux, {architecture}, Python 3.10 or later):

    pip install '{requirement}' 'numpy>=1.26,<3'
    python run.py                 run on random numbers, print outputs and latency
    python run.py input.npy       run on arrays, one file for each input

{driver}In an app, with this folder on Python's path:

    from mobilenet_tvm.runtime import load
    model = load("{artifact}")
    {outputs} = model({inputs})

{signature}

An app needs only the folder `mobilenet_tvm` and the model. The loader and TVM's runtime library
in that folder are under the Apache License 2.0, https://www.apache.org/licenses.
"""

_OPENCL_BUILT = """\
To use its GPU, the device must have an OpenCL driver.

"""
_OPENCL_SOURCE = """\
To use its GPU, the device must have an OpenCL driver and, the first time, a C++ compiler
(apt install g++).

"""
_CUDA_DRIVER = """\
To use its GPU, the device must have NVIDIA's driver, and CUDA's runtime library:

    pip install 'nvidia-cuda-runtime>=13,<14'

"""

_BOARD_README = """\
A board for mobilenet-tvm: this folder lets other machines measure and run models here.

On the board (64-bit Linux, {architecture}, Python 3.10 or later):

    pip install '{requirement}' 'numpy>=1.26,<3'
    python serve.py                                       for rpc:// and ssh://
    python serve.py --tracker HOST:PORT --key KEY         for tracker://HOST:PORT/KEY

{driver}TVM's RPC has no authentication: anyone who can reach the port can run code here. The
server therefore listens on loopback only, unless --host gives another address; use an SSH tunnel
to reach it safely.

The files of mobilenet-tvm and TVM's runtime library in this folder are under the Apache License
2.0, https://www.apache.org/licenses.
"""


def bundle(artifact: str | Path, output: str | Path) -> Path:
    """Make a folder that runs an artifact where neither this project nor TVM is installed.

    Parameters
    ----------
    artifact : str or Path
        The ``.so`` that ``compile`` wrote, for any architecture.
    output : str or Path
        The folder to make. It replaces an older bundle, and nothing else.

    Returns
    -------
    Path
        The folder: the artifact, the loader as the package ``mobilenet_tvm`` with TVM's runtime
        library for the artifact's architecture, ``run.py`` and ``README.txt``. An artifact for
        OpenCL also gets the plug-in, built if a compiler for the architecture is installed; one
        for CUDA also gets TVM's CUDA runtime.

    Raises
    ------
    UserError
        If the file is not an artifact, the folder holds something else, or the runtime library
        of another architecture cannot be fetched.
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
    """Make a folder with a board's server, for machines without this project and TVM.

    Parameters
    ----------
    machine : str
        The board's architecture.
    output : str or Path
        The folder to make. It replaces an older one, and nothing else.
    kind : str
        TVM's name for the kind of code that the board runs; for a GPU's, the folder also has what
        that GPU needs.

    Returns
    -------
    Path
        The folder: ``serve.py``, the package ``mobilenet_tvm`` with the modules that it needs and
        TVM's runtime library, and ``README.txt``.

    Raises
    ------
    UserError
        As for `bundle`.
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
    """Make a folder in one step: TVM's runtime library, the files of `fill`, its README."""
    _check_replaceable(output)
    runtime = runtime_library(machine)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        # Beside the output, so that the last step is a rename within one file system.
        with scratch_folder(".bundle-new-", output.parent) as scratch:
            made = scratch / "new"
            made.mkdir()
            readme = fill(made)
            shutil.copyfile(runtime, made / "mobilenet_tvm" / "runtime" / RUNTIME_LIBRARY)
            (made / "README.txt").write_text(readme, encoding="utf-8")
            if output.exists():
                output.rename(scratch / "old")
            made.rename(output)
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror})") from None
    return output


def _add_gpu(folder: Path, kind: str, machine: str) -> str:
    """Copy what a kind of GPU needs, and return the README's paragraph about it."""
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
        The library's file name.

    Returns
    -------
    Path
        This machine's own library; for another architecture, the one in the package index's wheel
        of the installed version of TVM, which is kept in the user's cache folder.

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
        raise UserError(f"{output}: is a file; give the name of a folder")
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
    """Download TVM's wheel from the package index and extract the library."""
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
            f"TVM {version} for {machine} cannot be fetched ({reason.strip()}); copy {member} of "
            f"its wheel to {destination}"
        ) from None
    except OSError as error:
        raise UserError(f"{destination}: cannot be written ({error.strerror})") from None
