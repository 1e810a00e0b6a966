"""Workloads: what a layer computes, independent of how; the key of decisions and tuning logs."""

from mobilenet_tvm.schedules.workloads.base import OPERATORS, Workload, parse
from mobilenet_tvm.schedules.workloads.convolution import Convolution
from mobilenet_tvm.schedules.workloads.depthwise import Depthwise
from mobilenet_tvm.schedules.workloads.dtypes import FLOAT32, Types, size_of
from mobilenet_tvm.schedules.workloads.epilogue import (
    OPERANDS,
    TENSOR_STEPS,
    Epilogue,
    Operand,
    Step,
    quantization_bounds,
)
from mobilenet_tvm.schedules.workloads.fused import Block, DepthwisePointwise, PointwiseDepthwise
from mobilenet_tvm.schedules.workloads.pointwise import Pointwise
from mobilenet_tvm.schedules.workloads.pooling import GlobalPool
from mobilenet_tvm.schedules.workloads.window import Window
from mobilenet_tvm.schedules.workloads.window_pooling import WindowPool

__all__ = [
    "FLOAT32",
    "OPERANDS",
    "OPERATORS",
    "TENSOR_STEPS",
    "Block",
    "Convolution",
    "Depthwise",
    "DepthwisePointwise",
    "Epilogue",
    "GlobalPool",
    "Operand",
    "Pointwise",
    "PointwiseDepthwise",
    "Step",
    "Types",
    "Window",
    "WindowPool",
    "Workload",
    "parse",
    "quantization_bounds",
    "size_of",
]
