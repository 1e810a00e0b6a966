"""Models for 64-bit ARM run on the emulated board and give ONNX Runtime's answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import odd_models as odd
import onnx
import onnxruntime
import pytest
import tvm
from board import Board
from board_models import run_on_board
from networks import EXPORTS, output_step, quantized_feeds, session

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.analysis.verify import TOLERANCES
from mobilenet_tvm.compile.codegen.linker import link_shared
from mobilenet_tvm.compile.codegen.pass_context import PASS_CONFIG
from mobilenet_tvm.compile.codegen.tvm_target import llvm_target
from mobilenet_tvm.compile.models.source import ModelOptions, resolve
from mobilenet_tvm.runtime.bundle import bundle
from mobilenet_tvm.schedules.cpu import pointwise
from mobilenet_tvm.schedules.workloads import Pointwise, Step
from mobilenet_tvm.targets.presets import PRESETS

#: Runs each function of a library on the arrays of its name in a file, on the board.
RUN_FUNCTIONS = """
import ctypes, sys, numpy as np, tvm_ffi
ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
library = tvm_ffi.load_module("./layers.so")
arrays, outputs = np.load("arrays.npz"), {}
for name in {key.partition(".")[0] for key in arrays}:
    operands = [arrays[f"{name}.{i}"] for i in range(4)]
    outputs[name] = np.full_like(operands[-1], np.nan)
    library[name](*map(tvm_ffi.from_dlpack, (*operands, outputs[name])))
