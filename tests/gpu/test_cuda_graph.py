"""CUDA graphs: what of a network is captured, and that a replay computes what `main` does."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from cuda_on_cpu import cuda_on_cpu, graphs_on_cpu
from networks import reference
from onnxruntime import InferenceSession
from tvm import ir, relax

from mobilenet_tvm.compile import pipeline
from mobilenet_tvm.compile.codegen.pass_context import pass_config
from mobilenet_tvm.runtime.device import Device
from mobilenet_tvm.runtime.model import GRAPH
from mobilenet_tvm.targets.presets import get_target

NAMES = ("v1", "v2", "v3-large", "v3-small")
SMALL: dict[str, Any] = {"alpha": 0.25, "resolution": 32, "classes": 7}
CAPTURE = "vm.builtin.cuda_graph.run_or_capture"
ALLOCATE = "vm.builtin.cuda_graph.get_cached_alloc"


@functools.cache
def lowered(model: str, target: str, dtype: str, **options: Any) -> pipeline.Lowered:
    return pipeline.lower(reference(model, **options), get_target(target), dtype=dtype)


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


@pytest.mark.full
@pytest.mark.parametrize("model", NAMES)
def test_one_graph_holds_all_kernels_but_the_last(model: str) -> None:
    mod = lowered(model, "cuda:sm_90", "float32", **SMALL).mod
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
    mod = lowered("v2", target, "float32", **SMALL).mod
    functions = [n.name_hint for n, f in mod.functions.items() if isinstance(f, relax.Function)]
    assert functions == ["main"]


@pytest.mark.full
@pytest.mark.parametrize(
    ("model", "options", "dtype", "tolerance"),
    [
        *((name, SMALL, "float32", 1e-4) for name in NAMES),
        ("v2", {"alpha": 0.35, "resolution": 64, "batch": 3, "classes": 11}, "float32", 1e-4),
        ("v2", {"alpha": 0.35, "resolution": 64, "batch": 3, "classes": 11}, "float16", 3e-2),
        ("v3-small", SMALL, "float16", 3e-2),
    ],
)
@pytest.mark.usefixtures("gcc")
def test_networks_and_replays_equal_onnx_runtime(
    model: str, options: dict[str, Any], dtype: str, tolerance: float
) -> None:
    target, network = get_target("cuda:sm_90"), reference(model, **options)
    mod = lowered(model, "cuda:sm_90", dtype, **options).mod
    context = tvm.transform.PassContext(opt_level=3, config=pass_config(target))
    with context, cuda_on_cpu():
        executable = relax.build(mod, pipeline.tvm_target(target), relax_pipeline=None)
    session = InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    picture = np.empty(source.shape, np.float32)
    with graphs_on_cpu() as events:
        machine = executable.jit()["vm_load_executable"]()
        machine["vm_initialization"](*Device().places)
        for seed in range(3):
            picture[...] = np.random.default_rng(seed).standard_normal(picture.shape)
            (expected,) = session.run(None, {source.name: picture})
            for name in ("main", GRAPH):
                result = np.from_dlpack(machine[name](tvm_ffi.from_dlpack(picture)))
                assert np.abs(result - expected).max() < tolerance * np.ptp(expected)
    assert events == ["record", "replay", "replay"]


def test_models_on_one_gpu_take_turns() -> None:
    # What records a graph fails if another thread allocates.
    first, second = Device("cuda").lock(), Device("cuda", 1).lock()
    with first:
        assert not second.acquire(blocking=False)  # type: ignore[attr-defined]
    with (
        Device("opencl").lock(),
        Device("opencl").lock(),
        Device().lock(),
        Device().lock(),
    ):
        pass
