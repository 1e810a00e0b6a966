"""What has no schedule of its own on a GPU: right in every shape, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tvm
import tvm_ffi
from cuda_on_cpu import cuda_on_cpu, graphs_on_cpu
from networks import TOLERANCE, session
from odd_models import Net, feeds
from onnx import TensorProto
from tvm import relax, te, tirx, topi

from mobilenet_tvm.compile import compile_model
from mobilenet_tvm.compile.codegen.pass_context import pass_config
from mobilenet_tvm.compile.codegen.tvm_target import tvm_target
from mobilenet_tvm.compile.models.source import ModelOptions, resolve
from mobilenet_tvm.compile.pipeline import lower
from mobilenet_tvm.runtime import load
from mobilenet_tvm.runtime.device import Device
from mobilenet_tvm.schedules.fallback import gpu
from mobilenet_tvm.targets.presets import get_target

Array = np.ndarray[Any, Any]

#: Height and width of pictures: prime numbers, so that no work-group is full.
SIZE = (19, 13)


def convolution(height: int, width: int, inputs: int, outputs: int) -> tirx.PrimFunc:
    """Return a 3x3 convolution in NHWC with a ReLU."""
    data = te.placeholder((1, height, width, inputs), name="data")
    weight = te.placeholder((3, 3, inputs, outputs), name="weight")
    sums = topi.nn.conv2d(data, weight, 1, 1, 1, data_layout="NHWC", kernel_layout="HWIO")
    return te.create_prim_func([data, weight, topi.nn.relu(sums)])


def loops(func: tirx.PrimFunc, kind: int) -> int:
    """Return how many loops of a kind a function has."""
    found = []
    tvm_ffi.structural_walk(func.body, (tirx.For, lambda loop: found.append(int(loop.kind))))
    return found.count(kind)


@pytest.mark.parametrize("channels", [1, 9, 12, 16, 64])
def test_a_convolution_is_one_kernel_of_vectors_in_every_shape(channels: int) -> None:
    for side in (1, 5, 6, 7, 9, 11, 13, 17, 19, 26, 33, 38):
        func = gpu.apply(convolution(side, side + 1, 3, channels), get_target("mali")).mod["main"]
        assert loops(func, tirx.ForKind.THREAD_BINDING) == 2
        # Of the first value, of the sums, and of what is stored.
        assert loops(func, tirx.ForKind.VECTORIZED) == 3


def convolutions(net: Net) -> list[str]:
    """Dense, grouped, dilated and transposed convolutions."""
    conv, wide = net.conv, net.conv("input", 3, 16, 3)
    return [
        *(conv("input", 3, channels, 3, strides=[2, 1]) for channels in (9, 12, 64)),
        conv(wide, 16, 16, 3, strides=[1, 2], pads=[1, 0, 0, 1]),
        conv(wide, 16, 8, 5, dilations=[2, 3], pads=[4, 6, 4, 6]),
        conv(wide, 16, 16, 3, group=16, dilations=[4, 4], pads=[4] * 4),
        conv(wide, 16, 24, 3, group=4),
        conv(wide, 16, 32, 3, group=16),
        conv(wide, 16, 6, 1, group=2),
        net.node("ConvTranspose", wide, net.normal(16, 5, 3, 3, scale=0.1), strides=[2, 2]),
    ]


def windows(net: Net) -> list[str]:
    """Pooling, also with normalisation after it, and reductions of whole axes."""
    wide, window = net.conv("input", 3, 16, 3), {"kernel_shape": [3, 3]}
    # Of some rows, all values are infinite.
    greater, infinity = net.node("Greater", wide, net.weight(1.5)), net.weight(np.inf)
    masked = net.node("Where", greater, wide, infinity)
    least = net.node("ReduceMin", masked, net.weight([3], np.int64))
    return [
        net.node("MaxPool", "input", **window, strides=[2, 2], pads=[1, 1, 1, 1]),
        net.node("AveragePool", wide, kernel_shape=[2, 5], strides=[1, 2]),
        net.batch_norm(net.node("MaxPool", wide, **window), 16),
        net.node("ReduceMax", wide, net.weight([1], np.int64), keepdims=0),
        net.node("ReduceMax", wide, keepdims=0),
        net.node("Cast", net.node("IsInf", least), to=TensorProto.FLOAT),
    ]


def normalisations(net: Net) -> list[str]:
    """Functions of several kernels, which hand on what they compute in memory of their own."""
    wide, factors, offsets = net.conv("input", 3, 16, 3), net.normal(16), net.normal(16)
    return [
        net.node("GroupNormalization", wide, factors, offsets, num_groups=4),
        net.node("InstanceNormalization", wide, factors, offsets),
        net.node("Softmax", wide, axis=1),
        net.node("Softmax", wide, axis=3),
    ]


def conditions(net: Net) -> list[str]:
    """Values that are chosen, each by itself or a vector of them by one condition."""
    wide, half = net.conv("input", 3, 8, 3), net.weight(0.5)
    greater = net.node("Greater", wide, half)
    mask = net.weight(net.rng.integers(0, 2, (8, *SIZE)), bool)
    row = net.weight(net.rng.integers(0, 2, (SIZE[0], 1)), bool)
    return [
        net.node("Where", greater, wide, net.weight(-1)),
        net.node("Where", mask, wide, half),
        net.node("Where", row, wide, half),
        net.node("Where", net.node("Or", net.node("Not", greater), mask), wide, half),
        net.node("PRelu", wide, net.normal(8, *SIZE)),
        net.node("PRelu", net.conv(wide, 8, 12, 5), net.normal(12, 1, 1)),
        net.node("ThresholdedRelu", wide, alpha=0.7),
        net.node("Shrink", wide, lambd=0.4, bias=0.1),
        net.node("Trilu", wide, upper=0),
    ]


def indices(net: Net) -> list[str]:
    """Places of maxima and minima, which TVM finds together with these."""
    wide = net.node("Round", net.conv("input", 3, 8, 3))  # some are equal
    return [
        net.node("ArgMax", wide, axis=1),
        net.node("ArgMax", wide, axis=3, keepdims=0),
        net.node("ArgMin", wide, axis=2),
    ]


def truth_values(net: Net) -> list[str]:
    """Truth values, which are bytes in memory."""
    wide = net.conv("input", 3, 8, 3)
    less = net.node("Less", wide, net.weight(0))
    return [less, net.node("Xor", less, net.node("Greater", wide, net.weight(0.5)))]


def resized(net: Net) -> list[str]:
    """Pictures in sizes between which a last digit decides which pixel is the nearest."""
    small = net.node("MaxPool", net.conv("input", 3, 8, 3), kernel_shape=[3, 1], strides=[3, 2])
    sizes = net.weight([1, 8, 11, 9], np.int64)
    return [net.node("Resize", small, "", "", sizes, mode=mode) for mode in ("nearest", "linear")]


def scattered(net: Net) -> list[str]:
    """Operators that come with their own loops over threads."""
    wide = net.conv("input", 3, 8, 3)
    place = net.weight([[0, 5], [0, 2]], np.int64)
    rows = net.weight(net.rng.permutation(SIZE[0])[None, None, :4, None], np.int64)
    return [
        net.node("ScatterND", wide, place, net.normal(2, *SIZE)),
        net.node("ScatterElements", wide, rows, net.normal(1, 1, 4, 1), axis=2),
    ]


def running(net: Net) -> list[str]:
    """Operators that are defined by a loop over rows, in which the order is kept."""
    wide = net.node("Relu", net.conv("input", 3, 8, 3))
    axes = [net.weight(axis, np.int64) for axis in (1, 2, -1)]
    return [
        net.node("CumSum", wide, axes[0]),
        net.node("CumSum", wide, axes[1], reverse=1),
        net.node("Sigmoid", net.node("CumSum", wide, axes[2], exclusive=1)),
    ]


def ranked(net: Net) -> list[str]:
    """Places of the largest and smallest values, some of which are equal."""
    wide = net.node("Round", net.conv("input", 3, 8, 3))
    k = net.weight([7], np.int64)
    best = [
        net.node("TopK", wide, k, outputs=2, axis=3),
        net.node("TopK", wide, k, outputs=2, axis=1, largest=0),
        net.node("TopK", net.node("Flatten", wide), k, outputs=2),
    ]
    return [f"{values}_1" for values in best]


KINDS: dict[Callable[[Net], list[str]], int] = {
    convolutions: TensorProto.FLOAT,
    windows: TensorProto.FLOAT,
    normalisations: TensorProto.FLOAT,
    conditions: TensorProto.FLOAT,
    indices: TensorProto.INT64,
    ranked: TensorProto.INT64,
    running: TensorProto.FLOAT,
    truth_values: TensorProto.BOOL,
    resized: TensorProto.FLOAT,
    scattered: TensorProto.FLOAT,
}

#: Those of one kernel each: here is no memory of CUDA's for what functions of several hand on.
ONE_KERNEL = [kind for kind in KINDS if kind not in (normalisations, scattered)]


def network(layers: Callable[[Net], list[str]], folder: Path) -> Path:
    """Write a model whose outputs are those of some layers."""
    net = Net((1, 3, *SIZE))
    outputs = layers(net)
    model = net.model(*outputs, shapes=[None] * len(outputs), dtype=KINDS[layers], opset=21)
    model.ir_version = 10
    onnx.save(onnx.shape_inference.infer_shapes(model, data_prop=True), folder / "model.onnx")
    return folder / "model.onnx"


def check(model: Path, run: Callable[..., list[Array]]) -> None:
    """Compare outputs with ONNX Runtime's, on two inputs."""
    loaded = onnx.load(model)
    for seed in range(2):
        inputs = feeds(loaded, seed)
        expected = session(loaded, optimised=False).run(None, inputs)
        results = run(*inputs.values())
        assert len(results) == len(expected)
        for output, result, reference in zip(loaded.graph.output, results, expected, strict=True):
            assert result.dtype == reference.dtype
            if reference.dtype == np.float32:
                span = float(max(np.ptp(reference), np.abs(reference).max()))
                np.testing.assert_allclose(
                    result, reference, rtol=0, atol=TOLERANCE * span, err_msg=output.name
                )
            else:
                np.testing.assert_array_equal(result, reference, output.name)


