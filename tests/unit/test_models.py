"""Tests of the named models: their structure, their size, their random parameters."""

import functools
import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mobilenet_tvm.compile.models.layers import make_divisible
from mobilenet_tvm.compile.models.named import (
    NAMES,
    PUBLISHED,
    ModelSpec,
    build,
    canonical_name,
    macs,
    outline,
    parameter_count,
    weights_origin,
)
from mobilenet_tvm.targets.errors import UserError

SHARED = Path(__file__).parents[3] / "shared"

Array = NDArray[np.float32]

#: Networks whose only output is `logits`.
CLASSIFIERS = tuple(name for name in NAMES if not name.startswith(("ssdlite", "lraspp")))
#: A network in its full size: beside smaller ones, for the full tier.
LARGE = pytest.param(1.0, 224, marks=pytest.mark.full)


@functools.cache
def content(spec: ModelSpec, seed: int) -> bytes:
    data: bytes = build(spec, seed=seed).SerializeToString()
    return data


def random_model(spec: ModelSpec, seed: int = 0) -> onnx.ModelProto:
    return onnx.load_from_string(content(spec, seed))


def run(model: onnx.ModelProto, image: Array, *outputs: str) -> list[Array]:
    for name in outputs:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    values: list[Array] = session.run(outputs or None, {"input": image})
    return values


def images(spec: ModelSpec, seed: int = 1) -> Array:
    shape = (spec.batch, 3, spec.resolution, spec.resolution)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def outputs_of(model: onnx.ModelProto, operator: str) -> list[str]:
    return [node.output[0] for node in model.graph.node if node.op_type == operator]


def parameters(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("name", NAMES)
def test_size_is_the_published_one(name: str) -> None:
    model = outline(ModelSpec(name))
    assert parameter_count(model) == PUBLISHED[name].parameters
    low, high = PUBLISHED[name].macs
    assert 0.99 * low <= macs(model) / 1e6 <= 1.01 * high


# The side of the output, then d5 64 for a depthwise layer of 5x5 and 64 channels, or the kernel's
# side and the channels before and after: the tables of the V4 paper and timm, written out by hand.
V4_CONV_SMALL = """
112 3 3 32; 56 3 32 32; 56 1 32 32; 28 3 32 96; 28 1 96 64
28 d5 64; 28 1 64 192; 14 d5 192; 14 1 192 96
4x 14 1 96 192; 4x 14 d3 192; 4x 14 1 192 96
14 d3 96; 14 1 96 384; 14 1 384 96
14 d3 96; 14 1 96 576; 7 d3 576; 7 1 576 128
7 d5 128; 7 1 128 512; 7 d5 512; 7 1 512 128
7 1 128 512; 7 d5 512; 7 1 512 128
7 1 128 384; 7 d5 384; 7 1 384 128
2x 7 1 128 512; 2x 7 d3 512; 2x 7 1 512 128
7 1 128 960; 1 1 960 1280; 1 1 1280 1000
"""
V4_CONV_MEDIUM = """
112 3 3 32; 56 3 32 128; 56 1 128 48
56 d3 48; 56 1 48 192; 28 d5 192; 28 1 192 80
28 d3 80; 28 1 80 160; 28 d3 160; 28 1 160 80
28 d3 80; 28 1 80 480; 14 d5 480; 14 1 480 160
3x 14 d3 160; 3x 14 1 160 640; 3x 14 d3 640; 3x 14 1 640 160
14 d3 160; 14 1 160 640; 14 d5 640; 14 1 640 160
2x 14 d3 160; 2x 14 1 160 640; 2x 14 1 640 160
14 1 160 320; 14 1 320 160
14 d5 160; 14 1 160 960; 7 d5 960; 7 1 960 256
2x 7 d5 256; 2x 7 1 256 1024; 2x 7 d5 1024; 2x 7 1 1024 256
2x 7 d3 256; 2x 7 1 256 1024; 2x 7 d5 1024; 2x 7 1 1024 256
3x 7 1 256 1024; 3x 7 1 1024 256
7 d3 256; 7 1 256 1024; 7 1 1024 256
7 d3 256; 7 1 256 512; 7 d5 512; 7 1 512 256
7 d5 256; 7 1 256 512; 7 1 512 256
7 1 256 960; 1 1 960 1280; 1 1 1280 1000
"""


def macs_of(layer: str) -> int:
    words = layer.split()
    times = int(words.pop(0)[:-1]) if words[0].endswith("x") else 1
    side, kernel, channels, outputs = int(words[0]), words[1].strip("d"), words[2], words[-1]
    depth = 1 if words[1].startswith("d") else int(channels)
    return times * side**2 * int(kernel) ** 2 * depth * int(outputs)


@pytest.mark.parametrize(
    ("name", "layers"), [("v4-conv-small", V4_CONV_SMALL), ("v4-conv-medium", V4_CONV_MEDIUM)]
)
def test_macs_are_those_of_the_tables(name: str, layers: str) -> None:
    written = layers.strip().replace("\n", ";").split(";")
    assert macs(outline(ModelSpec(name))) == sum(macs_of(layer) for layer in written)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("efficientnet-b0", 386), ("ssdlite-v3-large", 583), ("lraspp-v3-large", 2086)],
)
def test_macs_are_those_that_torchvision_counts(name: str, millions: int) -> None:
    assert round(macs(outline(ModelSpec(name))) / 1e6) == millions


