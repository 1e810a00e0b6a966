"""Pruning: which channels are found, what their removal leaves, and what the command says."""

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

from mobilenet_tvm.compile import PruneOptions, compile_model, prune_model
from mobilenet_tvm.compile.compress.channels import find_channels, remove
from mobilenet_tvm.compile.compress.criteria import by_activation, by_magnitude
from mobilenet_tvm.compile.compress.float_graph import FloatGraph
from mobilenet_tvm.compile.compress.pictures import Preprocessing, find_pictures, spread
from mobilenet_tvm.compile.compress.predict import predict
from mobilenet_tvm.compile.compress.prune import prune
from mobilenet_tvm.compile.compress.reconstruct import reconstruct
from mobilenet_tvm.compile.compress.runners import runner_of, session_of
from mobilenet_tvm.compile.compress.statistics import channel_moments
from mobilenet_tvm.compile.compress.widths import kept_count, vector_of
from mobilenet_tvm.compile.frontend.fold import fold_constants
from mobilenet_tvm.compile.logs.log import TuningLog, shipped_log
from mobilenet_tvm.compile.models.counts import macs, static_shapes
from mobilenet_tvm.compile.models.named import NAMES, ModelSpec, outline
from mobilenet_tvm.compile.models.source import ModelOptions, resolve
from mobilenet_tvm.runtime import load
from mobilenet_tvm.schedules.workloads import Pointwise, parse
from mobilenet_tvm.targets.errors import UserError, WrongUseError
from mobilenet_tvm.targets.presets import get_target

Array = np.ndarray[Any, Any]

EXPORTS = Path(__file__).parents[1] / "data" / "exports"
SHARED = Path(__file__).parents[3] / "shared"
V2 = SHARED / "models" / "mobilenet_v2-b0353104.safetensors"


def gate(net: Net, x: str, channels: int, form: str) -> str:
    """Add squeeze-and-excitation: with convolutions, or dense layers between reshapes."""
    mean = net.node("GlobalAveragePool", x)
    if form == "convolutions":
        scale = net.conv(net.node("Relu", net.conv(mean, channels, 4)), 4, channels)
    else:
        squeezed = net.node("Relu", net.dense(net.node("Flatten", mean), channels, 4))
        scale = net.node("MatMul", squeezed, net.normal(4, channels))
        scale = net.node("Add", scale, net.normal(channels))
        scale = net.node("Reshape", scale, net.weight([-1, channels, 1, 1], np.int64))
    return net.node("Mul", x, net.node("HardSigmoid", scale))


def residuals(
    width: int = 24, *, gates: str = "", norms: bool = True, batch: int = 1
) -> onnx.ModelProto:
    """Return two inverted residuals of 8 channels, which expand to `width`."""
    net = Net((batch, 3, 16, 16))

    def norm(x: str, channels: int) -> str:
        return net.batch_norm(x, channels) if norms else x

    x = net.relu6(norm(net.conv("input", 3, 8, 3, strides=[2, 2]), 8))
    for _ in range(2):
        y = net.relu6(norm(net.conv(x, 8, width), width))
        y = net.relu6(norm(net.conv(y, width, width, 3, group=width), width))
        if gates:
            y = gate(net, y, width, gates)
        x = net.node("Add", x, norm(net.conv(y, width, 8), 8))
    return net.model(net.head(x, 8), shapes=[(batch, 10)])


def separable() -> onnx.ModelProto:
    """Return layers of MobileNetV1, in which one value is read by two layers."""
    net = Net((1, 3, 16, 16))
    x = net.relu6(net.batch_norm(net.conv("input", 3, 16, 3, strides=[2, 2]), 16))
    for inputs, outputs in ((16, 24), (24, 32)):
        x = net.relu6(net.conv(x, inputs, inputs, 3, group=inputs))
        x = net.relu6(net.conv(x, inputs, outputs))
    y = net.node("Add", net.conv(x, 32, 10), net.conv(net.node("Relu", x), 32, 10, 3))
    return net.model(net.node("Flatten", net.node("GlobalAveragePool", y)))


