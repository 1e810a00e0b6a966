"""Tensor expression stages shared by schedules: padding and the epilogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx
from tvm.te.tensor import TensorSlice

from mobilenet_tvm.schedules.workloads import CHANNEL_STEPS, TENSOR_STEPS, Workload


def epilogue_stage(
    workload: Workload,
    shape: Sequence[int],
    element: Callable[..., Any],
    name: str = "epilogue",
) -> tuple[list[te.Tensor], te.Tensor]:
    """Return the tensors that an epilogue reads, and the stage that applies all its steps.

    Parameters
    ----------
    workload : Workload
        The layer. The tensors have the type of its weights.
    shape : sequence of int
        Shape of the output, channels last.
    element : callable
        Maps the indices of an output element to its sum. The steps compute in the sum's type.
    name : str
        Name of the stage's block.
    """
    epilogue, types = workload.epilogue, workload.types
    shapes = {
        **dict.fromkeys(CHANNEL_STEPS, (shape[-1],)),
        **dict.fromkeys(TENSOR_STEPS, tuple(shape)),
    }
    operands = [
        te.placeholder(shapes[step.op], types.weights, name=f"{step.op}_{index}")
        for index, step in enumerate(epilogue)
        if step.op in shapes
    ]

    def stored(*indices: Any) -> Any:
        value = element(*indices)
        type_ = str(value.dtype if isinstance(value, TensorSlice) else value.ty)
        tensors = iter(operands)
        for step in epilogue:
            operand = None
            if step.op in shapes:
                place = indices[-1] if step.op in CHANNEL_STEPS else indices
                operand = next(tensors)[place].astype(type_)
            value = step.apply(value, operand, type_)
        return value.astype(types.result)

    return operands, te.compute(tuple(shape), stored, name=name)


def padded(data: te.Tensor, padding: Sequence[int], nchw: bool = False) -> te.Tensor:
    """Return zero-padded data; padding is top, left, bottom, right; NHWC unless `nchw`."""
    top, left, bottom, right = padding
    rows, columns = (2, 3) if nchw else (1, 2)
    shape = [int(extent) for extent in data.shape]
    height, width = shape[rows], shape[columns]
    shape[rows] += top + bottom
    shape[columns] += left + right
    if shape == [int(extent) for extent in data.shape]:
        return data

    def element(*indices: Any) -> Any:
        source = list(indices)
        source[rows] -= top
        source[columns] -= left
        inside = []
        for axis, before, after, extent in (
            (rows, top, bottom, height),
            (columns, left, right, width),
        ):
            inside += [indices[axis] >= before] if before else []
            inside += [indices[axis] < before + extent] if after else []
        return tirx.if_then_else(tirx.all(*inside), data[tuple(source)], tirx.const(0, data.dtype))

    return te.compute(tuple(shape), element, name="pad")
