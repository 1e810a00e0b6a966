"""Tests of parameters from files, from the network and from the cache."""

import contextlib
import functools
import hashlib
import http.server
import importlib.util
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from safetensors.numpy import save_file

from mobilenet_tvm.compile.compress.channels import find_channels, remove
from mobilenet_tvm.compile.compress.float_graph import FloatGraph
from mobilenet_tvm.compile.models import pretrained, weight_files
from mobilenet_tvm.compile.models.named import NAMES, ModelSpec, build, macs, weights_origin
from mobilenet_tvm.compile.models.networks import Classifier
from mobilenet_tvm.compile.models.pretrained import PRETRAINED, PretrainedFile
from mobilenet_tvm.compile.models.timm_names import timm_names
from mobilenet_tvm.targets.errors import UserError

SHARED = Path(__file__).parents[3] / "shared"

#: Networks that have timm's names too, beside torchvision's.
WITH_TIMM_NAMES = (
    "v1", "v2", "v3-large", "v3-small", "efficientnet-b0", "efficientnet-lite0",
)  # fmt: skip
MOBILENETS = WITH_TIMM_NAMES[:4]

Array = NDArray[np.float32]
Parameters = dict[str, Array]


def small(name: str = "v2", classes: int = 10) -> ModelSpec:
    return ModelSpec(name, alpha=0.25, resolution=32, classes=classes)


@functools.cache
def content(spec: ModelSpec) -> bytes:
    data: bytes = build(spec, seed=7).SerializeToString()
    return data


def random_model(spec: ModelSpec) -> onnx.ModelProto:
    return onnx.load_from_string(content(spec))


def parameters(model: onnx.ModelProto) -> Parameters:
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {name: array.copy() for name, array in tensors.items() if "." in name}


def replace_parameters(model: onnx.ModelProto, named: Parameters) -> None:
    kept = [tensor for tensor in model.graph.initializer if "." not in tensor.name]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in named.items())


def outputs(model: onnx.ModelProto) -> list[Array]:
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    image = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    values: list[Array] = session.run(None, {session.get_inputs()[0].name: image})
    return values


def assert_same_parameters(left: onnx.ModelProto, right: onnx.ModelProto) -> None:
    ours, theirs = parameters(left), parameters(right)
    assert list(ours) == list(theirs)
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def assert_same_function(left: onnx.ModelProto, right: onnx.ModelProto) -> None:
    for value, expected in zip(outputs(left), outputs(right), strict=True):
        np.testing.assert_allclose(value, expected, atol=2e-4 * expected.std())


