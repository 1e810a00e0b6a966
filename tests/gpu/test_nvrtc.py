"""CUDA without a GPU: what NVRTC makes of the kernels, and what is said where it cannot."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from gpu_layers import HALF, LAYERS, gpu
from networks import EXPORTS, ODD
from opencl_kernels import source

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.codegen import nvrtc
from mobilenet_tvm.compile.codegen.nvrtc import compile_cuda
from mobilenet_tvm.runtime.cuda_code import as_source, from_source
from mobilenet_tvm.schedules import registry
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.presets import get_target

KERNEL = 'extern "C" __global__ void one(float* x) { x[threadIdx.x] = 1.0f; }'
#: Of ELF's header: NVIDIA's machine.
ELF, EM_CUDA = b"\x7fELF", 190


needs_nvrtc = pytest.mark.usefixtures("nvrtc_library")


@pytest.mark.parametrize("name", ["cuda:sm_80", "cuda:sm_90"])
@pytest.mark.parametrize("workload", [*LAYERS, *HALF], ids=str)
@needs_nvrtc
def test_layers_become_a_cubin(workload: Workload, name: str) -> None:
    target = get_target(name)
    func = registry.build(workload, registry.default(workload, target), target)
    code = compile_cuda(source(func, target), gpu(name))
    assert code.startswith(ELF)
    assert int.from_bytes(code[18:20], "little") == EM_CUDA
    assert b"main_kernel" in code


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(ODD["clip_one_sided"](), id="infinity"),
        pytest.param(EXPORTS / "qdq_v2_opset13.onnx", id="int8", marks=pytest.mark.full),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@needs_nvrtc
def test_what_needs_more_of_cudas_headers(model: Any, dtype: str, tmp_path: Path) -> None:
    artifact = compile_model(model, "cuda:sm_90", tmp_path / "m.so", tuning_log="none", dtype=dtype)
    assert as_source(b"").encode() in artifact.path.read_bytes()


@needs_nvrtc
def test_portable_code_is_ptx_of_the_oldest_architecture() -> None:
    code = compile_cuda(KERNEL, gpu("cuda"))
    assert b".target sm_80" in code
    assert b".entry one" in code
    # As the driver takes it.
    assert code.endswith(b"\0")


@needs_nvrtc
def test_an_unknown_architecture_is_one_line() -> None:
    with pytest.raises(UserError, match=r"cannot compile for sm_1 \(.+\)$"):
        compile_cuda(KERNEL, dataclasses.replace(gpu("cuda:sm_80"), arch="sm_1"))


def test_without_any_compiler_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "_nvrtc", lambda: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"pip install 'mobilenet-tvm\[cuda\]'"):
        compile_cuda(KERNEL, gpu("cuda"))


def test_compiled_code_passes_as_source() -> None:
    code = bytes(range(256))
    assert from_source(as_source(code)) == code


@pytest.mark.parametrize("text", ["__global__ void one();", as_source(b"code")[:-1] + "!"])
def test_other_source_is_refused_on_load(text: str) -> None:
    with pytest.raises(ValueError, match="CUDA"):
        from_source(text)


@pytest.mark.full
@needs_nvrtc
def test_a_network_holds_one_cubin(tmp_path: Path) -> None:
    options: dict[str, Any] = {"alpha": 0.25, "resolution": 32}
    artifact = compile_model("v2", "cuda:sm_90", tmp_path / "v2.so", tuning_log="none", **options)
    assert artifact.metadata.target["kind"] == "cuda"
    content = artifact.path.read_bytes()
    start = content.index(as_source(b"").encode())
    end = min(content.find(stop, start) for stop in (b"\0", b"\n") if stop in content[start:])
    assert b"__global__" not in content
    assert len(content[start:end]) > 1000
