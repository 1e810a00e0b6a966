"""The files that a board needs to measure a candidate: its arguments and the right result."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import tvm

from mobilenet_tvm.compile.tuning.boards.integers import integer_result
from mobilenet_tvm.compile.tuning.local.builder import Build, Compiled, compile_candidate
from mobilenet_tvm.compile.tuning.measure import (
    Parameters,
    random_arguments,
    random_gates,
    random_operands,
)
from mobilenet_tvm.runtime.atomic import replacing
from mobilenet_tvm.runtime.measure import Array
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.presets import native
from mobilenet_tvm.targets.target import Target


def compile_with_arguments(
    build: Build, workload: Workload, decision: Decision, target: Target, path: str
) -> Compiled:
    """Compile one candidate; store its arguments, and the default's result, in its folder."""
    folder = Path(path).parent
    compiled = compile_candidate(build, workload, decision, target, path)
    if decision == registry.default(workload, target):
        compute_reference(workload, reference_path(workload, folder), compiled.parameters)
    arrays, weights = random_arguments(workload, decision, compiled.parameters)
    files = [store(array, folder) for array in arrays[:-1]]
    return replace(compiled, arguments=files, weights=weights)


def reference_path(workload: Workload, folder: Path) -> Path:
    """Return the file of a layer's right result."""
    return folder / f"{hashlib.sha256(str(workload).encode()).hexdigest()[:20]}.npy"


def compute_reference(workload: Workload, path: Path, parameters: Parameters) -> None:
    """Store a layer's right result, as this machine's CPU computes it by the default decision.

    With it the first candidate shows whether a board computes correctly. This machine computes in
    float32, even if the layer's own type is smaller, and integer layers by NumPy.

    Parameters
    ----------
    workload : Workload
        The layer.
    path : Path
        The file to write.
    parameters : sequence of (str, tuple of int, str)
        Parameters of the board's function.
    """
    if workload.types.integer:
        (weight,), operands = random_operands(workload, parameters)
        named = {
            name: operand
            for (name, *_), operand in zip(parameters, operands, strict=True)
            if operand is not None
        }
        np.save(path, integer_result(workload, weight, named))
        return
    target = native()
    plain, gates = workload.without_gates().in_type("float32"), workload.gates
    decision = registry.default(plain, target)
    library = str(path.with_suffix(".so"))
    compiled = compile_candidate(registry.build, plain, decision, target, library)
    arrays, _ = random_arguments(workload, decision, compiled.parameters)
    if gates:
        factors = random_gates((gates, arrays[0].shape[-1]), workload.dtype)
        arrays[0] *= np.repeat(factors, len(arrays[0]) // gates, axis=0)
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    tvm.runtime.load_module(library)["main"](*tensors)
    np.save(path, tensors[-1].numpy().astype(workload.types.result))


def store(array: Array, folder: Path) -> Path:
    """Store an array under a hash of its contents; return the file's path.

    Candidates share most of their arguments, and a file is uploaded to a board once.
    """
    digest = hashlib.sha256(repr(array.shape).encode() + array.tobytes()).hexdigest()
    path = folder / f"{digest[:20]}.npy"
    if not path.exists():
        with replacing(path) as scratch:
            np.save(scratch, array)
    return path
