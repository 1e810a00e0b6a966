"""Fits a network to weights that have fewer channels inside its blocks, as pruning leaves them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

from mobilenet_tvm.compile.models.layers import ConvolutionSpec, LinearSpec
from mobilenet_tvm.compile.models.networks import Architecture

A = TypeVar("A", bound=Architecture)


def fit_widths(architecture: A, shapes: Mapping[str, tuple[int, ...]]) -> A:
    """Return a network with as many channels inside its blocks as some weights have.

    These are channels that a convolution with an activation makes and that only convolutions read.
    Bottlenecks, residuals, outputs and what a dense layer reads stay as they are, so that weights
    of another network still do not fit.

    Parameters
    ----------
    architecture
        The network.
    shapes
        The weight's shape of its layers, by name: outputs first. Only smaller widths count.

    Returns
    -------
    Architecture
        The same network where no shape has fewer channels.
    """
    walk = _Walk()
    for channels in architecture.evaluate(walk, _Channels(fixed=True)).values():
        channels.root.fixed = True

    def width(channels: _Channels, own: int) -> int:
        root = channels.root
        stored = shapes.get(root.maker, ())
        return min(own, stored[0]) if stored and stored[0] and not root.fixed else own

    def change(part: Any) -> Any:
        if isinstance(part, ConvolutionSpec | LinearSpec):
            read, made = walk.layers[part.name]
            inputs, outputs = width(read, part.inputs), width(made, part.outputs)
            if isinstance(part, ConvolutionSpec) and _is_depthwise(part):
                return replace(part, inputs=inputs, outputs=outputs, groups=outputs)
            return replace(part, inputs=inputs, outputs=outputs)
        if isinstance(part, tuple):
            return tuple(map(change, part))
        if is_dataclass(part) and not isinstance(part, type):
            inner = {field.name: change(getattr(part, field.name)) for field in fields(part)}
            return replace(part, **inner)
        return part

    fitted: A = change(architecture)
    return fitted


@dataclass(eq=False)
class _Channels:
    """The channels of a value, which several values and layers may have in common.

    `maker` is the layer that makes them; `joined` is set where they go along with others.
    """

    maker: str = ""
    fixed: bool = False
    joined: _Channels | None = None

    @property
    def root(self) -> _Channels:
        return self.joined.root if self.joined else self


class _Walk:
    """Notes which channels each layer reads and makes; see `Operators`."""

    def __init__(self) -> None:
        self.layers: dict[str, tuple[_Channels, _Channels]] = {}

    def convolution(self, layer: ConvolutionSpec, value: _Channels) -> _Channels:
        depthwise = _is_depthwise(layer)
        made = value if depthwise else _Channels(layer.name, layer.activation is None)
        self.layers[layer.name] = value, made
        return made

    def linear(self, layer: LinearSpec, value: _Channels) -> _Channels:
        value.root.fixed = True
        made = _Channels(layer.name, fixed=True)
        self.layers[layer.name] = value, made
        return made

    def pool(self, value: _Channels) -> _Channels:
        return value

    def flatten(self, value: _Channels) -> _Channels:
        return value

    def add(self, left: _Channels, right: _Channels) -> _Channels:
        return self.concatenate([left, right])

    def multiply(self, left: _Channels, right: _Channels) -> _Channels:
        if left.root is not right.root:
            right.root.fixed |= left.root.fixed
            left.root.joined = right.root
        return right

    def resize(self, value: _Channels, like: _Channels) -> _Channels:  # noqa: ARG002
        return self.concatenate([value])

    def rows(self, value: _Channels, columns: int) -> _Channels:  # noqa: ARG002
        return self.concatenate([value])

    def concatenate(self, values: list[_Channels]) -> _Channels:
        for value in values:
            value.root.fixed = True
        return _Channels(fixed=True)


def _is_depthwise(layer: ConvolutionSpec) -> bool:
    return layer.groups == layer.inputs == layer.outputs > 1