def inputs(model: onnx.ModelProto, count: int = 4) -> list[Array]:
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    rng = np.random.default_rng(1)
    return [rng.normal(size=shape).astype(np.float32) for _ in range(count)]


def outputs(model: onnx.ModelProto, images: list[Array]) -> Array:
    session = session_of(model)
    name = model.graph.input[0].name
    return np.concatenate([session.run(None, {name: image})[0] for image in images])


def widths(model: onnx.ModelProto) -> list[int]:
    return [channels.count for channels in find_channels(FloatGraph(model))]


def make_idle(model: onnx.ModelProto, idle: Array) -> onnx.ModelProto:
    """Return a model that reads nothing of some channels of each block, and computes 0 there."""
    graph = FloatGraph(model)
    for channels in find_channels(graph):
        for parameter in channels.parameters:
            name = graph.own(parameter.node, parameter.place)
            array = np.moveaxis(graph.arrays[name].copy(), parameter.axis, 0)
            # The variance of a batch normalisation stays above 0.
            array[idle] = parameter.node.op_type == "BatchNormalization" and parameter.place == 4
            graph.arrays[name] = np.moveaxis(array, 0, parameter.axis)
    return graph.model()


MODELS = {
    "v2": residuals(),
    "folded": residuals(norms=False),
    "odd": residuals(21),
    "gates": residuals(gates="convolutions"),
    "dense gates": residuals(gates="dense"),
    "batch": residuals(gates="dense", batch=2),
    "v1": separable(),
}


@pytest.mark.parametrize("name", MODELS)
def test_inner_channels_are_found_and_residuals_keep_theirs(name: str) -> None:
    model = MODELS[name]
    before = {"odd": [21, 21], "v1": [16, 24, 32]}.get(name, [24, 24])
    assert widths(model) == before
    counts = [count - 8 for count in before]
    small, blocks = prune(model, counts, "magnitude")
    assert [(block.before, block.after) for block in blocks] == list(
        zip(before, counts, strict=True)
    )
    onnx.checker.check_model(small, full_check=True)
    assert widths(small) == counts
    assert macs(small) < macs(model)
    ours, theirs = static_shapes(small), static_shapes(model)
    for node in model.graph.node:
        if node.op_type in ("Add", "Gemm") and theirs[node.output[0]][1] in (8, 10):
            assert ours[node.output[0]] == theirs[node.output[0]]
    assert outputs(small, inputs(model)).shape == outputs(model, inputs(model)).shape


@pytest.mark.parametrize("by", ["activation", "magnitude", "norm"])
@pytest.mark.parametrize("name", MODELS)
def test_idle_channels_go_first_and_change_nothing(name: str, by: str) -> None:
    if by == "norm" and name in ("folded", "v1"):
        with pytest.raises(UserError, match="have no batch normalisation"):
            prune(MODELS[name], [8] * 3, by)
        return
    model = make_idle(MODELS[name], np.array([0, 3, 5, 6, 10, 11, 12, 15]))
    images = inputs(model)
    counts = [count - 8 for count in widths(model)]
    small, _ = prune(model, counts, by, images if by == "activation" else ())
    assert widths(small) == counts
    expected = outputs(model, images)
    np.testing.assert_allclose(outputs(small, images), expected, atol=1e-4 * np.ptp(expected))


