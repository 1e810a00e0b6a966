"""The OpenCL devices of this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mobilenet_tvm.runtime.opencl.plugin import function, load_opencl
from mobilenet_tvm.targets.errors import UserError


@dataclass(frozen=True)
class Device:
    """What an OpenCL device says of itself.

    Parameters
    ----------
    number : int
        TVM's number of it: ``tvm.opencl(number)``.
    platform, name, driver, version : str
        The driver's name, the device's, and versions of the driver and of its OpenCL.
    type : str
        ``GPU``, ``CPU``, ``accelerator`` or ``other``.
    compute_units : int
        Cores of the device.
    memory_bytes : int
        Its memory, in bytes.
    float16 : bool
        Whether its kernels compute with float16 (cl_khr_fp16).
    unified_memory : bool
        Whether its memory is this machine's.
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

    The variable ``MOBILENET_TVM_OPENCL_DEVICE`` limits them to one number of that list, or to
    those whose name or platform holds a word such as ``mali``.

    Raises
    ------
    UserError
        If the plug-in cannot be loaded, or there is no OpenCL library, no driver or no device.
    """
    load_opencl()
    describe = function("devices")
    if describe is None:
        raise UserError("this process has an OpenCL of TVM's own, which does not list its devices")
    try:
        described = describe()
    except RuntimeError as error:
        raise UserError(str(error)) from None
    return [Device(number, **dict(values)) for number, values in enumerate(described)]


def start_timer(number: int) -> Callable[[], float]:
    """Return a function that returns the seconds which a device's kernels take from now to then.

    They are 0 where the driver does not tell.
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
        Its number, or part of its name or its platform's. The first device by default.

    Raises
    ------
    UserError
        If there is none, or none such.
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
    raise UserError(f"no OpenCL device is '{wanted}'; there is: {names}")
