"""Heads of layers: the calls that begin a layer, and the workloads that they compute.

To add a kind of layer, add an entry to `HEADS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tvm import relax

from mobilenet_tvm.compile.passes.values import Array, constant_value, op_name, shape_of
from mobilenet_tvm.schedules.workloads import (
    Convolution,
    Depthwise,
    GlobalPool,
    Pointwise,
    Types,
    Window,
    WindowPool,
    Workload,
)

#: Types of the values that layers compute.
DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class Head:
    """The first operator of a layer, in NHWC.

    Parameters
    ----------
    takes : callable
        Whether a call is such an operator.
    describe : callable
        Returns its workload, without an epilogue.
    weights : callable
        Returns its weights, of the shapes given by the workload's `weights`.
    """

    takes: Callable[[relax.Call], bool]
    describe: Callable[[relax.Call], Workload]
    weights: Callable[[relax.Call], list[Array]]


def head_of(value: relax.Expr) -> Head | None:
    """Return the head of the layer that a bound value begins, if it begins one."""
    if not isinstance(value, relax.Call) or not isinstance(value.ty, relax.TensorType):
        return None
    if str(value.ty.dtype) not in (*DTYPES, "int32"):
        return None
    return next((head for head in HEADS if head.takes(value)), None)


def _is_global_pool(call: relax.Call) -> bool:
    if str(call.ty.dtype) not in DTYPES:
        return False
    if op_name(call) == "nn.avg_pool2d" and str(call.attrs.layout) == "NHWC":
        whole = Window(_pool_size(call))
        return _window(call, whole.kernel) == whole and whole.kernel == shape_of(call.args[0])[1:3]
    if op_name(call) != "mean":
        return False
    axes = [int(axis) for axis in call.attrs.axis or ()]
    return len(shape_of(call.args[0])) == 4 and axes == [1, 2]


def _global_pool(call: relax.Call) -> Workload:
    batch, height, width, channels = shape_of(call.args[0])
    types = GlobalPool.usual(str(call.args[0].ty.dtype))
    return GlobalPool(batch, height * width, channels, types=types)


def _is_window_pool(call: relax.Call) -> bool:
    """Return whether a call is an NHWC pooling whose windows end in its padding at the latest."""
    if op_name(call) not in ("nn.max_pool2d", "nn.avg_pool2d") or str(call.attrs.layout) != "NHWC":
        return False
    if str(call.ty.dtype) not in DTYPES:
        return False
    return _window_pool(call).output_shape == shape_of(call)


def _window_pool(call: relax.Call) -> WindowPool:
    batch, height, width, channels = shape_of(call.args[0])
    window = _window(call, _pool_size(call))
    kind = "max" if "max" in op_name(call) else "mean"
    if kind == "mean" and any(window.padding) and not call.attrs.count_include_pad:
        kind = "mean_inside"
    if kind == "max":
        # Rounded up, the last windows may end behind the padding.
        top, left, bottom, right = window.padding
        ends = window.inputs(*shape_of(call)[1:3])
        bottom, right = max(bottom, ends[0] - height - top), max(right, ends[1] - width - left)
        window = replace(window, padding=(top, left, bottom, right))
    types = WindowPool.usual(str(call.args[0].ty.dtype))
    return WindowPool(kind, batch, height, width, channels, window, types=types)


def _pool_size(call: relax.Call) -> tuple[int, int]:
    height, width = (int(extent) for extent in call.attrs.pool_size)
    return height, width


def _is_dense(call: relax.Call) -> bool:
    if op_name(call) != "matmul" or constant_value(call.args[1]) is None:
        return False
    return len(shape_of(call.args[0])) == len(shape_of(call.args[1])) == 2


def _dense(call: relax.Call) -> Workload:
    pixels, inputs = shape_of(call.args[0])
    outputs = shape_of(call.args[1])[1]
    return Pointwise(pixels, inputs, outputs, types=_types(call, Pointwise.usual))


def _is_convolution(call: relax.Call) -> bool:
    """Return whether a call is an NHWC convolution with constant weights."""
    if op_name(call) != "nn.conv2d" or constant_value(call.args[1]) is None:
        return False
    return str(call.attrs.data_layout) == "NHWC"


def _is_pointwise(call: relax.Call) -> bool:
    """Return whether a call is a 1x1 convolution with stride 1 and no padding."""
    if not _is_convolution(call) or int(call.attrs.groups) != 1:
        return False
    return _window(call, _kernel(call)) == Window((1, 1))


def _pointwise(call: relax.Call) -> Workload:
    batch, height, width, inputs = shape_of(call.args[0])
    outputs = shape_of(call.args[1])[3]
    return Pointwise(batch * height * width, inputs, outputs, types=_types(call, Pointwise.usual))


def _is_depthwise(call: relax.Call) -> bool:
    if not _is_convolution(call):
        return False
    groups = int(call.attrs.groups)
    return 1 < groups == shape_of(call.args[0])[3] == shape_of(call.args[1])[3]


def _depthwise(call: relax.Call) -> Workload:
    batch, height, width, channels = shape_of(call.args[0])
    types = _types(call, Depthwise.usual)
    return Depthwise(batch, height, width, channels, _window(call, _kernel(call)), types=types)


def _convolution(call: relax.Call) -> Workload:
    batch, height, width, inputs = shape_of(call.args[0])
    outputs = shape_of(call.args[1])[3]
    types = _types(call, Convolution.usual)
    sizes = batch, height, width, inputs, outputs
    window = _window(call, _kernel(call))
    found = Convolution(*sizes, window, types=types, groups=int(call.attrs.groups))
    return found if types.integer else found.in_type(types.weights)


def _kernel(call: relax.Call) -> tuple[int, int]:
    height, width = shape_of(call.args[1])[:2]
    return height, width


def _window(call: relax.Call, kernel: tuple[int, int]) -> Window:
    down, across = (int(stride) for stride in call.attrs.strides)
    top, left, bottom, right = (int(extent) for extent in call.attrs.padding)
    below, beside = (int(step) for step in call.attrs.dilation)
    padding = (top, left, bottom, right)
    return Window(kernel, (down, across), padding, (below, beside))


def _types(call: relax.Call, usual: Callable[[str], Types]) -> Types:
    """Return the types of a product: integers are summed in 32 bits."""
    data, weights, sums = (str(value.ty.dtype) for value in (*call.args[:2], call))
    return Types(data, weights, sums, sums) if sums == "int32" else usual(data)


def _weight(call: relax.Call) -> Array:
    weight = constant_value(call.args[1])
    assert weight is not None  # noqa: S101
    return weight


HEADS = (
    Head(_is_global_pool, _global_pool, lambda _: []),
    Head(_is_window_pool, _window_pool, lambda _: []),
    Head(_is_dense, _dense, lambda call: [_weight(call)]),
    Head(_is_pointwise, _pointwise, lambda call: [_weight(call)[0, 0]]),
    Head(_is_depthwise, _depthwise, lambda call: [_weight(call)[:, :, 0]]),
    Head(_is_convolution, _convolution, lambda call: [_weight(call)]),
)