np.savez("outputs.npz", **outputs)
"""


@pytest.mark.parametrize(
    ("model", "target", "cpu"),
    [
        ("v1", "arm64", "cortex-a53"),
        ("v2", "arm64", "cortex-a72"),
        ("v3-large", "rpi4", "cortex-a72"),
        ("v3-small", "cortex-a76", "cortex-a76"),
        (odd.tiny_v2(widths=(5, 7, 13), classes=11, resolution=33), "cortex-a53", "cortex-a53"),
        (odd.tensorflow_v1(), "arm64", "cortex-a72"),
    ],
    ids=["v1", "v2", "v3-large", "v3-small", "odd_channels", "tensorflow_v1"],
)
def test_the_board_equals_onnxruntime(
    model: str | onnx.ModelProto, target: str, cpu: str, board: Board, tmp_path: Path
) -> None:
    artifact = compile_model(model, target, tmp_path / "model.so")
    reference = resolve(model, ModelOptions()).model
    session = onnxruntime.InferenceSession(reference.SerializeToString())
    rng = np.random.default_rng(0)
    shape = artifact.metadata.inputs[0].shape
    images = rng.standard_normal((5, *shape)).astype(np.float32)
    outputs = run_on_board(board, artifact.path, images, tmp_path, cpu)
    for image, output in zip(images, outputs, strict=True):
        expected = session.run(None, {artifact.metadata.inputs[0].name: image})[0]
        assert np.abs(output - expected).max() <= 1e-4 * np.ptp(expected)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("qdq_v3_small_opset17", "cortex-a53"),
        ("qdq_v3_small_opset17", "cortex-a76"),
        ("tflite_v1_int8_opset16", "cortex-a76"),
    ],
)
def test_quantized_networks_equal_onnxruntimes(
    name: str, target: str, board: Board, tmp_path: Path
) -> None:
    model = onnx.load(EXPORTS / f"{name}.onnx")
    artifact = compile_model(model, target, tmp_path / "model.so")
    feeds = [quantized_feeds(model, seed) for seed in range(3)]
    images = np.stack([next(iter(feed.values())) for feed in feeds])
    outputs = run_on_board(board, artifact.path, images, tmp_path, target)
    step = output_step(model)
    assert step > 0
    for feed, output in zip(feeds, outputs, strict=True):
        expected = np.asarray(session(model, optimised=True).run(None, feed)[0], np.float64)
        # The float numbers of a step are not exact.
        assert np.abs(output - expected).max() <= 1e-3 * step


@pytest.mark.parametrize(
    ("model", "options", "target"),
    [
        ("v3-small", {"alpha": 0.35, "resolution": 64, "batch": 2}, "rpi5"),
        (odd.tiny_v2(widths=(5, 7, 13), classes=11, resolution=33), {}, "arm64-fp16"),
    ],
    ids=["v3-small", "odd_channels"],
)
def test_float16_is_near_onnxruntime(
    model: str | onnx.ModelProto,
    options: dict[str, Any],
    target: str,
    board: Board,
    tmp_path: Path,
) -> None:
    artifact = compile_model(model, target, tmp_path / "model.so", dtype="float16", **options)
    reference = resolve(model, ModelOptions(**options)).model
    session = onnxruntime.InferenceSession(reference.SerializeToString())
    info = artifact.metadata.inputs[0]
    images = np.random.default_rng(0).standard_normal((3, *info.shape)).astype(info.dtype)
    outputs = run_on_board(board, artifact.path, images, tmp_path, "cortex-a76")
    for image, output in zip(images, outputs, strict=True):
        expected = session.run(None, {info.name: image})[0].astype(np.float32)
        error = np.abs(output.astype(np.float32) - expected).max() / np.ptp(expected)
        # A float32 network within this would be one.
        assert TOLERANCES["float32"] < error < TOLERANCES["float16"]


def test_float16_on_a_core_without_it_is_one_line(board: Board, tmp_path: Path) -> None:
    artifact = compile_model(odd.tiny_v2(), "arm64-fp16", tmp_path / "m.so", dtype="float16")
    folder = bundle(artifact.path, tmp_path / "bundle")
    finished = board.run([str(folder / "run.py")], cpu="cortex-a72")
    assert "needs asimdhp, fphp, which this CPU lacks; compile with --target arm64" in (
        finished.stderr
    )
    assert finished.stderr.rstrip().endswith("--dtype float32")


def test_the_code_is_for_arm64_and_needs_no_library(tmp_path: Path) -> None:
    path = compile_model(odd.tiny_v2(), "arm64", tmp_path / "model.so").path
    header = path.read_bytes()[:20]
    assert int.from_bytes(header[18:20], "little") == 183  # EM_AARCH64
    assert b"GLIBC_" not in path.read_bytes()
    assert os.access(path, os.R_OK)


@pytest.mark.parametrize(
    ("target", "cpu"), [("cortex-a53", "cortex-a53"), ("cortex-a55", "cortex-a76")]
)
def test_pointwise_layers_of_odd_sizes(target: str, cpu: str, board: Board, tmp_path: Path) -> None:
    rng, machine = np.random.default_rng(0), PRESETS[target]
    functions, arrays, expected = {}, {}, {}
    for pixels, inputs, outputs in [
        (49, 16, 24),
        (49, 6, 24),  # inputs that are no whole number of steps
        (1, 40, 1001),  # dense, outputs that are no whole vector
        (7, 13, 24),  # an odd number of inputs
        (50, 20, 1001),  # pixels that few tiles divide
        (13, 8, 11),  # a prime number of pixels
    ]:
        name = f"layer{len(functions)}"
        workload = Pointwise(pixels, inputs, outputs, (Step("add_channel"), Step("add")))
        decision = pointwise.SCHEDULE.default(workload, machine)
        func = pointwise.SCHEDULE.build(workload, decision, machine)
        functions[name] = func.with_attr("global_symbol", name)
        shapes = [(pixels, inputs), (inputs, outputs), (outputs,), (pixels, outputs)]
        data, weight, bias, shortcut = (rng.standard_normal(s).astype(np.float32) for s in shapes)
        operands = data, *pointwise.SCHEDULE.pack([weight], decision), bias, shortcut
        arrays |= {f"{name}.{i}": operand for i, operand in enumerate(operands)}
        expected[name] = data.astype(np.float64) @ weight + bias + shortcut
    with tvm.transform.PassContext(opt_level=3, config=PASS_CONFIG):
        built = tvm.compile(tvm.IRModule(functions), target=llvm_target(machine))
    library = tmp_path / "layers.so"
    built.export_library(
        str(library), fcompile=lambda output, objects, **_: link_shared(output, objects)
    )
    np.savez(tmp_path / "arrays.npz", **arrays)
    result = board.run(["-c", RUN_FUNCTIONS, str(board.runtime_library)], cpu=cpu, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = np.load(tmp_path / "outputs.npz")
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5 * np.abs(value).max())
