"""The commands `opencl build` and `opencl devices`."""

from __future__ import annotations

import time
from dataclasses import asdict

import click

from mobilenet_tvm.compile.cli.output import echo, json_option, print_json


@click.group()
def opencl() -> None:
    """List this machine's OpenCL devices, or build the plug-in that TVM needs for them."""


@opencl.command()
@json_option
def build(as_json: bool) -> None:
    """Build the plug-in now instead of on first use."""
    from mobilenet_tvm.runtime.opencl.build import build as build_plugin
    from mobilenet_tvm.runtime.opencl.build import find_compiler

    compiler = find_compiler()
    start = time.perf_counter()
    path = build_plugin(compiler)
    facts = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "compiler": " ".join(compiler),
        "seconds": round(time.perf_counter() - start, 1),
    }
    if as_json:
        print_json(facts)
    else:
        echo(
            f"{facts['file']} ({path.stat().st_size / 1e3:.0f} kB, {facts['compiler']}, "
            f"{facts['seconds']} s)"
        )


@opencl.command("devices")
@json_option
def devices_command(as_json: bool) -> None:
    """List the OpenCL devices by number."""
    from mobilenet_tvm.runtime.opencl import devices

    found = devices()
    if as_json:
        print_json([asdict(device) for device in found])
        return
    for device in found:
        float16 = "float16" if device.float16 else "no float16"
        memory = "shared with the CPU" if device.unified_memory else "dedicated"
        echo(f"{device.number}  {device.name} ({device.type}), {device.platform}")
        echo(f"   driver {device.driver}, {device.version}")
        echo(
            f"   {device.compute_units} compute units, {float16}, "
            f"{device.memory_bytes / 2**30:.1f} GiB of memory ({memory})"
        )
