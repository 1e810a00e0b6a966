"""Converts targets into TVM's."""

from __future__ import annotations

import tvm

from mobilenet_tvm.targets.target import Target


def tvm_target(target: Target) -> tvm.target.Target:
    """Return TVM's target: a CPU, or a GPU with the CPU as its host."""
    if target.gpu is None:
        return llvm_target(target)
    spec: dict[str, object] = {
        "kind": target.gpu.kind,
        "max_num_threads": target.gpu.group_threads,
        "thread_warp_size": target.gpu.lockstep,
    }
    if target.gpu.arch:
        spec["arch"] = target.gpu.arch
    return tvm.target.Target(spec, host=llvm_target(target))


def llvm_target(target: Target) -> tvm.target.Target:
    """Return TVM's target for the CPU alone."""
    spec: dict[str, object] = {"kind": "llvm", "mtriple": target.triple, "mcpu": target.cpu}
    if target.features:
        spec["mattr"] = list(target.features)
    if target.architecture == "aarch64":
        # Otherwise LLVM's scheduler clusters loads of adjacent addresses, and registers run out.
        spec["cl-opt"] = ["-misched-cluster:bool=false"]
    return tvm.target.Target(spec)
