"""Makes the exported MobileNets under exports/ again; see README.md for the environments.

Usage: ``python make_exports.py {torch,keras,quantized} [--output DIR] [--only NAME]``.
Each group needs its own environment, named in README.md; none of them is a
dependency of the project. Widths and resolutions are tiny so that the files are
small; the graphs are those of the full-size models. The weights are seeded random
numbers, and the batch-norm statistics are those of a forward pass, so that every
layer passes information on and the output depends on the input.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

if TYPE_CHECKING:
    from torch import nn

CLASSES = 10
RESOLUTION = 64
SEED = 20

Exporter = Callable[[Path], None]


# PyTorch ----------------------------------------------------------------------------------


def conv_norm(
    inputs: int,
    outputs: int,
    activation: type[nn.Module] | None,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
) -> nn.Sequential:
    """Return convolution, batch norm and activation, as torchvision's models stack them."""
    from torch import nn

    padding = (kernel - 1) // 2
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if activation is not None:
        layers.append(activation(inplace=True))
    return nn.Sequential(*layers)


def torch_v1() -> nn.Module:
    """Return MobileNetV1 with 8 to 64 channels and 9 of its 13 separable blocks."""
    from torch import nn

    widths = [8, 8, 16, 16, 24, 24, 32, 32, 64, 64]
    strides = [1, 2, 1, 2, 1, 2, 1, 2, 1]
    layers: list[nn.Module] = [conv_norm(3, widths[0], nn.ReLU, stride=2)]
    for (inputs, outputs), stride in zip(pairwise(widths), strides, strict=True):
        layers.append(conv_norm(inputs, inputs, nn.ReLU, stride=stride, groups=inputs))
        layers.append(conv_norm(inputs, outputs, nn.ReLU, kernel=1))
    pool = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(*layers, pool, nn.Flatten(), nn.Linear(widths[-1], CLASSES))


def torch_v2(*, reshape_head: bool = False) -> nn.Module:
    """Return MobileNetV2 with 8 to 24 channels, 10 of its 17 blocks and a 64-wide head.

    Parameters
    ----------
    reshape_head : bool
        Flatten with ``x.reshape(x.shape[0], -1)``, as torchvision did up to 0.6 and as the
        ONNX model zoo's files therefore do, instead of with ``torch.flatten``.
    """
    import torch
    from torch import nn

    class InvertedResidual(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
            super().__init__()
            hidden = inputs * expand
            layers: list[nn.Module] = []
            if expand != 1:
                layers.append(conv_norm(inputs, hidden, nn.ReLU6, kernel=1))
            layers.append(conv_norm(hidden, hidden, nn.ReLU6, stride=stride, groups=hidden))
            layers.append(conv_norm(hidden, outputs, None, kernel=1))
            self.conv = nn.Sequential(*layers)
            self.residual = stride == 1 and inputs == outputs

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.conv(x) if self.residual else self.conv(x)

    class MobileNetV2(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            features: list[nn.Module] = [conv_norm(3, 8, nn.ReLU6, stride=2)]
            width = 8
            # Expansion, channels, repeats, stride of the first.
            for expand, channels, repeats, stride in [
                (1, 8, 1, 1),
                (6, 8, 2, 2),
                (6, 8, 2, 2),
                (6, 16, 2, 2),
                (6, 16, 1, 1),
                (6, 16, 1, 2),
                (6, 24, 1, 1),
            ]:
                for index in range(repeats):
                    features.append(
                        InvertedResidual(width, channels, stride if index == 0 else 1, expand)
                    )
                    width = channels
            features.append(conv_norm(width, 64, nn.ReLU6, kernel=1))
            self.features = nn.Sequential(*features)
            self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(64, CLASSES))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1))
            x = x.reshape(x.shape[0], -1) if reshape_head else torch.flatten(x, 1)
            return self.classifier(x)

    return MobileNetV2()