@pytest.mark.parametrize(
    ("name", "alpha", "count"),
    [
        ("v1", 0.25, 470_072),  # Keras
        ("v2", 0.25, 1_519_112),  # these and the rest: torchvision 0.14
        ("v2", 0.75, 2_636_424),
        ("v2", 1.4, 6_108_776),
        ("v3-large", 0.25, 617_000),
        ("v3-large", 0.35, 997_064),
        ("v3-large", 1.4, 9_989_328),
        ("v3-small", 0.35, 558_744),
        ("v3-small", 0.75, 1_653_920),
        ("v4-conv-small", 0.5, 2_238_952),  # these: 2.24 M and 1.91 M in timm's results/
        ("v4-conv-small", 0.35, 1_905_384),
    ],
)
def test_width_multiplier_gives_the_reference_implementations_sizes(
    name: str, alpha: float, count: int
) -> None:
    assert parameter_count(outline(ModelSpec(name, alpha, 32))) == count


@pytest.mark.parametrize(
    ("asked", "channels"), [(1, 8), (8.7, 8), (9, 16), (11.9, 16), (12, 16), (19, 24), (44.8, 48)]
)
def test_rounded_channels_are_never_below_90_percent(asked: float, channels: int) -> None:
    assert make_divisible(asked) == channels


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_graph_has_the_promised_interface(name: str) -> None:
    model = random_model(ModelSpec(name, alpha=0.5, resolution=64, classes=7, batch=3))
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    (image,), (logits,) = model.graph.input, model.graph.output
    assert (image.name, logits.name) == ("input", "logits")
    assert [d.dim_value for d in image.type.tensor_type.shape.dim] == [3, 3, 64, 64]
    assert [d.dim_value for d in logits.type.tensor_type.shape.dim] == [3, 7]
    assert {t.data_type for t in model.graph.initializer} == {TensorProto.FLOAT}


@pytest.mark.parametrize(
    ("name", "options", "outputs"),
    [
        ("ssdlite-v3-large", {}, {"bbox_regression": [1, 3234, 4], "cls_logits": [1, 3234, 91]}),
        (
            "ssdlite-v3-large",
            {"alpha": 0.5, "resolution": 96, "classes": 3, "batch": 2},
            # Six anchors for each pixel of maps of 6, 3, 2, 1, 1 and 1 pixels a side.
            {"bbox_regression": [2, 312, 4], "cls_logits": [2, 312, 3]},
        ),
        ("lraspp-v3-large", {}, {"out": [1, 21, 520, 520]}),
        (
            "lraspp-v3-large",
            {"alpha": 0.5, "resolution": 72, "classes": 3, "batch": 2},
            {"out": [2, 3, 72, 72]},
        ),
    ],
)
def test_other_graphs_have_torchvisions_outputs(
    name: str, options: dict[str, float], outputs: dict[str, list[int]]
) -> None:
    model = outline(ModelSpec(name, **options))  # type: ignore[arg-type]
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        o.name: [d.dim_value for d in o.type.tensor_type.shape.dim] for o in model.graph.output
    }
    assert shapes == outputs


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v1", {"Conv": 27, "Clip": 27}),
        ("v2", {"Conv": 52, "Clip": 35, "Add": 10}),
        ("v3-large", {"Conv": 62, "HardSwish": 21, "Relu": 19, "HardSigmoid": 8, "Add": 10}),
        ("v3-small", {"Conv": 52, "HardSwish": 19, "Relu": 14, "HardSigmoid": 9, "Add": 6}),
        ("v4-conv-small", {"Conv": 46, "Relu": 30, "Add": 10}),
        ("v4-conv-medium", {"Conv": 77, "Relu": 38, "Add": 18}),
        ("efficientnet-b0", {"Conv": 81, "Sigmoid": 65, "Mul": 65, "Add": 9}),
        ("efficientnet-lite0", {"Conv": 49, "Clip": 33, "Add": 9}),
        ("ssdlite-v3-large", {"Conv": 98, "Clip": 24, "HardSwish": 20, "Reshape": 12, "Add": 10}),
        ("lraspp-v3-large", {"Conv": 66, "HardSwish": 20, "Sigmoid": 1, "Resize": 2, "Add": 11}),
    ],
)
def test_graph_has_the_papers_operators(name: str, expected: dict[str, int]) -> None:
    model = outline(ModelSpec(name, resolution=32))
    assert {operator: len(outputs_of(model, operator)) for operator in expected} == expected
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    epsilons = [helper.get_node_attr_value(node, "epsilon") for node in norms]
    expected = [1e-3 if "v3" in name else 1e-5] * len(norms)
    if name.startswith("lraspp"):
        expected[-1] = 1e-5  # torchvision's default, where V3 has its own
    assert epsilons == pytest.approx(expected)