def refusal(spec: ModelSpec, path: Path | str) -> str:
    """Return the message with which a file is refused, once it is known to be one line."""
    with pytest.raises(UserError) as caught:
        build(spec, path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def nodes_of(model: onnx.ModelProto, operator: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == operator]


def set_attribute(node: onnx.NodeProto, name: str, value: object) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


# ONNX files in the ways in which exporters write them. Each changes a model
# without changing what it computes, or changes both.


def as_it_is(model: onnx.ModelProto) -> None:
    pass


def generated_names(model: onnx.ModelProto) -> None:
    names = {tensor.name: str(475 + i) for i, tensor in enumerate(model.graph.initializer)}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    reordered = sorted(model.graph.initializer, key=lambda tensor: tensor.name[::-1])
    del model.graph.initializer[:]
    model.graph.initializer.extend(reordered)


def constant_nodes(model: onnx.ModelProto) -> None:
    constants = [
        helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in model.graph.initializer
    ]
    nodes = [*constants, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(nodes)


def shared_through_identity(model: onnx.ModelProto) -> None:
    """All batch norms of as many channels share their scale, as PyTorch's exporter has it."""
    first: dict[int, str] = {}
    copies = []
    named = parameters(model)
    for node in nodes_of(model, "BatchNormalization"):
        name = node.input[1]
        original = first.setdefault(len(named[name]), name)
        if original != name:
            copies.append(helper.make_node("Identity", [original], [name]))
            del named[name]
    replace_parameters(model, named)
    nodes = [*copies, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def another_epsilon(model: onnx.ModelProto) -> None:
    for node in nodes_of(model, "BatchNormalization"):
        set_attribute(node, "epsilon", 0.03)


def folded(model: onnx.ModelProto) -> None:
    named = parameters(model)
    kept: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            conv = kept[-1]
            scale, shift, mean, variance = (named.pop(name) for name in node.input[1:])
            deviation = np.sqrt(variance + helper.get_node_attr_value(node, "epsilon"))
            factor = (scale / deviation).astype(np.float32)
            weight = named[conv.input[1]] * factor.reshape(-1, 1, 1, 1)
            named[conv.input[1]] = weight.astype(np.float32)
            named[f"{conv.name}.folded"] = (shift - mean * factor).astype(np.float32)
            conv.input.append(f"{conv.name}.folded")
            conv.output[:] = node.output
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    replace_parameters(model, named)
    generated_names(model)


def biased_convolutions(model: onnx.ModelProto) -> None:
    """Give convolutions before a batch norm a bias, which the mean then undoes."""
    named = parameters(model)
    random = np.random.default_rng(3)
    normed = {node.input[0] for node in nodes_of(model, "BatchNormalization")}
    for node in nodes_of(model, "Conv"):
        if node.output[0] in normed:
            bias = random.standard_normal(len(named[node.input[1]])).astype(np.float32)
            node.input.append(f"{node.name}.bias")
            named[f"{node.name}.bias"] = bias
    replace_parameters(model, named)


def plain_gemm(model: onnx.ModelProto) -> None:
    named = parameters(model)
    for node in nodes_of(model, "Gemm"):
        named[node.input[1]] = np.ascontiguousarray(named[node.input[1]].T) * np.float32(0.5)
        named[node.input[2]] *= 4
        del node.attribute[:]
        node.attribute.extend(
            [helper.make_attribute("alpha", 2.0), helper.make_attribute("beta", 0.25)]
        )
    replace_parameters(model, named)


def matmul_and_add(model: onnx.ModelProto) -> None:
    named = parameters(model)
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Gemm":
            value, weight, bias = node.input
            named[weight] = np.ascontiguousarray(named[weight].T)
            nodes.append(helper.make_node("MatMul", [value, weight], [f"{node.name}.product"]))
            nodes.append(helper.make_node("Add", [bias, f"{node.name}.product"], node.output))
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    replace_parameters(model, named)


def convolutional_classifier(model: onnx.ModelProto) -> None:
    named = parameters(model)
    flatten = nodes_of(model, "Flatten")[0]
    for node in nodes_of(model, "Gemm"):
        named[node.input[1]] = named[node.input[1]][:, :, None, None]
        node.op_type = "Conv"
        del node.attribute[:]
        node.input[0] = flatten.input[0] if node.input[0] == flatten.output[0] else node.input[0]
    model.graph.node.remove(flatten)
    last = model.graph.node[-1]
    last.output[0] = "map"
    model.graph.node.append(helper.make_node("Flatten", ["map"], ["logits"]))
    replace_parameters(model, named)


def same_padding_where_it_is_symmetric(model: onnx.ModelProto) -> None:
    for node in nodes_of(model, "Conv"):
        names = [attribute.name for attribute in node.attribute]
        # ONNX Runtime has no SAME for dilated convolutions.
        if helper.get_node_attr_value(node, "strides") == [1, 1] and "dilations" not in names:
            node.attribute.remove(next(a for a in node.attribute if a.name == "pads"))
            set_attribute(node, "auto_pad", "SAME_UPPER")


@pytest.mark.parametrize("name", MOBILENETS)
@pytest.mark.parametrize(
    "change",
    [
        as_it_is,
        generated_names,
        constant_nodes,
        shared_through_identity,
        another_epsilon,
        folded,
        biased_convolutions,
        plain_gemm,
        matmul_and_add,
        convolutional_classifier,
        same_padding_where_it_is_symmetric,
    ],
    ids=lambda change: change.__name__,
)
def test_onnx_file_gives_its_function(
    change: Callable[[onnx.ModelProto], None], name: str, tmp_path: Path
) -> None:
    model = random_model(small(name))
    change(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "m.onnx")
    assert_same_function(build(small(name), tmp_path / "m.onnx"), model)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in MOBILENETS])
@pytest.mark.parametrize(
    "change",
    [generated_names, folded, biased_convolutions, same_padding_where_it_is_symmetric],
    ids=lambda change: change.__name__,
)
def test_onnx_file_of_another_network_gives_its_function(
    change: Callable[[onnx.ModelProto], None], name: str, tmp_path: Path
) -> None:
    model = random_model(small(name))
    change(model)
    onnx.save(model, tmp_path / "m.onnx")
    assert_same_function(build(small(name), tmp_path / "m.onnx"), model)


def test_own_onnx_file_gives_its_parameters(tmp_path: Path) -> None:
    model = random_model(small())
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    again = build(small(), path)
    assert_same_parameters(again, model)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert weights_origin(again) == f"file: m.onnx (sha256 {digest[:12]})"


def test_onnx_file_with_external_data(tmp_path: Path) -> None:
    model = random_model(small())
    onnx.save(
        random_model(small()), tmp_path / "m.onnx", save_as_external_data=True, location="m.data"
    )
    assert_same_parameters(build(small(), tmp_path / "m.onnx"), model)
    (tmp_path / "m.data").unlink()
    assert "m.onnx" in refusal(small(), tmp_path / "m.onnx")


@pytest.mark.skipif(not (SHARED / "peers").is_dir(), reason="no ../shared/peers here")
@pytest.mark.parametrize("name", MOBILENETS)
def test_pytorchs_export_gives_its_function(name: str) -> None:
    spec = ModelSpec(name)
    path = SHARED / "peers" / f"{spec.title}.onnx"
    assert_same_function(build(spec, path), onnx.load(path))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_safetensors_by_the_networks_names(
    name: str, dtype: type[np.floating], tmp_path: Path
) -> None:
    model = random_model(small(name))
    named = {name: array.astype(dtype) for name, array in parameters(model).items()}
    counters = {"features.0.1.num_batches_tracked": np.array(7)}
    save_file(named | counters, tmp_path / "m.safetensors")
    replace_parameters(model, {name: array.astype(np.float32) for name, array in named.items()})
    assert_same_parameters(build(small(name), tmp_path / "m.safetensors"), model)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrapped_models_are_dropped(prefix: str, tmp_path: Path) -> None:
    model = random_model(small())
    named = {prefix + name: array for name, array in parameters(model).items()}
    save_file(named, tmp_path / "m.safetensors")
    assert_same_parameters(build(small(), tmp_path / "m.safetensors"), model)


@pytest.mark.parametrize("name", WITH_TIMM_NAMES)
def test_safetensors_by_timms_names(name: str, tmp_path: Path) -> None:
    model = random_model(small(name))
    names = names_in_timm(name)
    named = {}
    for ours, array in parameters(model).items():
        layer, _, part = ours.rpartition(".")
        named[f"{names[layer]}.{part}"] = array
    if name.startswith("v3"):
        named["conv_head.weight"] = named["conv_head.weight"][:, :, None, None]
    save_file(named, tmp_path / "m.safetensors")
    for node in nodes_of(model, "BatchNormalization"):
        set_attribute(node, "epsilon", 1e-5)
    assert_same_function(build(small(name), tmp_path / "m.safetensors"), model)


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("v1", "features.0.0", "conv_stem"),
        ("v1", "features.13.1.1", "blocks.4.1.bn2"),
        ("v2", "features.1.conv.0.0", "blocks.0.0.conv_dw"),
        ("v2", "features.17.conv.3", "blocks.6.0.bn3"),
        ("v2", "features.18.1", "bn2"),
        ("v3-large", "features.4.block.2.fc1", "blocks.2.0.se.conv_reduce"),
        ("v3-large", "features.15.block.3.0", "blocks.5.2.conv_pwl"),
        ("v3-large", "features.16.0", "blocks.6.0.conv"),
        ("v3-small", "features.1.block.0.0", "blocks.0.0.conv_dw"),
        ("v3-small", "features.11.block.0.0", "blocks.4.2.conv_pw"),
        ("v3-small", "classifier.0", "conv_head"),
        ("v3-small", "classifier.3", "classifier"),
        ("efficientnet-b0", "features.1.0.block.0.0", "blocks.0.0.conv_dw"),
        ("efficientnet-b0", "features.1.0.block.2.1", "blocks.0.0.bn2"),
        ("efficientnet-b0", "features.3.1.block.2.fc2", "blocks.2.1.se.conv_expand"),
        ("efficientnet-b0", "features.8.0", "conv_head"),
        ("efficientnet-b0", "features.8.1", "bn2"),
        ("efficientnet-lite0", "features.7.0.block.2.0", "blocks.6.0.conv_pwl"),
    ],
)
def test_names_are_those_of_timm_1_0(name: str, ours: str, theirs: str) -> None:
    assert names_in_timm(name)[ours] == theirs


