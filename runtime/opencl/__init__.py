"""OpenCL for TVM's runtime: a plug-in that is compiled on the user's machine."""

from mobilenet_tvm.runtime.opencl.devices import Device, devices, find_device, start_timer
from mobilenet_tvm.runtime.opencl.plugin import load_opencl

__all__ = ["Device", "devices", "find_device", "load_opencl", "start_timer"]