def torch_v3_small() -> nn.Module:
    """Return MobileNetV3-Small with 8 to 16 channels, 6 of its 11 blocks and a 64-wide head."""
    import torch
    from torch import nn

    class SqueezeExcitation(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            squeezed = max(8, channels // 4 // 8 * 8)
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.fc1 = nn.Conv2d(channels, squeezed, 1)
            self.fc2 = nn.Conv2d(squeezed, channels, 1)
            self.activation = nn.ReLU()
            self.scale_activation = nn.Hardsigmoid()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scale = self.fc2(self.activation(self.fc1(self.avgpool(x))))
            return self.scale_activation(scale) * x

    class InvertedResidual(nn.Module):
        def __init__(
            self,
            inputs: int,
            hidden: int,
            outputs: int,
            *,
            kernel: int,
            stride: int,
            squeeze: bool,
            activation: type[nn.Module],
        ) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            if hidden != inputs:
                layers.append(conv_norm(inputs, hidden, activation, kernel=1))
            layers.append(conv_norm(hidden, hidden, activation, kernel, stride, groups=hidden))
            if squeeze:
                layers.append(SqueezeExcitation(hidden))
            layers.append(conv_norm(hidden, outputs, None, kernel=1))
            self.block = nn.Sequential(*layers)
            self.residual = stride == 1 and inputs == outputs

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.block(x) + x if self.residual else self.block(x)

    relu, swish = nn.ReLU, nn.Hardswish
    layers: list[nn.Module] = [conv_norm(3, 8, swish, stride=2)]
    for inputs, kernel, hidden, outputs, squeeze, activation, stride in [
        (8, 3, 8, 8, True, relu, 2),
        (8, 3, 40, 8, False, relu, 2),
        (8, 3, 48, 8, False, relu, 1),
        (8, 5, 48, 16, True, swish, 2),
        (16, 5, 48, 16, True, swish, 1),
        (16, 5, 64, 16, True, swish, 2),
    ]:
        layers.append(
            InvertedResidual(
                inputs,
                hidden,
                outputs,
                kernel=kernel,
                stride=stride,
                squeeze=squeeze,
                activation=activation,
            )
        )
    layers.append(conv_norm(16, 96, swish, kernel=1))
    classifier = [nn.Linear(96, 64), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(64, CLASSES)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *classifier)


def hugging_face_v1() -> nn.Module:
    """Return Hugging Face's MobileNetV1, whose padding is TensorFlow's: uneven at stride 2."""
    import torch
    from torch import nn
    from transformers import MobileNetV1Config, MobileNetV1ForImageClassification

    config = MobileNetV1Config(depth_multiplier=0.06, image_size=RESOLUTION, num_labels=CLASSES)

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = MobileNetV1ForImageClassification(config)

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            return self.model(pixel_values).logits

    return Logits()


def calibrated(make: Callable[[], nn.Module], resolution: int) -> nn.Module:
    """Return the model with seeded weights and batch-norm statistics of a forward pass."""
    import torch
    from torch import nn

    torch.manual_seed(SEED)
    model = make()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.6, 1.6)
        nn.init.uniform_(norm.bias, -0.5, 1.0)
        norm.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(torch.randn(32, 3, resolution, resolution))
    return model.eval()


def torch_exporter(
    make: Callable[[], nn.Module], opset: int, *, resolution: int = RESOLUTION, **options: Any
) -> Exporter:
    """Return a function that writes the model with ``torch.onnx.export``."""

    def export(path: Path) -> None:
        import torch

        torch.onnx.export(
            calibrated(make, resolution),
            (torch.randn(1, 3, resolution, resolution),),
            str(path),
            input_names=["input"],
            output_names=["logits"],
            opset_version=opset,
            **options,
        )

    return export


def torch_group() -> dict[str, Exporter]:
    """Return what PyTorch's two exporters write, by file name."""
    import torch

    old: dict[str, Any] = {"dynamo": False}
    old_dynamic = old | {"dynamic_axes": {"input": {0: "batch"}, "logits": {0: "batch"}}}
    old_zoo = old | {"dynamic_axes": {"input": {0: "batch_size"}, "logits": {0: "batch_size"}}}
    # Constant folding would merge batch norm into the convolutions.
    unfolded = old | {
        "training": torch.onnx.TrainingMode.PRESERVE,
        "do_constant_folding": False,
        "keep_initializers_as_inputs": True,
    }
    new: dict[str, Any] = {"dynamo": True, "external_data": False}
    new_dynamic = new | {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
    return {
        "torchscript_v1_opset17": torch_exporter(torch_v1, 17, resolution=96, **old),
        "torchscript_v1_tf_padding_opset14": torch_exporter(hugging_face_v1, 14, **old_dynamic),
        "torchscript_v2_opset9_batchnorm": torch_exporter(torch_v2, 9, **unfolded),
        "torchscript_v2_opset12_zoo": torch_exporter(
            lambda: torch_v2(reshape_head=True), 12, **old_zoo
        ),
        "torchscript_v2_opset13": torch_exporter(torch_v2, 13, **old_dynamic),
        "torchscript_v3_small_opset11": torch_exporter(torch_v3_small, 11, resolution=50, **old),
        "torchscript_v3_small_opset17": torch_exporter(torch_v3_small, 17, **old_dynamic),
        "dynamo_v1_tf_padding_opset18": torch_exporter(hugging_face_v1, 18, **new),
        "dynamo_v2_opset18": torch_exporter(torch_v2, 18, **new_dynamic),
        "dynamo_v3_small_opset21": torch_exporter(torch_v3_small, 21, **new_dynamic),
    }


# Keras ------------------------------------------------------------------------------------


def keras_model(name: str, resolution: int, **options: Any) -> Any:
    """Return a model of ``keras.applications`` with seeded weights, calibrated."""
    import keras

    keras.utils.set_random_seed(SEED)
    build = keras_v3_small if name == "MobileNetV3Small" else getattr(keras.applications, name)
    model = build(input_shape=(resolution, resolution, 3), weights=None, classes=CLASSES, **options)
    rng = np.random.default_rng(SEED)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
            channels = layer.gamma.shape[0]
            layer.gamma.assign(rng.uniform(0.6, 1.6, channels))
            layer.beta.assign(rng.uniform(-0.5, 1.0, channels))
    images = rng.normal(size=(32, resolution, resolution, 3)).astype(np.float32)
    model(images, training=True)
    # Glorot's initial weights would make the classes almost equally probable.
    last = [layer for layer in model.layers if layer.trainable_weights][-1]
    last.kernel.assign(4 * last.kernel)
    return model


def keras_v3_small(**options: Any) -> Any:
    """Return ``keras.applications``' MobileNetV3-Small with 6 of its 11 blocks, narrow.

    The public function fixes the head at 1,024 channels, too many for a small file, so
    this calls the builder behind it.
    """
    from keras.src.applications import mobilenet_v3 as keras_v3

    def stack(x: Any, kernel: int, activation: Any, se_ratio: float) -> Any:
        relu, block = keras_v3.relu, keras_v3._inverted_res_block
        x = block(x, 1, 8, 3, 2, se_ratio, relu, 0)
        x = block(x, 72 / 16, 8, 3, 2, None, relu, 1)
        x = block(x, 88 / 24, 8, 3, 1, None, relu, 2)
        x = block(x, 4, 16, kernel, 2, se_ratio, activation, 3)
        x = block(x, 3, 16, kernel, 1, se_ratio, activation, 4)
        return block(x, 4, 16, kernel, 2, se_ratio, activation, 5)

    return keras_v3.MobileNetV3(stack, last_point_ch=64, **options)


def tf2onnx_exporter(
    name: str, opset: int, *, resolution: int = RESOLUTION, **options: Any
) -> Exporter:
    """Return a function that writes the model with ``tf2onnx.convert.from_keras``."""

    def export(path: Path) -> None:
        import tensorflow as tf
        import tf2onnx

        image = tf.TensorSpec((None, resolution, resolution, 3), tf.float32, name="input")
        tf2onnx.convert.from_keras(
            keras_model(name, resolution, **options),
            input_signature=[image],
            opset=opset,
            output_path=str(path),
        )

    return export


def tflite_exporter(name: str, opset: int, **options: Any) -> Exporter:
    """Return a function that converts the model to 8-bit TFLite and from there to ONNX."""

    def export(path: Path) -> None:
        import tensorflow as tf
        import tf2onnx

        rng = np.random.default_rng(SEED)
        images = rng.normal(size=(16, 1, RESOLUTION, RESOLUTION, 3)).astype(np.float32)
        model = keras_model(name, RESOLUTION, **options)
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.uint8
        converter.inference_output_type = tf.uint8
        with tempfile.TemporaryDirectory() as folder:
            tflite = Path(folder) / "model.tflite"
            tflite.write_bytes(converter.convert())
            tf2onnx.convert.from_tflite(str(tflite), opset=opset, output_path=str(path))

    return export


def keras_group() -> dict[str, Exporter]:
    """Return what tf2onnx writes from Keras and TFLite models, by file name."""
    return {
        "tf2onnx_v1_opset9": tf2onnx_exporter("MobileNet", 9, alpha=0.1),
        "tf2onnx_v2_opset13": tf2onnx_exporter("MobileNetV2", 13, resolution=96, alpha=0.05),
        "tf2onnx_v3_small_opset17": tf2onnx_exporter("MobileNetV3Small", 17, alpha=0.05),
        "tflite_v1_int8_opset16": tflite_exporter("MobileNet", 16, alpha=0.1),
    }


# Smaller numbers --------------------------------------------------------------------------


def quantized_exporter(source: str, *, per_channel: bool, operators: bool = False) -> Exporter:
    """Return a function that writes the file ``source`` beside it as 8-bit integers.

    Parameters
    ----------
    source : str
        Name of a file of the other groups, made before.
    per_channel : bool
        One scale for each output channel of a weight, and signed activations; else one scale
        for a tensor, and unsigned activations.
    operators : bool
        Write ``QLinearConv`` and its like instead of pairs of QuantizeLinear and
        DequantizeLinear.
    """

    def export(path: Path) -> None:
        from onnxruntime import quantization as q

        rng = np.random.default_rng(SEED)

        class Images(q.CalibrationDataReader):
            def __init__(self) -> None:
                images = rng.normal(size=(16, 1, 3, RESOLUTION, RESOLUTION)).astype(np.float32)
                self.feeds = iter([{"input": image} for image in images])

            def get_next(self) -> dict[str, np.ndarray] | None:
                return next(self.feeds, None)

        q.quantize_static(
            path.with_name(f"{source}.onnx"),
            path,
            Images(),
            quant_format=q.QuantFormat.QOperator if operators else q.QuantFormat.QDQ,
            per_channel=per_channel,
            activation_type=q.QuantType.QInt8 if per_channel else q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
        )

    return export


def float16_exporter(source: str, *, keep_io_types: bool) -> Exporter:
    """Return a function that writes the file ``source`` beside it in half precision."""

    def export(path: Path) -> None:
        from onnxruntime.transformers.float16 import convert_float_to_float16

        model = onnx.load(path.with_name(f"{source}.onnx"))
        onnx.save(convert_float_to_float16(model, keep_io_types=keep_io_types), path)

    return export


def quantized_group() -> dict[str, Exporter]:
    """Return what ONNX Runtime's tools make of files of the PyTorch group, by file name."""
    v2, v3 = "torchscript_v2_opset13", "torchscript_v3_small_opset17"
    return {
        "qdq_v2_opset13": quantized_exporter(v2, per_channel=False),
        "qdq_v3_small_opset17": quantized_exporter(v3, per_channel=True),
        "qoperator_v2_opset13": quantized_exporter(v2, per_channel=False, operators=True),
        "float16_v2_opset13": float16_exporter(v2, keep_io_types=False),
        "float16_v3_small_opset17": float16_exporter(v3, keep_io_types=True),
    }


# All of them ------------------------------------------------------------------------------


def strip(model: onnx.ModelProto) -> None:
    """Remove names of the exporting machine's files and other remarks, in place."""
    del model.graph.metadata_props[:]
    model.graph.doc_string = ""
    for entry in [*model.graph.node, *model.graph.value_info, *model.graph.initializer]:
        del entry.metadata_props[:]
        entry.doc_string = ""
    for value in [*model.graph.input, *model.graph.output]:
        del value.metadata_props[:]


def check(path: Path) -> None:
    """Raise ``ValueError`` where the output does not clearly depend on the input."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(path)
    (image,) = session.get_inputs()
    shape = [size if isinstance(size, int) else 1 for size in image.shape]
    rng = np.random.default_rng(SEED)
    dtype = {"tensor(uint8)": np.uint8, "tensor(float16)": np.float16}.get(image.type, np.float32)
    scale, shift = (64, 128) if dtype == np.uint8 else (1, 0)
    first, second = (
        np.float32(session.run(None, {image.name: (scale * values + shift).astype(dtype)})[0])
        for values in rng.normal(size=(2, *shape))
    )
    if np.abs(first - second).max() < 0.1 * np.ptp(first):
        raise ValueError(f"{path.name}: the output hardly depends on the input")


def main() -> None:
    """Write one group of files, each checked in ONNX Runtime."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    groups = {"torch": torch_group, "keras": keras_group, "quantized": quantized_group}
    parser.add_argument("group", choices=groups)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "exports")
    parser.add_argument("--only", help="write only the files whose name holds this")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for name, export in groups[options.group]().items():
        if options.only and options.only not in name:
            continue
        path = options.output / f"{name}.onnx"
        export(path)
        model = onnx.load(path)
        strip(model)
        onnx.save(model, path)
        check(path)
        sys.stdout.write(f"{path.stat().st_size:8d} {path.name}\n")


if __name__ == "__main__":
    main()