def names_in_timm(name: str) -> dict[str, str]:
    architecture = ModelSpec(name).architecture
    assert isinstance(architecture, Classifier)
    return timm_names(architecture)


@pytest.mark.parametrize(
    ("name", "tensors", "shapes"),
    [
        (
            "v4-conv-small",
            46 * 6 + 2,
            {
                "conv_stem.weight": (32, 3, 3, 3),
                "blocks.0.0.conv.weight": (32, 32, 3, 3),
                "blocks.1.1.bn1.running_var": (64,),
                "blocks.2.0.dw_start.conv.weight": (64, 1, 5, 5),
                "blocks.2.0.pw_exp.bn.weight": (192,),
                "blocks.2.4.dw_mid.conv.weight": (192, 1, 3, 3),
                "blocks.3.5.pw_proj.conv.weight": (128, 512, 1, 1),
                "blocks.4.0.conv.weight": (960, 128, 1, 1),
                "conv_head.weight": (1280, 960, 1, 1),
                "norm_head.bias": (1280,),
                "classifier.weight": (1000, 1280),
            },
        ),
        (
            "v4-conv-medium",
            77 * 6 + 2,
            {
                "blocks.0.0.conv_exp.weight": (128, 32, 3, 3),
                "blocks.0.0.bn1.weight": (128,),
                "blocks.0.0.conv_pwl.weight": (48, 128, 1, 1),
                "blocks.0.0.bn2.running_mean": (48,),
                "blocks.2.6.pw_exp.conv.weight": (320, 160, 1, 1),
                "blocks.3.10.dw_start.bn.bias": (256,),
            },
        ),
        (
            "efficientnet-b0",
            49 * 6 + 16 * 4 + 2,
            {
                "features.0.0.weight": (32, 3, 3, 3),
                "features.1.0.block.1.fc1.weight": (8, 32, 1, 1),
                "features.2.1.block.1.0.weight": (144, 1, 3, 3),
                "features.6.3.block.2.fc2.bias": (1152,),
                "features.7.0.block.3.1.weight": (320,),
                "classifier.1.weight": (1000, 1280),
            },
        ),
        (
            "ssdlite-v3-large",
            # Of the trunk, of the further maps, of the heads.
            308 + 72 + 96,
            {
                "backbone.features.0.0.0.weight": (16, 3, 3, 3),
                "backbone.features.0.4.block.2.fc1.bias": (24,),
                "backbone.features.0.13.0.weight": (672, 112, 1, 1),
                "backbone.features.0.13.1.running_var": (672,),
                "backbone.features.1.0.1.0.weight": (672, 1, 5, 5),
                "backbone.features.1.0.2.fc2.weight": (672, 168, 1, 1),
                "backbone.features.1.0.3.0.weight": (80, 672, 1, 1),
                "backbone.features.1.1.block.0.0.weight": (480, 80, 1, 1),
                "backbone.features.1.3.0.weight": (480, 80, 1, 1),
                "backbone.extra.0.0.0.weight": (256, 480, 1, 1),
                "backbone.extra.3.1.0.weight": (64, 1, 3, 3),
                "head.classification_head.module_list.0.0.0.weight": (672, 1, 3, 3),
                "head.classification_head.module_list.0.1.weight": (546, 672, 1, 1),
                "head.regression_head.module_list.5.1.bias": (24,),
            },
        ),
        (
            "lraspp-v3-large",
            46 * 6 + 16 * 2 + 6 + 1 + 4,
            {
                "backbone.0.0.weight": (16, 3, 3, 3),
                "backbone.13.block.1.0.weight": (672, 1, 5, 5),
                "backbone.16.1.weight": (960,),
                "classifier.cbr.0.weight": (128, 960, 1, 1),
                "classifier.cbr.1.running_mean": (128,),
                "classifier.scale.1.weight": (128, 960, 1, 1),
                "classifier.low_classifier.weight": (21, 40, 1, 1),
                "classifier.high_classifier.bias": (21,),
            },
        ),
    ],
)
def test_state_dicts_are_upstreams(
    name: str, tensors: int, shapes: dict[str, tuple[int, ...]]
) -> None:
    """Names and shapes are those that the modules upstream give their parameters.

    They were derived by hand from the definitions in timm 1.0 (mobilenetv3.py,
    _efficientnet_blocks.py) and torchvision 0.20 (efficientnet.py, ssdlite.py,
    lraspp.py): a module's attribute or its index in a Sequential is a part of
    the name, and a slice of a Sequential keeps the indices. A batch norm counts
    its batches in a further tensor.
    """
    found = ModelSpec(name).architecture.parameter_shapes
    norms = sum(name.endswith("running_mean") for name in found)
    assert len(found) + norms == tensors
    assert {name: found.get(name) for name in shapes} == shapes