def test_last_blocks_of_a_segmenter_are_dilated_in_place_of_strides() -> None:
    model = outline(ModelSpec("lraspp-v3-large"))
    attributes = [
        {a.name: helper.get_attribute_value(a) for a in node.attribute}
        for node in model.graph.node
        if node.op_type == "Conv"
    ]
    dilated = [node for node in attributes if "dilations" in node]
    assert [(n["dilations"], n["pads"], n["strides"]) for n in dilated] == [
        ([2, 2], [4] * 4, [1, 1])
    ] * 3
    assert sum(node["strides"] == [2, 2] for node in attributes) == 4


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("v2", "v2"),
        ("mobilenet_v2", "v2"),
        ("MobileNetV1", "v1"),
        ("mobilenet-v3-small", "v3-small"),
        ("v3_large", "v3-large"),
        ("mobilenetv3large", "v3-large"),
        ("mobilenetv4_conv_small", "v4-conv-small"),
        ("MobileNetV4-Conv-Medium", "v4-conv-medium"),
        ("efficientnet_b0", "efficientnet-b0"),
        ("EfficientNet-Lite0", "efficientnet-lite0"),
        ("ssdlite320_mobilenet_v3_large", "ssdlite-v3-large"),
        ("lraspp_mobilenet_v3_large", "lraspp-v3-large"),
    ],
)
def test_spellings_of_a_name(written: str, meant: str) -> None:
    assert canonical_name(written) == meant
    assert ModelSpec(written) == ModelSpec(meant)


@pytest.mark.parametrize(
    ("written", "offer"),
    [
        ("v3", "v3-large or v3-small"),
        ("mobilenet_v3_larg", "v3-large"),
        ("v4", "v4-conv-small or v4-conv-medium"),
        ("efficientnet", "efficientnet-b0 or efficientnet-lite0"),
        ("v5", "v2"),
        ("resnet50", "known are v1, v2, v3-large, v3-small"),
        ("", "v1 or v2"),
    ],
)
def test_unknown_name_gets_an_offer(written: str, offer: str) -> None:
    with pytest.raises(UserError, match=offer):
        canonical_name(written)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.24}, r"alpha 0.24 is not a number from 0.25 to 1.4"),
        ({"alpha": float("nan")}, "alpha nan"),
        ({"alpha": "1"}, "alpha '1'"),
        ({"resolution": 0}, "resolution 0 is not a whole number from 32"),
        ({"resolution": 225}, "use 224 or 256"),
        ({"resolution": 224.0}, "resolution 224.0 is not a whole number"),
        ({"classes": 0}, "classes 0"),
        ({"classes": 10**9}, "classes 1000000000"),
        ({"batch": -1}, "batch -1"),
    ],
)
def test_impossible_option_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelSpec("v2", **options)  # type: ignore[arg-type]


def test_resolution_of_a_segmenter_is_a_multiple_of_8() -> None:
    assert ModelSpec("lraspp-v3-large", resolution=200).resolution == 200
    with pytest.raises(UserError, match="resolution 225 is not a multiple of 8; use 224 or 232"):
        ModelSpec("lraspp-v3-large", resolution=225)


