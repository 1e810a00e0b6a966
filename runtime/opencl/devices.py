"""The OpenCL devices of this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mobilenet_tvm.runtime.opencl.plugin import function, load_opencl
from mobilenet_tvm.targets.errors import UserError


@dataclass(frozen=True)
class Device:
    """An OpenCL device, as its driver describes it.

    Parameters
    ----------
    number : int
        TVM's number for it: ``tvm.opencl(number)``.
    platform, name, driver, version : str
        Names of the platform and the device, versions of the driver and of its OpenCL.
    type : str
        ``GPU``, ``CPU``, ``accelerator`` or ``other``.
    compute_units : int
        Number of cores.
    memory_bytes : int
        Size of its memory, in bytes.
    float16 : bool
        Whether its kernels can compute with float16 (cl_khr_fp16).
    unified_memory : bool
        Whether it works on this machine's main memory.
    """

    number: int
    platform: str
    name: str
    type: str
    driver: str
    version: str
    compute_units: int
    memory_bytes: int
    float16: bool
    unified_memory: bool


def devices() -> list[Device]:
    """Return the OpenCL devices, GPUs first.

    The variable ``MOBILENET_TVM_OPENCL_DEVICE`` restricts them to one number in that list, or to
    those whose name or platform contains a word such as ``mali``.

    Raises
    ------
    UserError
        If the plug-in cannot be loaded, or there is no OpenCL library, no driver or no device.
    """
    load_opencl()
    describe = function("devices")
    if describe is None:
        raise UserError("this process uses TVM's own OpenCL, which does not list its devices")
    try:
        described = describe()
    except RuntimeError as error:
        raise UserError(str(error)) from None
    return [Device(number, **dict(values)) for number, values in enumerate(described)]


def start_timer(number: int) -> Callable[[], float]:
    """Start timing a device's kernels.

    Returns
    -------
    callable
        Stops timing, and returns the kernels' seconds; 0 where the driver does not report them.
    """
    start, stop = function("start_timer"), function("stop_timer")
    if start is None:
        return lambda: 0.0
    begin = start(number)
    return lambda: 1e-9 * int(stop(number, begin))


def find_device(wanted: int | str | None = None) -> Device:
    """Return one of the devices.

    Parameters
    ----------
    wanted : int or str, optional
        Its number, or part of its name or its platform's. Default: the first device.

    Raises
    ------
    UserError
        If there is no such device.
    """
    found = devices()
    for device in found:
        named = f"{device.platform} {device.name}".lower()
        if (
            wanted is None
            or str(wanted) == str(device.number)
            or (isinstance(wanted, str) and not wanted.isdigit() and wanted.lower() in named)
        ):
            return device
    names = ", ".join(f"{device.number} {device.name}" for device in found)
    raise UserError(f"no OpenCL device matches '{wanted}'; choose one of: {names}")
