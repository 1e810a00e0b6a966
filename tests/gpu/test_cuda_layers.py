"""CUDA kernels as TVM writes them, on the CPU: sizes at the edges, both types."""

from __future__ import annotations

import pytest
from gpu_layers import CONVOLUTIONS, GATED, H100, check
from numpy_layers import BIAS, CLIP

from mobilenet_tvm.schedules.gpu import shared_pointwise
from mobilenet_tvm.schedules.workloads import (
    Convolution,
    Depthwise,
    DepthwisePointwise,
    GlobalPool,
    Pointwise,
    Step,
    Types,
    Window,
    Workload,
    parse,
)

THREE, FIVE = ((3, 3), (1, 1), (1, 1, 1, 1)), ((5, 5), (2, 2), (2, 2, 2, 2))

LAYERS: list[Workload] = [
    Depthwise(2, 7, 7, 24, Window(*THREE), (BIAS, CLIP)),
    Depthwise(1, 5, 9, 8, Window(*FIVE), (BIAS, Step("hard_swish"))),  # not square
    Depthwise(1, 8, 6, 7, Window(*THREE)),  # no whole vector of channels
    Depthwise(1, 10, 12, 20, Window((3, 3), (2, 2), (0, 0, 1, 1)), (BIAS,)),  # TensorFlow's padding
    Depthwise(1, 1, 1, 16, Window(*FIVE)),  # one pixel
    Convolution(2, 15, 17, 3, 8, Window((3, 3), (2, 2), (0, 0, 1, 1)), True, (BIAS, CLIP)),
    Convolution(1, 9, 9, 1, 5, Window(*THREE), epilogue=(BIAS,)),  # grey, no whole vector
    GlobalPool(2, 13, 6, (BIAS, Step("sigmoid"))),
    GlobalPool(1, 49, 64),
    DepthwisePointwise(
        Depthwise(1, 6, 4, 7, Window(*THREE), (BIAS, CLIP)), 16, (BIAS, Step("add"))
    ),
    DepthwisePointwise(Depthwise(2, 7, 7, 16, Window(*FIVE), (BIAS,)), 11, (BIAS,)),
    Pointwise(1, 40, 16, (BIAS,)),  # dense
    Pointwise(13, 6, 11, (BIAS, Step("add"))),
    Pointwise(2, 5, 1),
    *GATED,
]


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float16", marks=pytest.mark.full)])
@pytest.mark.parametrize("workload", LAYERS, ids=str)
@pytest.mark.usefixtures("gcc")
def test_layers_by_default(workload: Workload, dtype: str) -> None:
    check(workload.in_type(dtype), target=H100)


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("text", CONVOLUTIONS)
@pytest.mark.usefixtures("gcc")
def test_convolutions_by_default(text: str, dtype: str) -> None:
    check(parse(text).in_type(dtype), target=H100)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.usefixtures("gcc")
def test_inputs_shared_out_among_threads(dtype: str) -> None:
    # More threads than a warp has, so that what they leave in shared memory needs barriers.
    workload = Pointwise(15, 16, 48, (BIAS, CLIP), Types.of(dtype))
    check(workload, shared_pointwise.Decision(1, 16, 8, 4, 4, 1), H100)