def test_safetensors_of_a_network_with_timms_names_only(tmp_path: Path) -> None:
    named = parameters(random_model(small("v4-conv-small")))
    del named["conv_stem.weight"]
    save_file(named, tmp_path / "m.safetensors")
    message = refusal(small("v4-conv-small"), tmp_path / "m.safetensors")
    assert "has no conv_stem.weight" in message
    assert message.endswith("or rename its tensors as timm does")


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="PyTorch is not installed")
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("named", ["torchvision", "any"])
def test_pytorch_state_dict(wrapper: str | None, named: str, tmp_path: Path) -> None:
    import torch

    model = random_model(small("v1"))
    state = {
        name if named == "torchvision" else f"backbone.x{name}": torch.from_numpy(array)
        for name, array in parameters(model).items()
    }
    state["features.0.1.num_batches_tracked"] = torch.tensor(3)
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "m.pth")
    assert_same_parameters(build(small("v1"), tmp_path / "m.pth"), model)


class Tensor:
    """Like a tensor of PyTorch, as far as a state dict's reader looks at it."""

    def numpy(self) -> None:
        """Be convertible."""


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
def test_state_dict_is_found_in_a_checkpoint(wrapper: str) -> None:
    state = {"features.0.0.weight": Tensor(), "features.0.1.weight": Tensor()}
    for checkpoint in (state, {"epoch": 3, wrapper: state}, {"model": {wrapper: state}}):
        assert weight_files._unwrapped(checkpoint) == state


