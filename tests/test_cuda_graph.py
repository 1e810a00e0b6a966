"""CUDA graphs: what of a network is captured, and that a replay computes what `main` does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm_ffi
from tvm import ir, relax

from mobilenet_tvm.compile import compile_model, pipeline
from mobilenet_tvm.compile.models import NAMES
from mobilenet_tvm.compile.source import ModelOptions, resolve
from mobilenet_tvm.runtime.device import copy, open_device
from mobilenet_tvm.runtime.library import load_artifact
from mobilenet_tvm.runtime.model import GRAPH
from mobilenet_tvm.targets.presets import get_target

SMALL: dict[str, Any] = {"alpha": 0.25, "resolution": 32, "classes": 7}
CAPTURE = "vm.builtin.cuda_graph.run_or_capture"
ALLOCATE = "vm.builtin.cuda_graph.get_cached_alloc"


def lowered(model: str, target: str) -> pipeline.Lowered:
    return pipeline.lower(resolve(model, ModelOptions(**SMALL)).model, get_target(target))


def kernels(func: relax.Function) -> list[str]:
    """Return the names of the kernels that a function launches, in order."""
    values = [binding.value for block in func.body.blocks for binding in block.bindings]
    operators = [value.op for value in values if isinstance(value, relax.Call)]
    names = [
        op.name_hint if isinstance(op, ir.GlobalVar) else str(op.global_symbol)
        for op in operators
        if isinstance(op, ir.GlobalVar | relax.ExternFunc)
    ]
    return [name for name in names if not name.startswith("vm.builtin.")]


@pytest.mark.parametrize("model", NAMES)
def test_one_graph_holds_all_kernels_but_the_last(model: str) -> None:
    mod = lowered(model, "cuda:sm_90").mod
    main, graph = mod["main"], mod[GRAPH]
    (captured,) = [
        func for name, func in mod.functions.items() if name.name_hint.endswith("_graph_capture")
    ]
    assert len(kernels(graph)) == 1
    assert kernels(captured) + kernels(graph) == kernels(main)
    assert graph.script().count(CAPTURE) == graph.script().count(ALLOCATE) == 1
    # Profiling takes this one, whose kernels can be waited for.
    assert "cuda_graph" not in main.script()


@pytest.mark.parametrize("target", ["x86", "arm64", "mali"])
def test_other_targets_have_no_graph(target: str) -> None:
    mod = lowered("v2", target).mod
    functions = [n.name_hint for n, f in mod.functions.items() if isinstance(f, relax.Function)]
    assert functions == ["main"]


@pytest.fixture
def emulated() -> Iterator[list[str]]:
    """Stand in for CUDA's graphs; yields what happened.

    As there, a replay takes the first call's tensors, whatever the later call brings.
    """
    events: list[str] = []
    kept: dict[str, Any] = {}
    invoke = tvm_ffi.get_global_func("vm.builtin.invoke_closure")

    def run_or_capture(context: Any, closure: Any, arguments: Any, _index: int) -> Any:
        events.append("replay" if "capture" in kept else "capture")
        arguments = kept.setdefault("arguments", arguments)
        result = invoke(context, closure, *arguments)
        return kept.setdefault("capture", result)

    def get_cached_alloc(context: Any, closure: Any, _index: int) -> Any:
        if "storage" not in kept:
            kept["storage"] = invoke(context, closure)
        return kept["storage"]

    tvm_ffi.register_global_func(CAPTURE, run_or_capture, override=True)
    tvm_ffi.register_global_func(ALLOCATE, get_cached_alloc, override=True)
    yield events
    tvm_ffi.remove_global_func(CAPTURE)
    tvm_ffi.remove_global_func(ALLOCATE)


@pytest.mark.parametrize("model", NAMES)
@pytest.mark.usefixtures("pocl")
def test_replays_equal_main(
    model: str, emulated: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cuda, passes = get_target("cuda"), pipeline.memory_passes
    monkeypatch.setattr(pipeline, "memory_passes", lambda _: passes(cuda))
    artifact = compile_model(model, "mali:x86", tmp_path / "m.so", tuning_log="none", **SMALL)
    device = open_device("opencl")
    machine = load_artifact(artifact.path, own_copy=True)["vm_load_executable"]()
    machine["vm_initialization"](*device.places)
    picture = device.empty((1, 3, 32, 32), "float32")
    results = []
    for seed in range(3):
        values = np.random.default_rng(seed).standard_normal((1, 3, 32, 32), np.float32)
        copy(tvm_ffi.from_dlpack(values), picture)
        for name in ("main", GRAPH):
            result = tvm_ffi.from_dlpack(np.empty((1, 7), np.float32))
            copy(machine[name](picture), result)
            device.synchronize()
            results.append(np.from_dlpack(result).copy())
    assert emulated == ["capture", "replay", "replay"]
    main, graph = results[::2], results[1::2]
    np.testing.assert_array_equal(main, graph)
    assert not np.array_equal(main[0], main[1])