def test_negative_seed_is_refused() -> None:
    with pytest.raises(UserError, match="seed -1 is negative"):
        build(ModelSpec("v2"), seed=-1)


@pytest.mark.parametrize(
    ("options", "title"),
    [
        ({}, "mobilenet_v3_small"),
        ({"alpha": 1}, "mobilenet_v3_small"),
        ({"alpha": 0.5, "resolution": 160}, "mobilenet_v3_small_0.5_160"),
        ({"resolution": 96}, "mobilenet_v3_small_1.0_96"),
        ({"classes": 10, "batch": 4}, "mobilenet_v3_small_classes10_batch4"),
    ],
)
def test_title_tells_models_apart(options: dict[str, float], title: str) -> None:
    assert ModelSpec("v3-small", **options).title == title  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "options", "title"),
    [
        ("ssdlite-v3-large", {"resolution": 320, "classes": 91}, "ssdlite_mobilenet_v3_large"),
        ("ssdlite-v3-large", {"resolution": 224}, "ssdlite_mobilenet_v3_large_1.0_224"),
        ("lraspp-v3-large", {"classes": 2}, "lraspp_mobilenet_v3_large_classes2"),
        ("efficientnet-b0", {"alpha": 0.5}, "efficientnet_b0_0.5_224"),
    ],
)
def test_title_omits_each_networks_own_options(
    name: str, options: dict[str, float], title: str
) -> None:
    assert ModelSpec(name, **options).title == title  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("alpha", "resolution"),
    [LARGE, pytest.param(1.0, 32, marks=pytest.mark.full), (0.25, 96), (0.25, 32)],
)
def test_logits_depend_on_the_input(name: str, alpha: float, resolution: int) -> None:
    spec = ModelSpec(name, alpha, resolution, batch=2)
    for logits in run(random_model(spec), images(spec)):
        assert np.isfinite(logits).all()
        spread_between_images = np.sqrt(logits.var(axis=0).mean())
        assert spread_between_images >= 0.1 * logits.std()
        assert 0.1 < logits.std() < 20


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("alpha", "resolution"), [LARGE, (0.25, 96), (0.25, 32)])
def test_no_activation_fades_or_grows(name: str, alpha: float, resolution: int) -> None:
    spec = ModelSpec(name, alpha, resolution, batch=2)
    model = random_model(spec)
    watched = outputs_of(model, "BatchNormalization") + outputs_of(model, "Add")
    deviations = [float(value.std()) for value in run(model, images(spec), *watched)]
    assert 0.5 < min(deviations) <= max(deviations) < 20


@pytest.mark.parametrize("name", NAMES)
def test_statistics_are_those_that_onnx_runtime_measures(name: str) -> None:
    spec = ModelSpec(name, alpha=0.5, resolution=96, batch=16)
    model = random_model(spec, seed=5)
    drawn = np.random.Generator(np.random.PCG64(5)).standard_normal((16, 96, 96, 3))
    image = drawn.transpose(0, 3, 1, 2).astype(np.float32)
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    stored = parameters(model)
    for node, value in zip(norms, run(model, image, *(n.output[0] for n in norms)), strict=True):
        if value[:, 0].size < 100:
            continue  # the channels share their variance
        scale, shift = stored[node.input[1]], stored[node.input[2]]
        np.testing.assert_allclose(value.mean(axis=(0, 2, 3)), shift, atol=0.01)
        np.testing.assert_allclose(value.std(axis=(0, 2, 3)), scale, rtol=0.02)


#: An activation and the ends of its bend, other than those of ReLU6; a sigmoid bends everywhere.
ENDS = {
    **{name: ("HardSwish", -3, 3) for name in NAMES if "v3" in name},
    **{name: ("Relu", 0, 0) for name in NAMES if name.startswith("v4")},
    "efficientnet-b0": ("Sigmoid", 0, 0),
}


@pytest.mark.parametrize("name", NAMES)
def test_activations_pass_both_ends_of_their_range(name: str) -> None:
    spec = ModelSpec(name, batch=1)
    model = random_model(spec)
    operator, low, high = ENDS.get(name, ("Clip", 0, 6))
    watched = [node.input[0] for node in model.graph.node if node.op_type == operator]
    for value in run(model, images(spec), *watched)[:-1]:
        assert (value < low).any()
        assert (value > high).any()


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_varies(name: str) -> None:
    named = {
        n: p for n, p in parameters(random_model(ModelSpec(name, 0.25, 32))).items() if "." in n
    }
    assert all(parameter.std() > 0.01 * abs(parameter).max() for parameter in named.values())


