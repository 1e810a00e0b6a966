"""Random weights for a network, by a seed, that keep activations in a realistic range."""

import math

import numpy as np
from numpy.typing import NDArray

from mobilenet_tvm.compile.models.layers import Activation, ConvolutionSpec, LinearSpec
from mobilenet_tvm.compile.models.networks import Architecture

_Values = NDArray[np.float64]

# Pixels that take about a second: three large images or many small ones.
_LARGEST_RESOLUTION = 224
_PIXELS = 3 * _LARGEST_RESOLUTION**2

# Means of the scales and shifts of batch norms. With a mean of 0 half of each
# activation would be zero, and rounding errors would grow tenfold in V2.
_SCALE, _SHIFT = 2.0, 1.0

# Fewer values than this do not tell the variance of their channel.
_MIN_VALUES = 100


def random_weights(
    architecture: Architecture, resolution: int, seed: int
) -> dict[str, NDArray[np.float32]]:
    """Draw He-initialised weights and measure the batch norms' statistics.

    The mean and variance of each batch norm are those of a forward pass of
    normally distributed images, so that activations neither vanish nor grow
    from layer to layer, and the classifier is centred on these images, so that
    logits differ from image to image. Scales and shifts of batch norms are
    random, so that a mistake in folding them shows, and large enough for
    activations beyond both ends of the ranges of ReLU6 and hard-swish, so that
    a mistake there shows as well.

    Parameters
    ----------
    architecture
        The network.
    resolution
        Height and width in pixels of the network's input; the share of padding,
        and so the statistics, depend on it.
    seed
        Seed of the random numbers, 0 or more.

    Returns
    -------
    dict
        float32 arrays by parameter name, the same on every machine.

    References
    ----------
    He and others 2015 (arXiv 1502.01852), section 2.2.
    """
    calibration = _Calibration(seed)
    side = min(resolution, _LARGEST_RESOLUTION)
    images = calibration.random.standard_normal((_PIXELS // side**2, side, side, 3))
    architecture.evaluate(calibration, images)
    return {name: calibration.parameters[name] for name in architecture.parameter_shapes}


class _Calibration:
    """Draws the parameters of each layer as a value reaches it, and computes its output.

    Values are NHWC in float64: the remaining rounding errors vanish when the
    statistics are rounded, so that every BLAS gives the same parameters.
    """

    def __init__(self, seed: int) -> None:
        self.random = np.random.Generator(np.random.PCG64(seed))
        self.parameters: dict[str, NDArray[np.float32]] = {}

    def convolution(self, layer: ConvolutionSpec, value: _Values) -> _Values:
        weight = self._weight(layer)
        value = _convolve(value, weight, layer)
        if layer.norm:
            scale = self._near(_SCALE, f"{layer.norm}.weight", layer.outputs)
            shift = self._near(_SHIFT, f"{layer.norm}.bias", layer.outputs)
            mean = self._statistic(f"{layer.norm}.running_mean", value.mean(axis=(0, 1, 2)))
            variance = self._statistic(f"{layer.norm}.running_var", _variance(value))
            value -= mean
            value *= scale / np.sqrt(variance + layer.epsilon)
            value += shift
        elif layer.bias:
            value += self._near(0.0, f"{layer.name}.bias", layer.outputs)
        return _activate(value, layer.activation)

    def linear(self, layer: LinearSpec, value: _Values) -> _Values:
        # The means of images over all pixels differ little: scale them to unit variance.
        weight = self._weight(layer)
        centred = (value - value.mean(axis=0)) @ weight.T
        scaled = (weight / _rounded(centred.std())).astype(np.float32)
        self.parameters[f"{layer.name}.weight"] = scaled
        value = value @ scaled.T.astype(np.float64)
        shift = self._near(0.0, f"{layer.name}.bias", layer.outputs)
        bias = self._statistic(f"{layer.name}.bias", shift - value.mean(axis=0))
        return _activate(value + bias, layer.activation)

    def pool(self, value: _Values) -> _Values:
        means: _Values = value.mean(axis=(1, 2), keepdims=True)
        return means

    def flatten(self, value: _Values) -> _Values:
        return value.reshape(len(value), -1)

    def add(self, left: _Values, right: _Values) -> _Values:
        return left + right

    def multiply(self, left: _Values, right: _Values) -> _Values:
        return left * right

    def resize(self, value: _Values, like: _Values) -> _Values:
        matrix = _interpolation(value.shape[1], like.shape[1])
        resized: _Values = np.einsum("yh,xw,bhwc->byxc", matrix, matrix, value, optimize=True)
        return resized

    def rows(self, value: _Values, columns: int) -> _Values:
        return value.reshape(len(value), -1, columns)

    def concatenate(self, values: list[_Values]) -> _Values:
        return np.concatenate(values, axis=1)

    def _weight(self, layer: ConvolutionSpec | LinearSpec) -> _Values:
        shape = layer.weight_shape
        deviation = math.sqrt(2 / math.prod(shape[1:]))
        return self._keep(f"{layer.name}.weight", deviation * self.random.standard_normal(shape))

    def _near(self, centre: float, name: str, count: int) -> _Values:
        return self._keep(name, centre + 0.1 * self.random.standard_normal(count))

    def _statistic(self, name: str, value: _Values) -> _Values:
        return self._keep(name, _rounded(value))

    def _keep(self, name: str, value: _Values) -> _Values:
        """Store as float32, and return exactly what was stored."""
        stored = value.astype(np.float32)
        self.parameters[name] = stored
        return stored.astype(np.float64)


def _rounded(value: _Values) -> _Values:
    """Keep 12 bits of the mantissa, so that results of another BLAS round to the same number."""
    mantissa, exponent = np.frexp(value)
    return np.ldexp(np.round(mantissa * 4096) / 4096, exponent)


def _variance(value: _Values) -> _Values:
    """Return each channel's variance, or the mean of all where each has few values."""
    variance: _Values = value.var(axis=(0, 1, 2))
    if value.size < _MIN_VALUES * len(variance):
        variance[:] = variance.mean()
    return variance


def _convolve(value: _Values, weight: _Values, layer: ConvolutionSpec) -> _Values:
    """Sum the products of shifted images and the weights over the kernel's positions."""
    pad, stride = layer.padding, layer.stride
    side = layer.output_side(value.shape[1])
    padded = np.pad(value, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    total = np.zeros((len(value), side, side, layer.outputs))
    reach = stride * (side - 1) + 1
    for y in range(layer.kernel):
        for x in range(layer.kernel):
            top, left = y * layer.dilation, x * layer.dilation
            shifted = padded[:, top : top + reach : stride, left : left + reach : stride]
            tap = weight[:, :, y, x]
            if layer.groups > 1:
                total += shifted * tap[:, 0]
            else:
                total += (shifted.reshape(-1, layer.inputs) @ tap.T).reshape(total.shape)
    return total


def _interpolation(inputs: int, outputs: int) -> _Values:
    """Return the weights [outputs, inputs] of linear interpolation between pixels' centres."""
    centres = np.clip((np.arange(outputs) + 0.5) * inputs / outputs - 0.5, 0, inputs - 1)
    weights: _Values = np.maximum(0, 1 - abs(centres[:, None] - np.arange(inputs)))
    return weights


def _sigmoid(value: _Values) -> _Values:
    gate: _Values = 1 / (1 + np.exp(-value))
    return gate


def _activate(value: _Values, activation: Activation | None) -> _Values:
    match activation:
        case "relu":
            return np.maximum(value, 0)
        case "relu6":
            return np.clip(value, 0, 6)
        case "sigmoid":
            return _sigmoid(value)
        case "silu":
            return value * _sigmoid(value)
        case "hard_sigmoid":
            return np.clip(value / 6 + 0.5, 0, 1)
        case "hard_swish":
            return value * np.clip(value / 6 + 0.5, 0, 1)
        case None:
            return value
