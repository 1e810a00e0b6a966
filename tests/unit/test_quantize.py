"""Quantisation of float networks: each rewrite by itself, and the network that comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from colours import colour_network, write_pictures
from command_line import run
from odd_models import Net
from onnx import numpy_helper

from mobilenet_tvm.compile import QuantizeOptions, compile_model, quantize_model
from mobilenet_tvm.compile.compress.calibrate import Calibration
from mobilenet_tvm.compile.compress.correct_bias import correct_bias
from mobilenet_tvm.compile.compress.equalize import equalize
from mobilenet_tvm.compile.compress.fold_norm import fold_norm
from mobilenet_tvm.compile.compress.qdq import to_qdq, weights_of
from mobilenet_tvm.compile.compress.runners import session_of
from mobilenet_tvm.compile.compress.search_ranges import search_ranges
from mobilenet_tvm.compile.compress.statistics import channel_means, peaks
from mobilenet_tvm.runtime import load
from mobilenet_tvm.targets.errors import UserError

Array = np.ndarray[Any, Any]


def small_network(form: str = "clip", scale: float = 1.0) -> onnx.ModelProto:
    """Return two inverted residuals with very different channels, as MobileNetV2 has them."""
    net = Net((1, 3, 16, 16))
    x = net.relu6(net.batch_norm(net.conv("input", 3, 8, 3, strides=[2, 2]), 8), form)
    for _ in range(2):
        y = net.relu6(net.batch_norm(net.conv(x, 8, 24), 24), form)
        uneven = net.rng.uniform(0.02, 2, (24, 1, 1, 1)) * net.rng.normal(size=(24, 1, 3, 3))
        y = net.node("Conv", y, net.weight(scale * uneven), group=24, pads=[1] * 4)
        y = net.relu6(net.batch_norm(y, 24), form)
        x = net.node("Add", x, net.batch_norm(net.conv(y, 24, 8), 8))
    return net.model(net.head(x, 8))


def inputs(count: int, scale: float = 1.0) -> list[Array]:
    rng = np.random.default_rng(1)
    return [rng.normal(0, scale, (1, 3, 16, 16)).astype(np.float32) for _ in range(count)]


def outputs(model: onnx.ModelProto, images: list[Array]) -> Array:
    session = session_of(model)
    return np.concatenate([session.run(None, {"input": image})[0] for image in images])


def error(model: onnx.ModelProto, network: onnx.ModelProto, images: list[Array]) -> float:
    return float(((outputs(model, images) - outputs(network, images)) ** 2).sum())


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    for node in model.graph.node:
        node.name = node.output[0]
    return model


def test_batch_norms_become_part_of_their_convolutions() -> None:
    model = small_network()
    folded = fold_norm(model)
    assert all(node.op_type != "BatchNormalization" for node in folded.graph.node)
    np.testing.assert_allclose(
        outputs(folded, inputs(3)), outputs(model, inputs(3)), rtol=1e-4, atol=1e-5
    )


def test_a_batch_norm_of_a_value_with_two_readers_stays() -> None:
    net = Net((1, 3, 8, 8))
    x = net.conv("input", 3, 4)
    both = net.node("Add", x, net.batch_norm(x, 4))
    model = net.model(net.head(both, 4))
    assert [node.op_type for node in fold_norm(model).graph.node].count("BatchNormalization") == 1


def test_layers_that_share_weights_are_folded_apart() -> None:
    net = Net((1, 3, 8, 8))
    weight = net.normal(3, 3, 1, 1)
    x = net.batch_norm(net.node("Conv", "input", weight), 3)
    x = net.batch_norm(net.node("Conv", x, weight), 3)
    model = net.model(net.head(x, 3))
    folded = fold_norm(model)
    images = [np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)]
    np.testing.assert_allclose(outputs(folded, images), outputs(model, images), rtol=1e-4)


@pytest.mark.parametrize("form", ["relu", "clip"])
def test_equalisation_keeps_the_function_and_evens_ranges(form: str) -> None:
    """Inputs are so small that no value reaches 6, where ReLU6 and ReLU differ."""
    net = Net((1, 3, 16, 16))
    x = net.conv("input", 3, 8, bias=False)
    x = net.node("Relu", x) if form == "relu" else net.relu6(x)
    weight = net.rng.uniform(0.01, 2, (8, 1, 1, 1)) * net.rng.normal(size=(8, 1, 3, 3))
    x = net.node("Conv", x, net.weight(weight), group=8, pads=[1] * 4)
    model = net.model(net.head(net.conv(net.node("Relu", x), 8, 4), 4))
    images = inputs(3, scale=0.1)
    clips = [node.output[0] for node in model.graph.node if node.op_type == "Clip"]
    equal = equalize(model, peaks(model, clips, images))
    np.testing.assert_allclose(outputs(equal, images), outputs(model, images), rtol=1e-4, atol=1e-6)
    assert all(node.op_type != "Clip" for node in equal.graph.node)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in equal.graph.initializer}
    first, depthwise, last = (
        np.abs(arrays[node.input[1]]) for node in equal.graph.node if node.op_type == "Conv"
    )
    spans = first.max((1, 2, 3)), depthwise.max((1, 2, 3)), last.max((0, 2, 3))
    np.testing.assert_allclose(spans[0], spans[1], rtol=0.02)
    np.testing.assert_allclose(spans[1], spans[2], rtol=0.02)


def test_equalisation_leaves_values_with_several_readers_and_clips_that_cut() -> None:
    net = Net((1, 3, 8, 8))
    x = net.conv("input", 3, 4)
    y = net.conv(x, 4, 4)
    both = net.node("Add", x, y)
    images = [image[..., :8, :8] for image in inputs(2)]
    low = net.node("Clip", net.conv(both, 4, 4), net.weight(0), net.weight(1))
    model = net.model(net.head(net.conv(low, 4, 4), 4))
    equal = equalize(model, {low: 0.95})
    assert list(equal.graph.node) == list(model.graph.node)
    np.testing.assert_array_equal(outputs(equal, images), outputs(model, images))


def test_corrected_biases_restore_the_mean() -> None:
    net = Net((1, 3, 16, 16))
    # One weight per row is so large that the others are rounded away.
    weight = net.rng.uniform(0.1, 0.39, (8, 3, 1, 1))
    weight[:, 0] = 100
    x = net.node(
        "Relu",
        net.node("Conv", "input", net.weight(weight)),
    )
    model = named(net.model(net.head(x, 8)))
    images = [np.abs(image) for image in inputs(4)]
    ranges = Calibration(model, images).percentile(100)
    conv = model.graph.node[0]
    means = channel_means(model, ["input", model.graph.node[-1].input[0]], images)
    corrected = correct_bias(model, weights_of(to_qdq(model, ranges)), means)

    def mean_output(network: onnx.ModelProto) -> Array:
        return channel_means(network, [conv.output[0]], images)[conv.output[0]]

    rounded = onnx.ModelProto()
    rounded.CopyFrom(corrected)
    rounded.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(
            weights_of(to_qdq(model, ranges))[conv.name].astype(np.float32),
            rounded.graph.initializer[0].name,
        )
    )
    np.testing.assert_allclose(mean_output(rounded), mean_output(model), rtol=1e-5)


def test_the_search_is_no_worse_than_where_it_starts() -> None:
    model = named(fold_norm(small_network()))
    images = inputs(8)
    calibration = Calibration(model, images)
    references = [[value[None]] for value in outputs(model, images)]
    candidates = [calibration.percentile(percent) for percent in (97.0, 99.9, 100.0)]
    found = search_ranges(model, candidates, images, references)
    errors = [error(to_qdq(model, ranges), model, images) for ranges in (*candidates, found)]
    # Biases are quantised only after the search.
    assert errors[-1] < 1.02 * min(errors[:-1])
    assert all(ends in [ranges[name] for ranges in candidates] for name, ends in found.items())


def test_least_squares_cut_off_rare_values() -> None:
    net = Net((1, 3, 256, 256))
    model = named(net.model(net.head(net.conv("input", 3, 4), 4)))
    rng = np.random.default_rng(0)
    images = [rng.normal(size=(1, 3, 256, 256)).astype(np.float32) for _ in range(3)]
    images[1][0, 0, 0, 0] = 8
    calibration = Calibration(model, images)
    low, high = calibration.mse()["input"]
    assert calibration.percentile(100)["input"][1] == 8
    assert -5 < low < -3
    assert 3 < high < 6


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "images", count=6)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    onnx.save(small_network(), tmp_path / "small.onnx")
    return tmp_path / "small.onnx"


@pytest.mark.parametrize("method", ["search", "mse", "percentile", "entropy", "minmax"])
def test_quantised_networks_compile_and_give_onnxruntimes_scores(
    method: str, images: Path, network: Path, tmp_path: Path
) -> None:
    path = tmp_path / "int8.onnx"
    result = quantize_model(network, images, path, QuantizeOptions(6, method=method))
    assert result.path == path
    assert result.size_bytes == path.stat().st_size
    assert result.calibrated_on == 6
    assert result.held_out is not None
    assert result.held_out.pictures == 12
    assert result.held_out.agreement >= 0.75
    assert min(result.layers.values()) > 5
    quantized = onnx.load(path)
    # The scores are as they are computed, not among 256.
    makers = {node.output[0]: node.op_type for node in quantized.graph.node}
    assert makers[quantized.graph.output[0].name] == "Gemm"
    assert all(node.op_type not in ("Clip", "BatchNormalization") for node in quantized.graph.node)
    if method == "search":
        model = load(compile_model(path, "x86", tmp_path / "int8.so").path)
        for image in inputs(5):
            np.testing.assert_array_equal(model(image), outputs(quantized, [image]))


def test_equalised_networks_with_float_layers(images: Path, network: Path, tmp_path: Path) -> None:
    options = QuantizeOptions(6, 0, "minmax", equalize=True, keep_float=2)
    result = quantize_model(network, images, tmp_path / "int8.onnx", options)
    assert result.held_out is None
    assert len(result.kept_float) == 2
    graph = onnx.load(tmp_path / "int8.onnx").graph
    floats = {tensor.name for tensor in graph.initializer}
    layers = {node.name for node in graph.node if node.op_type in ("Conv", "Gemm")}
    kept = {node.name for node in graph.node if len(node.input) > 1 and node.input[1] in floats}
    assert set(result.kept_float) == kept & layers


def test_labels_give_the_accuracy_of_both(images: Path, tmp_path: Path) -> None:
    result = quantize_model(colour_network(), images, tmp_path / "int8.onnx", QuantizeOptions(3))
    assert result.held_out is not None
    assert (result.held_out.top1, result.held_out.against_top1) == (1.0, 1.0)


def test_the_command_says_what_it_cost(
    images: Path, network: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["quantize", "--model", network, "--images", images, "-o", tmp_path / "q.onnx"]
    options = ["--method", "minmax", "--calibration", 6]
    status, output, _ = run(capfd, *command, *options)
    assert status == 0
    assert "held out 12 pictures: agrees with float on" in output
    status, output, _ = run(capfd, *command, *options, "--json")
    result = json.loads(output)
    assert result["calibrated_on"] == 6
    assert result["held_out"]["pictures"] == 12
    again = ["--images", images, "-o", tmp_path / "again.onnx"]
    status, _, error = run(capfd, "quantize", "--model", tmp_path / "q.onnx", *again)
    assert status == 1
    assert error.startswith("error: the model is quantised already")


@pytest.mark.full
def test_compile_quantises_too(
    images: Path, network: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    artifact = tmp_path / "small.so"
    command = ["compile", "--target", "x86", "--model", network, "-o", artifact]
    status, _, _ = run(capfd, *command, "--quantize", images)
    assert status == 0
    quantized = onnx.load(tmp_path / "small-int8.onnx")
    image = inputs(1)
    np.testing.assert_array_equal(load(artifact)(image[0]), outputs(quantized, image))


def test_networks_that_cannot_be_quantised_are_refused(
    images: Path, network: Path, tmp_path: Path
) -> None:
    output = tmp_path / "int8.onnx"
    half = Net((1, 3, 8, 8), onnx.TensorProto.FLOAT16)
    x = half.node("Conv", "input", half.weight(np.eye(3).reshape(3, 3, 1, 1), np.float16))
    for model, message in (
        (half.model(half.node("Flatten", half.node("GlobalAveragePool", x))), "float16"),
        (colour_network((2, 3, 8, 8)), "not one picture"),
    ):
        with pytest.raises(UserError, match=message):
            quantize_model(model, images, output)
    with pytest.raises(UserError, match="no pictures"):
        quantize_model(network, tmp_path, output)
    with pytest.raises(UserError, match="unknown method"):
        QuantizeOptions(method="best")
    with pytest.raises(UserError, match="cannot be written"):
        quantize_model(network, images, tmp_path, QuantizeOptions(1, 0, "minmax"))
    (images / "0_red" / "0.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"0\.png: not a picture, or damaged"):
        quantize_model(network, images, output)
    assert not output.exists()