# Of all parameters in order, at alpha 1 and seed 0: the same with NumPy 1.26 to
# 2.5 and with OpenBLAS's kernels from Prescott to SkylakeX.
DIGESTS = {
    "v1": "3d0ddf4c7e44675b",
    "v2": "6679d3e6d707514c",
    "v3-large": "2633e3f795b1d2dc",
    "v3-small": "f8f8bc3f50cd3892",
    "v4-conv-small": "290f8542a5395b4b",
    "v4-conv-medium": "40339b6564adb8ec",
    "efficientnet-b0": "1d96ac4a70a2b710",
    "efficientnet-lite0": "3675079d8a98db10",
    "ssdlite-v3-large": "69c9ab7795efa4cb",
    "lraspp-v3-large": "3bfd6325ad90d303",
}


@pytest.mark.parametrize("name", NAMES)
def test_seed_gives_the_same_parameters_everywhere(name: str) -> None:
    model = random_model(ModelSpec(name), seed=0)
    data = b"".join(tensor.raw_data for tensor in model.graph.initializer)
    assert hashlib.sha256(data).hexdigest()[:16] == DIGESTS[name]
    assert weights_origin(model) == "random (seed 0)"


def test_another_seed_gives_other_parameters() -> None:
    spec = ModelSpec("v3-small", 0.25, 32)
    first, second = parameters(random_model(spec, seed=0)), parameters(random_model(spec, seed=1))
    assert all((first[name] != second[name]).any() for name in first if "." in name)


def graph_of(nodes: list[onnx.NodeProto], shapes: dict[str, list[int | str]]) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph(nodes, "g", inputs, [output]))


@pytest.mark.parametrize(
    ("node", "shapes", "expected"),
    [
        (
            helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[1] * 4, group=8),
            {"x": [2, 16, 9, 7], "w": [24, 2, 3, 3]},
            2 * 24 * 5 * 4 * (2 * 3 * 3),
        ),
        (helper.make_node("Gemm", ["x", "w"], ["y"]), {"x": [5, 3], "w": [3, 4]}, 60),
        (
            helper.make_node("Gemm", ["x", "w"], ["y"], transA=1, transB=1),
            {"x": [3, 5], "w": [4, 3]},
            60,
        ),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), {"x": [2, 5, 3], "w": [3, 4]}, 120),
        (helper.make_node("Relu", ["x"], ["y"]), {"x": [2, 5]}, 0),
    ],
    ids=["grouped strided convolution", "gemm", "transposed gemm", "batched matmul", "other"],
)
def test_macs_of_one_node(
    node: onnx.NodeProto, shapes: dict[str, list[int | str]], expected: int
) -> None:
    assert macs(graph_of([node], shapes)) == expected


def test_macs_of_a_batch_are_as_many_times_more() -> None:
    one, four = (macs(random_model(ModelSpec("v3-small", 0.25, 32, batch=b))) for b in (1, 4))
    assert four == 4 * one


def test_macs_of_a_dynamic_shape_are_refused() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    with pytest.raises(UserError, match="MatMul node 'product' are not static"):
        macs(graph_of([node], {"x": ["batch", 3], "w": [3, 4]}))


def test_macs_with_an_operator_of_nobody_are_refused() -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], domain="undeclared")]
    with pytest.raises(UserError, match=r"cannot infer the model's shapes: .*undeclared"):
        macs(graph_of(nodes, {"x": [5, 3], "w": [3, 4]}))


@pytest.mark.skipif(not (SHARED / "peers").is_dir(), reason="no ../shared/peers here")
@pytest.mark.parametrize("name", ["v1", "v2", "v3-large", "v3-small"])
def test_counts_of_shared_initialisers_are_each_layers(name: str) -> None:
    model = onnx.load(SHARED / "peers" / f"{ModelSpec(name).title}.onnx")
    assert parameter_count(model) == PUBLISHED[name].parameters
    assert macs(model) == macs(random_model(ModelSpec(name)))


@pytest.mark.skipif(not (SHARED / "models").is_dir(), reason="no ../shared/models here")
def test_counts_of_a_quantised_model_are_the_float_models() -> None:
    whole, quantised = (
        onnx.load(SHARED / "models" / f"mobilenet_v1_0.5_128{suffix}.onnx")
        for suffix in ("", "_int8")
    )
    assert parameter_count(quantised) == parameter_count(whole) > 1_300_000
    assert macs(quantised) == macs(whole) > 40_000_000