def test_a_random_choice_follows_its_seed() -> None:
    first, again, other = (prune(MODELS["v2"], [8, 8], "random", seed=s)[0] for s in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_named_networks_lose_channels_inside_blocks_only(name: str) -> None:
    model = outline(ModelSpec(name, resolution=64))
    graph = FloatGraph(model)
    found = find_channels(graph)
    for channels in found:
        remove(graph, channels, np.arange(0, channels.count, 2))
    small = graph.model()
    depthwise = [n for n in model.graph.node if n.op_type == "Conv" and attribute(n, "group") > 1]
    # The first depthwise layer of V3-Large reads a residual, and some of V4's read a bottleneck.
    missing = {"v3-large": 1, "ssdlite-v3-large": 1, "lraspp-v3-large": 1}.get(name, 0)
    if not name.startswith("v4"):
        assert sum(len(channels.depthwise) for channels in found) == len(depthwise) - missing
    assert 0.3 < macs(small) / macs(model) < 0.75
    expected = session_of(model).run(None, {"input": inputs(model, 1)[0]})
    result = session_of(small).run(None, {"input": inputs(model, 1)[0]})
    assert [value.shape for value in result] == [value.shape for value in expected]


def attribute(node: onnx.NodeProto, name: str) -> int:
    return next((a.i for a in node.attribute if a.name == name), 1)


FLOAT_EXPORTS = [
    path.stem
    for path in sorted(EXPORTS.glob("*.onnx"))
    if not path.stem.startswith(("float16", "q", "tflite"))
]


@pytest.mark.parametrize("name", FLOAT_EXPORTS)
def test_channels_of_exports_are_found_whatever_wrote_them(name: str) -> None:
    model = fold_constants(resolve(EXPORTS / f"{name}.onnx", ModelOptions()).model)
    graph = FloatGraph(model)
    found = find_channels(graph)
    assert len(found) >= 6
    for channels in found:
        remove(graph, channels, np.arange(1, channels.count, 2))
    small = graph.model()
    assert macs(small) < 0.65 * macs(model)
    assert outputs(small, inputs(model, 1)).shape == outputs(model, inputs(model, 1)).shape


def test_channels_that_others_need_stay() -> None:
    net = Net((1, 3, 8, 8))
    x = net.conv("input", 3, 8)
    y = net.node("Relu", net.conv(net.node("Relu", x), 8, 8))
    joined = net.node("Add", x, y)
    both = net.node("Concat", joined, net.node("Relu", net.conv("input", 3, 8)), axis=1)
    z = net.node("Relu", net.conv(both, 16, 8))
    softmax = net.node("Softmax", z, axis=1)
    linear = net.conv(net.conv(net.node("Mul", softmax, z), 8, 8), 8, 8)
    model = net.model(net.head(net.node("Relu", linear), 8))
    assert widths(model) == []


def test_doubled_channels_are_made_up_for() -> None:
    model = residuals(norms=False)
    graph = FloatGraph(model)
    for channels in find_channels(graph):
        for parameter in channels.parameters:
            if parameter.node not in channels.readers:
                array = np.moveaxis(
                    graph.arrays[parameter.node.input[parameter.place]].copy(), parameter.axis, 0
                )
                array[12:] = array[:12]
                graph.arrays[parameter.node.input[parameter.place]] = np.moveaxis(
                    array, 0, parameter.axis
                )
    model = graph.model()
    images = inputs(model, 16)
    expected = outputs(model, images)
    for refit, error in ((True, 1e-3), (False, 1.0)):
        small, _ = prune(model, [12, 12], "activation", images, refit=refit)
        worst = np.abs(outputs(small, images) - expected).max() / np.ptp(expected)
        assert worst < error
        assert refit or worst > 0.02


@pytest.mark.parametrize("name", ["v2", "gates", "dense gates", "v1"])
def test_refitting_brings_outputs_nearer_on_other_inputs(name: str) -> None:
    model = MODELS[name]
    images = inputs(model, 24)
    counts = [count - 8 for count in widths(model)]
    errors = []
    for refit in (True, False):
        small, _ = prune(model, counts, "activation", images[:16], refit=refit)
        errors.append(((outputs(small, images[16:]) - outputs(model, images[16:])) ** 2).sum())
    assert errors[0] < 0.7 * errors[1]


def test_activations_tell_more_than_weights() -> None:
    """A channel that hardly varies has large weights, which a bias replaces."""
    net = Net((1, 8, 16, 16))
    weight = net.rng.normal(size=(8, 8, 1, 1))
    weight[:4] *= 1e-3
    x = net.node("Relu", net.node("Conv", "input", net.weight(weight), net.weight(np.ones(8))))
    read = net.rng.normal(size=(4, 8, 1, 1))
    read[:, :4] *= 4
    y = net.node("Conv", x, net.weight(read))
    model = net.model(net.head(y, 4))
    graph = FloatGraph(model)
    (channels,) = find_channels(graph)
    images = inputs(model)
    moments = channel_moments(model, [channels.readers[0].input[0]], images)
    ranks = by_activation(graph, channels, moments, 4)
    assert sorted(np.argsort(ranks)[:4]) == [0, 1, 2, 3]
    assert sorted(np.argsort(by_magnitude(graph, channels))[:4]) == [4, 5, 6, 7]
    kept = np.arange(4, 8)
    reconstruct(graph, channels, kept, moments)
    remove(graph, channels, kept)
    expected = outputs(model, images)
    np.testing.assert_allclose(
        outputs(graph.model(), images), expected, atol=0.01 * np.ptp(expected)
    )


@pytest.mark.parametrize(
    ("target", "vector"), [("x86", 8), ("x86-avx512", 16), ("arm64", 4), ("mali", 8), ("cuda", 16)]
)
def test_whole_vectors_stay(target: str, vector: int) -> None:
    machine = get_target(target)
    assert vector_of(machine) == vector
    model = residuals(96)
    (channels, _), shapes = find_channels(FloatGraph(model)), static_shapes(model)
    for sparsity in (0.1, 0.25, 0.5, 0.8):
        count = kept_count(channels, sparsity, machine, shapes)
        assert count % vector == 0
        assert abs(count - 96 * (1 - sparsity)) <= vector
    assert kept_count(channels, 0.01, machine, shapes) == 96
    with pytest.raises(UserError, match="leaves none of the 96 channels that") as caught:
        kept_count(channels, 0.99, machine, shapes)
    most = float(str(caught.value).split("give ")[1].split()[0])
    assert kept_count(channels, most, machine, shapes) == vector
    channels.count = vector
    assert kept_count(channels, 0.5, machine, shapes) == vector


def test_channels_that_cost_no_time_stay() -> None:
    """On a core with 32 vectors of 4, 27 vectors take as long as 28, which two divide."""
    net = Net((1, 24, 56, 56))
    y = net.conv(net.relu6(net.conv("input", 24, 144)), 144, 8)
    model = net.model(net.head(y, 8))
    (channels,) = find_channels(FloatGraph(model))
    assert kept_count(channels, 0.25, get_target("arm64"), static_shapes(model)) == 112


def test_times_come_from_the_log_or_from_the_nearest_layer() -> None:
    target = get_target("x86")
    records = TuningLog.read(shipped_log(target), target).records
    record = next(r for r in records if r.workload.startswith("pointwise 784x"))
    layer = parse(record.workload)
    assert isinstance(layer, Pointwise)
    smaller = Pointwise(layer.pixels - 3, layer.inputs, layer.outputs, layer.epilogue)
    found = predict([layer], [smaller], target)
    assert found is not None
    assert (found.known, found.layers) == (0, 1)
    assert found.before > 0
    assert found.after == pytest.approx(found.before * smaller.flops / layer.flops)
    assert predict([smaller], [smaller], target) is None
    same = predict([smaller], [layer, layer], target)
    assert same is not None
    assert same.known == 2
    assert same.after == pytest.approx(2 * found.before)


@pytest.mark.full
def test_pruned_networks_compile_and_keep_names(tmp_path: Path) -> None:
    result = prune_model(
        "v3-small",
        tmp_path / "small.onnx",
        PruneOptions(0.4, "random", 3),
        target="x86",
        alpha=0.35,
        resolution=64,
        classes=10,
    )
    assert result.removed / result.channels == pytest.approx(0.4, abs=0.05)
    small = onnx.load(tmp_path / "small.onnx")
    assert result.macs == macs(small) < result.full_macs
    names = {tensor.name for tensor in small.graph.initializer if "." in tensor.name}
    assert names == set(ModelSpec("v3-small", 0.35, 64, 10).architecture.parameter_shapes)
    model = load(compile_model(small, "x86", tmp_path / "small.so").path)
    (image,) = inputs(small, 1)
    expected = outputs(small, [image])
    np.testing.assert_allclose(model(image), expected, atol=1e-4 * np.ptp(expected))


@pytest.fixture
def network(tmp_path: Path) -> Path:
    onnx.save(residuals(48), tmp_path / "full.onnx")
    return tmp_path / "full.onnx"


def test_the_command_says_what_it_saves_and_costs(
    network: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images, output = write_pictures(tmp_path / "images", count=4), tmp_path / "new" / "small.onnx"
    command = ["prune", "--model", network, "--target", "x86", "--sparsity", 0.5, "-o", output]
    status, text, _ = run(capfd, *command)
    assert status == 0
    assert "50.0% of 96 channels in 2 blocks, 8 at a time for x86, by magnitude" in text
    assert "no tuning log for x86 has one of its layers" in text
    options = ["--images", images, "--calibration", 6, "--json"]
    status, text, _ = run(capfd, *command, *options)
    assert status == 0
    result = json.loads(text)
    assert result["file"] == str(output)
    assert (result["by"], result["calibrated_on"], result["removed"]) == ("activation", 6, 48)
    assert result["blocks"][0]["after"] == 24
    assert result["held_out"]["pictures"] == 6
    assert result["held_out"]["agreement"] >= 0.5
    assert widths(onnx.load(output)) == [24, 24]
    assert list(output.parent.iterdir()) == [output]


def test_what_cannot_be_pruned_is_refused_in_a_line(
    network: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    onnx.save(colour_network(), tmp_path / "none.onnx")
    onnx.save(residuals(batch=2), tmp_path / "two.onnx")
    pair = residuals()
    pair.graph.input.append(onnx.helper.make_tensor_value_info("other", 1, [1, 10]))
    pair.graph.node.add(op_type="Add", input=[pair.graph.output[0].name, "other"], output=["sum"])
    pair.graph.output[0].name = "sum"
    onnx.save(pair, tmp_path / "pair.onnx")
    images = write_pictures(tmp_path / "images")
    broken = write_pictures(tmp_path / "broken")
    (broken / "0_red" / "0.png").write_bytes(b"text")
    (tmp_path / "empty").mkdir()
    output = tmp_path / "small.onnx"

    def refused(*options: object, model: Path = network, to: Path = output) -> tuple[int, str]:
        command = ["prune", "--target", "x86", "--model", model, "-o", to]
        sparsity = [] if "--sparsity" in options else ["--sparsity", 0.5]
        status, text, error = run(capfd, *command, *sparsity, *options)
        assert text == ""
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert not output.exists()
        return status, error

    for options, clue, expected in (
        (["--sparsity", 1], "is not between 0 and 1", 2),
        (["--sparsity", -0.1], "is not between 0 and 1", 2),
        (["--sparsity", "nan"], "is not between 0 and 1", 2),
        (["--sparsity", 0.95], "leaves none of the 48 channels", 1),
        (["--sparsity", 0.01], "removes nothing", 1),
        (["--by", "activation"], "give --images", 2),
        (["--images", tmp_path / "empty"], "no pictures", 1),
        (["--images", tmp_path / "missing"], "no such folder", 1),
        (["--images", broken], "not a picture, or damaged", 1),
        (["--target", "z80"], "unknown target", 2),
    ):
        status, error = refused(*options)
        assert clue in error
        assert status == expected
    assert "no channels that can be removed" in refused(model=tmp_path / "none.onnx")[1]
    assert "quantised already" in refused(model=EXPORTS / "qdq_v2_opset13.onnx")[1]
    assert "float16 values" in refused(model=EXPORTS / "float16_v2_opset13.onnx")[1]
    assert "not one picture" in refused("--images", images, model=tmp_path / "two.onnx")[1]
    assert "several inputs" in refused("--images", images, model=tmp_path / "pair.onnx")[1]
    assert "ends in .onnx" in refused(to=tmp_path / "small.so")[1]
    (tmp_path / "folder.onnx").mkdir()
    assert "is a folder" in refused(to=tmp_path / "folder.onnx")[1]
    assert "cannot be written" in refused(to=network / "small.onnx")[1]


def test_options_are_checked() -> None:
    for options in ({"by": "size"}, {"calibration": 0}, {"held_out": -1}, {"seed": -1}):
        with pytest.raises(WrongUseError):
            PruneOptions(0.5, **options)


def test_constants_that_blocks_share_are_pruned_apart() -> None:
    net = Net((1, 3, 8, 8))
    weight, bias = net.normal(16, 16, 1, 1), net.normal(16)
    x = net.node("Relu", net.conv("input", 3, 16))
    for _ in range(2):
        x = net.node("Relu", net.node("Conv", x, weight, bias))
    model = net.model(net.head(net.conv(x, 16, 8), 8))
    assert widths(model) == [16, 16, 16]
    small, _ = prune(model, [8, 16, 4], "magnitude")
    assert widths(small) == [8, 16, 4]
    shapes = {t.name: numpy_helper.to_array(t).shape for t in small.graph.initializer}
    layers = [node for node in small.graph.node if node.op_type == "Conv"]
    assert [shapes[node.input[1]][:2] for node in layers] == [(8, 3), (16, 8), (4, 16), (8, 4)]
    assert outputs(small, inputs(model)).shape == (4, 10)


def test_pools_between_layers_do_not_end_the_search() -> None:
    net = Net((1, 3, 16, 16))
    x = net.node("AveragePool", net.conv("input", 3, 16), kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("Relu", net.conv(net.node("Relu", x), 16, 24))
    model = net.model(net.head(net.conv(x, 24, 8), 8))
    assert widths(model) == [16, 24]


def test_means_that_do_not_line_up_with_channels_keep_them() -> None:
    """A mean [N, C] meets the last axis of an image as wide as it has channels."""
    net = Net((1, 3, 16, 16))
    x = net.node("Relu", net.conv("input", 3, 16))
    mean = net.node("Flatten", net.node("GlobalAveragePool", x))
    model = net.model(net.head(net.conv(net.node("Mul", x, mean), 16, 8), 8))
    assert widths(model) == []


@pytest.mark.full
@pytest.mark.skipif(not V2.exists(), reason="no ../shared/models here")
def test_a_trained_network_still_names_most_pictures_by_activations() -> None:
    model = fold_constants(resolve("v2", ModelOptions(weights=str(V2))).model)
    runner = runner_of(model)
    pictures = spread(find_pictures(SHARED / "imagenet-sample"), 96)[0]
    images = [runner.read(picture.path, Preprocessing()) for picture in pictures]
    counts = [-(-3 * count // 32) * 8 for count in widths(model)]
    expected = outputs(model, images[1::2]).argmax(1)
    shares = {}
    for by in ("activation", "random"):
        small, _ = prune(model, counts, by, images[::2])
        shares[by] = (outputs(small, images[1::2]).argmax(1) == expected).mean()
    # On 936 pictures, 71 % and 36 %.
    assert shares["activation"] > 0.55
    assert shares["activation"] > shares["random"] + 0.1
