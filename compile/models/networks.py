"""The kinds of networks: for classes of images, for boxes in them, for classes of pixels."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeVar

from mobilenet_tvm.compile.models.layers import BlockSpec, ConvolutionSpec, LinearSpec, Operators

T = TypeVar("T")


class Architecture(ABC):
    """A network for images."""

    @abstractmethod
    def evaluate(self, operators: Operators[T], image: T) -> dict[str, T]:
        """Send an image through the network; `operators` decides what its layers do.

        Parameters
        ----------
        operators
            Meaning of each layer: a node in a graph, or a calculation.
        image
            The image, or what represents it.

        Returns
        -------
        dict
            The network's outputs, or what represents them, by their names.
        """

    @property
    def layers(self) -> list[ConvolutionSpec | LinearSpec]:
        """All layers that have parameters, in the order of execution."""
        found = _Layers()
        self.evaluate(found, None)
        return found.list

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter and running statistic by its name, in the order of execution."""
        return {k: v for layer in self.layers for k, v in layer.parameter_shapes.items()}


class _Layers:
    """Lists the layers that a value meets; the values are None."""

    def __init__(self) -> None:
        self.list: list[ConvolutionSpec | LinearSpec] = []

    def convolution(self, layer: ConvolutionSpec, value: None) -> None:  # noqa: ARG002
        self.list.append(layer)

    def linear(self, layer: LinearSpec, value: None) -> None:  # noqa: ARG002
        self.list.append(layer)

    def pool(self, value: None) -> None: ...

    def flatten(self, value: None) -> None: ...

    def add(self, left: None, right: None) -> None: ...

    def multiply(self, left: None, right: None) -> None: ...

    def resize(self, value: None, like: None) -> None: ...

    def rows(self, value: None, columns: int) -> None: ...

    def concatenate(self, values: list[None]) -> None: ...


@dataclass(frozen=True)
class Classifier(Architecture):
    """Stem, blocks, head, global average pool, `hidden` at one pixel, classifier.

    The output is `logits` [batch, classes]. `timm_only` is whether the layers
    have timm's names since torchvision has no such network.
    """

    stem: ConvolutionSpec
    blocks: tuple[BlockSpec, ...]
    head: ConvolutionSpec | None
    classifier: tuple[LinearSpec, ...]
    hidden: ConvolutionSpec | None = None
    timm_only: bool = False

    def evaluate(self, operators: Operators[T], image: T) -> dict[str, T]:
        """See `Architecture`."""
        value = operators.convolution(self.stem, image)
        for block in self.blocks:
            value = block.evaluate(operators, value)
        if self.head:
            value = operators.convolution(self.head, value)
        value = operators.pool(value)
        if self.hidden:
            value = operators.convolution(self.hidden, value)
        value = operators.flatten(value)
        for linear in self.classifier:
            value = operators.linear(linear, value)
        return {"logits": value}


@dataclass(frozen=True)
class Detector(Architecture):
    """A single-shot detector: the map after each stage has a head for boxes, one for classes.

    The outputs are those before post-processing, with a row for each anchor,
    map after map, pixel after pixel: `bbox_regression` [batch, anchors, 4] and
    `cls_logits` [batch, anchors, classes].
    """

    stages: tuple[tuple[BlockSpec, ...], ...]
    box_heads: tuple[BlockSpec, ...]
    class_heads: tuple[BlockSpec, ...]
    classes: int

    def evaluate(self, operators: Operators[T], image: T) -> dict[str, T]:
        """See `Architecture`."""
        maps = []
        for stage in self.stages:
            for block in stage:
                image = block.evaluate(operators, image)
            maps.append(image)

        def predictions(heads: tuple[BlockSpec, ...], columns: int) -> T:
            return operators.concatenate(
                [
                    operators.rows(head.evaluate(operators, value), columns)
                    for head, value in zip(heads, maps, strict=True)
                ]
            )

        return {
            "bbox_regression": predictions(self.box_heads, 4),
            "cls_logits": predictions(self.class_heads, self.classes),
        }


@dataclass(frozen=True)
class Segmenter(Architecture):
    """Lite R-ASPP: `branch`, scaled by `gate`, of the map after `high` joins that after `low`.

    The output is `out` [batch, classes, height, width], of the image's size.
    """

    low: tuple[BlockSpec, ...]
    high: tuple[BlockSpec, ...]
    branch: ConvolutionSpec
    gate: ConvolutionSpec
    low_classifier: ConvolutionSpec
    high_classifier: ConvolutionSpec

    def evaluate(self, operators: Operators[T], image: T) -> dict[str, T]:
        """See `Architecture`."""
        low = image
        for block in self.low:
            low = block.evaluate(operators, low)
        high = low
        for block in self.high:
            high = block.evaluate(operators, high)
        branch = operators.convolution(self.branch, high)
        gate = operators.convolution(self.gate, operators.pool(high))
        high = operators.resize(operators.multiply(branch, gate), low)
        low = operators.convolution(self.low_classifier, low)
        high = operators.convolution(self.high_classifier, high)
        return {"out": operators.resize(operators.add(low, high), image)}