@pytest.mark.parametrize("layers", KINDS)
@pytest.mark.usefixtures("pocl")
def test_opencl_equals_onnx_runtime(layers: Callable[[Net], list[str]], tmp_path: Path) -> None:
    path = network(layers, tmp_path)
    model = load(compile_model(path, "mali:x86", tmp_path / "m.so", tuning_log="none").path)
    check(path, lambda *inputs: list(model(*inputs).values()))


@pytest.mark.full
@pytest.mark.parametrize("layers", ONE_KERNEL)
@pytest.mark.usefixtures("gcc")
def test_cuda_equals_onnx_runtime(layers: Callable[[Net], list[str]], tmp_path: Path) -> None:
    path, target = network(layers, tmp_path), get_target("cuda:sm_90")
    mod = lower(resolve(str(path), ModelOptions()).model, target).mod
    with tvm.transform.PassContext(opt_level=3, config=pass_config(target)), cuda_on_cpu():
        executable = relax.build(mod, tvm_target(target), relax_pipeline=None)
    with graphs_on_cpu():
        machine = executable.jit()["vm_load_executable"]()
        machine["vm_initialization"](*Device().places)
        main = machine["main"]
        check(path, lambda *inputs: [*map(np.from_dlpack, main(*map(tvm_ffi.from_dlpack, inputs)))])


@pytest.mark.usefixtures("pocl")
def test_bytes_are_resized_and_names_of_inputs_may_be_no_identifiers(tmp_path: Path) -> None:
    net = Net((1, 3, *SIZE), TensorProto.UINT8)
    sizes = net.weight([1, 3, 16, 16], np.int64)
    image = net.node("Cast", "input", to=TensorProto.FLOAT)
    resized = net.node("Resize", image, "", "", sizes, mode="linear")
    model = net.model(resized, shapes=[(1, 3, 16, 16)])
    model.graph.input[0].name = model.graph.node[0].input[0] = "images/0: RGB+(\N{DEGREE SIGN})"
    onnx.save(model, tmp_path / "model.onnx")
    path = compile_model(tmp_path / "model.onnx", "mali:x86", tmp_path / "m.so").path
    check(tmp_path / "model.onnx", lambda *inputs: [load(path)(*inputs)])