@pytest.mark.parametrize("checkpoint", [None, [Tensor()], {"epoch": 3}, {"state_dict": {}}])
def test_checkpoint_without_a_state_dict_is_empty(checkpoint: object) -> None:
    assert weight_files._unwrapped(checkpoint) == {}


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_missing_package_is_named(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / f"m{suffix}"
    path.write_bytes(b"content")
    assert "pip install torch, or convert" in refusal(small(), path)


@pytest.mark.parametrize("form", ["onnx", "safetensors"])
@pytest.mark.parametrize(
    ("theirs", "ours", "clues"),
    [
        (
            small(classes=3),
            small(classes=10),
            ["classifier.1.weight [10, 1280]", "[3, 1280]", "--classes"],
        ),
        (
            ModelSpec("v2", 0.5, 32),
            ModelSpec("v2", 0.25, 32),
            ["features.0.0.weight [8, 3, 3, 3]", "[16, 3, 3, 3]", "--alpha"],
        ),
        (small("v3-large"), small("v3-small"), ["features.1.block.1", "--model"]),
        (small("v1"), small("v2"), ["features.1.", "--model"]),
    ],
    ids=["classes", "alpha", "size", "version"],
)
def test_other_networks_file_is_refused(
    form: str, theirs: ModelSpec, ours: ModelSpec, clues: list[str], tmp_path: Path
) -> None:
    path = tmp_path / f"m.{form}"
    if form == "onnx":
        path.write_bytes(content(theirs))
    else:
        save_file(parameters(random_model(theirs)), path)
    message = refusal(ours, path)
    assert all(clue in message for clue in [*clues, path.name])


def pruned(spec: ModelSpec) -> onnx.ModelProto:
    """Return a random model with odd numbers of channels inside its blocks."""
    graph = FloatGraph(random_model(spec))
    for number, channels in enumerate(find_channels(graph)):
        remove(graph, channels, np.arange(number % 2, channels.count, 2 + number % 2))
    return graph.model()


@pytest.mark.parametrize("form", ["onnx", "safetensors"])
@pytest.mark.parametrize("name", MOBILENETS)
def test_file_of_a_pruned_network_tells_the_widths(name: str, form: str, tmp_path: Path) -> None:
    model = pruned(small(name))
    path = tmp_path / f"m.{form}"
    if form == "onnx":
        onnx.save(model, path)
    else:
        save_file(parameters(model), path)
    again = build(small(name), path)
    assert parameters(again).keys() == parameters(model).keys()
    assert_same_function(again, model)
    assert macs(again) == macs(model) < macs(random_model(small(name)))


def test_file_of_a_pruned_network_with_timms_names_tells_the_widths(tmp_path: Path) -> None:
    architecture = small("v3-small").architecture
    assert isinstance(architecture, Classifier)
    names = timm_names(architecture)
    model = pruned(small("v3-small"))
    renamed = {}
    for name, array in parameters(model).items():
        layer, _, part = name.rpartition(".")
        renamed[f"{names[layer]}.{part}"] = array
    save_file(renamed, tmp_path / "m.safetensors")
    again = build(small("v3-small"), tmp_path / "m.safetensors")
    assert {k: v.shape for k, v in parameters(again).items()} == {
        k: v.shape for k, v in parameters(model).items()
    }


@pytest.mark.parametrize(
    ("layer", "clue"),
    [
        ("features.3.conv.1.0", "features.3.conv.1.0.weight"),
        ("features.3.conv.2", "features.3.conv.2.weight"),
    ],
    ids=["depthwise layer alone", "bottleneck"],
)
def test_file_with_other_widths_than_pruning_leaves_is_refused(
    layer: str, clue: str, tmp_path: Path
) -> None:
    named = parameters(random_model(small()))
    named[f"{layer}.weight"] = np.ascontiguousarray(named[f"{layer}.weight"][:-1])
    save_file(named, tmp_path / "m.safetensors")
    assert clue in refusal(small(), tmp_path / "m.safetensors")


def test_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    model = random_model(small())
    del model.graph.node[-1]
    onnx.save(model, tmp_path / "m.onnx")
    message = refusal(small(), tmp_path / "m.onnx")
    assert "m.onnx lacks classifier.1.weight [10, 1280]" in message


def test_file_without_a_bias_is_refused(tmp_path: Path) -> None:
    model = random_model(small())
    del nodes_of(model, "Gemm")[0].input[2]
    onnx.save(model, tmp_path / "m.onnx")
    assert "lacks classifier.1.bias [10]" in refusal(small(), tmp_path / "m.onnx")


def test_file_with_a_bias_where_there_is_none_is_refused(tmp_path: Path) -> None:
    named = parameters(random_model(small("lraspp-v3-large")))
    named["classifier.scale.1.bias"] = np.ones(128, np.float32)
    save_file(named, tmp_path / "m.safetensors")
    message = refusal(small("lraspp-v3-large"), tmp_path / "m.safetensors")
    assert "has a bias that lraspp_mobilenet_v3_large" in message
    assert "lacks, classifier.scale.1.bias" in message


def test_file_without_a_batch_norm_is_refused(tmp_path: Path) -> None:
    named = parameters(random_model(small()))
    kept = {name: array for name, array in named.items() if "features.3.conv.3." not in name}
    save_file(kept, tmp_path / "m.safetensors")
    assert "lacks features.3.conv.3.weight [8]" in refusal(small(), tmp_path / "m.safetensors")


def test_file_with_a_further_layer_is_refused(tmp_path: Path) -> None:
    named = parameters(random_model(small()))
    save_file(named | {"extra.weight": np.ones((2, 2), np.float32)}, tmp_path / "m.safetensors")
    assert "has a layer that" in (message := refusal(small(), tmp_path / "m.safetensors"))
    assert "'extra'" in message


def test_safetensors_with_foreign_names_is_refused(tmp_path: Path) -> None:
    named = parameters(random_model(small()))
    save_file({f"net.{name}": array for name, array in named.items()}, tmp_path / "m.safetensors")
    message = refusal(small(), tmp_path / "m.safetensors")
    assert "has no features.0.0.weight" in message
    assert "timm" in message


@pytest.mark.parametrize(
    ("attribute", "value", "clue"),
    [
        ("pads", [0, 0, 1, 1], "pads [0, 0, 1, 1] where"),
        ("auto_pad", "SAME_UPPER", "pads [0, 0, 1, 1] where"),
        ("auto_pad", "SAME_LOWER", "pads [1, 1, 0, 0] where"),
        ("strides", [1, 1], "strides [1, 1] and"),
    ],
)
def test_convolution_that_pads_or_strides_otherwise_is_refused(
    attribute: str, value: object, clue: str, tmp_path: Path
) -> None:
    model = random_model(small())
    set_attribute(nodes_of(model, "Conv")[0], attribute, value)
    onnx.save(model, tmp_path / "m.onnx")
    message = refusal(small(), tmp_path / "m.onnx")
    assert "features.0.0.weight" in message
    assert clue in message
    assert "--model m.onnx" in message


@pytest.mark.skipif(not (SHARED / "models").is_dir(), reason="no ../shared/models here")
def test_tensorflows_padding_is_refused() -> None:
    spec = ModelSpec("v1", alpha=0.5, resolution=128, classes=1001)
    path = SHARED / "models" / "mobilenet_v1_0.5_128.onnx"
    assert "pads [0, 0, 1, 1]" in refusal(spec, path)
    quantised = SHARED / "models" / "mobilenet_v1_0.5_128_int8.onnx"
    assert "not a quantised one" in refusal(spec, quantised)


@pytest.mark.parametrize(
    ("name", "value", "clue"),
    [
        ("features.0.0.weight", np.nan, "infinite or undefined"),
        ("classifier.1.bias", np.inf, "infinite or undefined"),
        ("features.3.conv.1.1.running_var", -0.5, "negative"),
    ],
)
def test_impossible_values_are_refused(name: str, value: float, clue: str, tmp_path: Path) -> None:
    named = parameters(random_model(small()))
    named[name].flat[-1] = value
    save_file(named, tmp_path / "m.safetensors")
    message = refusal(small(), tmp_path / "m.safetensors")
    assert clue in message
    assert name in message


def test_value_beyond_float32_is_refused(tmp_path: Path) -> None:
    named = parameters(random_model(small()))
    huge = {"classifier.1.bias": np.full(10, 1e300)}
    save_file(named | huge, tmp_path / "m.safetensors")
    assert "classifier.1.bias" in refusal(small(), tmp_path / "m.safetensors")


def test_integer_parameters_are_refused(tmp_path: Path) -> None:
    named = parameters(random_model(small()))
    named["features.0.0.weight"] = named["features.0.0.weight"].astype(np.int8)
    save_file(named, tmp_path / "m.safetensors")
    assert "int8" in refusal(small(), tmp_path / "m.safetensors")


@pytest.mark.parametrize("form", ["onnx", "safetensors"])
@pytest.mark.parametrize("damage", ["empty", "truncated", "text"])
def test_damaged_file_is_refused(form: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / f"m.{form}"
    if form == "onnx":
        path.write_bytes(content(small()))
    else:
        save_file(parameters(random_model(small())), path)
    whole = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "truncated": whole[: len(whole) // 2], "text": b"not a model\n" * 9}[damage]
    )
    assert path.name in refusal(small(), path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    assert "No such file" in refusal(small(), tmp_path / "m.onnx")


def test_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").mkdir()
    assert "Is a directory" in refusal(small(), tmp_path / "m.onnx")


def test_unknown_suffix_is_refused(tmp_path: Path) -> None:
    assert ".onnx, .safetensors, .pt, .pth" in refusal(small(), tmp_path / "m.h5")


# The network, in small: a table entry that points to a server on this machine.


class Server:
    """Serves one file for as long as the context lasts, and counts the requests."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.requests = 0
        self.status = 200
        self.promised = len(body)
        self.before_end: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        """Give the URL."""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                self.send_response(outer.status)
                self.send_header("Content-Length", str(outer.promised))
                self.end_headers()
                self.wfile.write(outer.body)
                outer.before_end()

            def log_message(self, *args: object) -> None: ...

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/some/m.onnx"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "mobilenet-tvm"


@pytest.fixture
def server() -> Server:
    return Server(content(small()))


def enter(monkeypatch: pytest.MonkeyPatch, url: str, body: bytes) -> None:
    entry = PretrainedFile(url, hashlib.sha256(body).hexdigest())
    monkeypatch.setitem(PRETRAINED, ("v2", 0.25, 10), entry)


def test_pretrained_file_is_fetched_once(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.running() as url:
        enter(monkeypatch, url, server.body)
        model = build(small(), "pretrained")
        digest = hashlib.sha256(server.body).hexdigest()
        assert weights_origin(model) == f"pretrained: m.onnx (sha256 {digest[:12]})"
        assert_same_parameters(model, random_model(small()))
        assert [file.name for file in cache.iterdir()] == ["m.onnx"]
        build(ModelSpec("v2", 0.25, 64, 10), "pretrained")
    assert server.requests == 1
    build(small(), "pretrained")


def test_damaged_cache_is_fetched_again(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir()
    (cache / "m.onnx").write_bytes(server.body[:-1])
    with server.running() as url:
        enter(monkeypatch, url, server.body)
        build(small(), "pretrained")
    assert (cache / "m.onnx").read_bytes() == server.body


def test_another_content_is_refused(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.running() as url:
        enter(monkeypatch, url, b"something else")
        assert "unexpected content" in refusal(small(), "pretrained")
    assert not list(cache.iterdir())


def test_missing_page_is_told(cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.status = 404
    with server.running() as url:
        enter(monkeypatch, url, server.body)
        message = refusal(small(), "pretrained")
    assert "404 Not Found" in message
    assert "--weights FILE" in message
    assert not list(cache.iterdir())


def test_transfer_that_breaks_off_leaves_nothing(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.promised = len(server.body) + 1
    with server.running() as url:
        enter(monkeypatch, url, server.body)
        assert "cannot download" in refusal(small(), "pretrained")
    assert not list(cache.iterdir())


def test_silent_server_is_given_up(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "_TIMEOUT_S", 0.1)
    given_up = threading.Event()
    server.promised = len(server.body) + 1

    def wait() -> None:
        given_up.wait(10)

    server.before_end = wait
    with server.running() as url:
        enter(monkeypatch, url, server.body)
        assert "timed out" in refusal(small(), "pretrained")
        given_up.set()
    assert not list(cache.iterdir())


def test_interrupt_leaves_nothing(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.promised = len(server.body) + 1
    interrupted = threading.Event()

    def interrupt() -> None:
        # To the thread that reads: another one's read would go on until the server ends.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        interrupted.wait(10)

    server.before_end = interrupt
    with server.running() as url:
        enter(monkeypatch, url, server.body)
        with pytest.raises(KeyboardInterrupt):
            build(small(), "pretrained")
        interrupted.set()
    assert not list(cache.iterdir())


def test_no_network_is_told(cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with server.running() as url:
        pass
    enter(monkeypatch, url, server.body)
    assert "Connection refused" in refusal(small(), "pretrained")
    assert not list(cache.iterdir())


def test_cache_without_room_is_told_and_left_empty(
    cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with server.running() as url:
        enter(monkeypatch, url, server.body)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(server.body) // 2, limits[1]))
        try:
            message = refusal(small(), "pretrained")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in message
    assert not list(cache.iterdir())


def test_relative_cache_folder_is_ignored(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with server.running() as url:
        enter(monkeypatch, url, server.body)
        build(small(), "pretrained")
    assert (tmp_path / "home" / ".cache" / "mobilenet-tvm" / "m.onnx").is_file()


@pytest.mark.parametrize("spec", [ModelSpec("v1"), ModelSpec("v2", 0.5), small("v3-small")])
def test_model_without_a_public_file_is_told(spec: ModelSpec) -> None:
    message = refusal(spec, "pretrained")
    assert "only for v2 with alpha 1 and 1000 classes" in message
    assert "--weights FILE" in message
