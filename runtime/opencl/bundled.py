"""Copies the plug-in into a bundle, for devices that have tvm-ffi but not the package `tvm`."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from mobilenet_tvm.runtime.opencl.build import HEADERS, build, find_compiler, tvm_headers
from mobilenet_tvm.runtime.opencl.plugin import PREBUILT
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.host import architecture

# Modules that devices need; the rest of this package is for making bundles.
_MODULES = ("__init__.py", "build.py", "devices.py", "plugin.py")

_LOGGER = logging.getLogger(__name__)


def copy_plugin(folder: Path, machine: str) -> bool:
    """Copy the plug-in's loader and sources into a folder, and build it if possible.

    Parameters
    ----------
    folder : Path
        The folder to make: ``mobilenet_tvm/runtime/opencl`` of a bundle.
    machine : str
        The device's architecture, as `targets.host.architecture` names it.

    Returns
    -------
    bool
        Whether the plug-in was built. If not, or if it does not load because the device's
        libraries are older, the device builds it on first use.
    """
    here = Path(__file__).parent
    folder.mkdir()
    for file in (*map(here.joinpath, _MODULES), *here.glob("*.cc"), *here.glob("*.h")):
        shutil.copyfile(file, folder / file.name)
    for name in HEADERS:
        header = folder / "include" / name
        header.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(tvm_headers() / name, header)
    try:
        native = machine == architecture()
        build(find_compiler() if native else _cross_compiler(machine), folder / PREBUILT)
    except UserError as error:
        _LOGGER.info("the OpenCL plug-in is not built, the device will build it: %s", error)
        return False
    return True


def _cross_compiler(machine: str) -> list[str]:
    name = f"{machine}-linux-gnu-g++"
    if shutil.which(name) is None:
        raise UserError(
            f"no {name} (Debian: apt install g++-{machine.replace('_', '-')}-linux-gnu)"
        )
    return [name]
