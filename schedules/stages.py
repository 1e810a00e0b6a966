"""Tensor expression stages shared by schedules: padding and the epilogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx
from tvm.te.tensor import TensorSlice

from mobilenet_tvm.schedules.workloads import OPERANDS, Operand, Step, Workload


class Epilogue:
    """The steps on a layer's sums, and the tensors that they read.

    Parameters
    ----------
    workload : Workload
        The layer. The tensors have the type of its weights.
    shape : sequence of int
        Shape of the output, channels last.
    """

    def __init__(self, workload: Workload, shape: Sequence[int]) -> None:
        self._types, self._shape = workload.types, tuple(shape)
        self._steps = []
        for index, step in enumerate(workload.epilogue):
            tensors = [
                te.placeholder(
                    operand.shape(shape),
                    operand.dtype(self._types),
                    name=operand_name(step, operand, index),
                )
                for operand in OPERANDS[step.op]
            ]
            self._steps.append((step, tensors))
        #: The tensors that the steps read.
        self.operands = [tensor for _, tensors in self._steps for tensor in tensors]
        self._begun = 0

    def sum(self, product: Any, axis: Any, channel: Any, channels: int) -> Any:
        """Return a layer's sum of products, which begins with the bias if that is the first step.

        That saves an addition per output.

        Parameters
        ----------
        product : Expr
            A product.
        axis : list of IterVar
            What it is summed over.
        channel : Expr
            The sum's channel.
        channels : int
            How many there are; if more than the output has, the sum begins with zero.
        """
        first = self._steps[0] if self._steps else None
        if first is None or first[0].op != "add_channel" or channels != self._shape[-1]:
            return te.sum(product, axis=axis)
        self._begun = 1
        bias = first[1][0][channel]
        return te.comm_reducer(lambda x, y: x + y, bias.astype)(product, axis=axis)

    def stage(self, element: Callable[..., Any], name: str = "epilogue") -> te.Tensor:
        """Return the stage that applies all steps that sums did not begin with.

        Parameters
        ----------
        element : callable
            Maps the indices of an output element to its sum. The steps compute in the sum's type.
        name : str
            Name of the stage's block.
        """
        types = self._types

        def stored(*indices: Any) -> Any:
            value = element(*indices)
            for step, tensors in self._steps[self._begun :]:
                type_ = str(value.dtype if isinstance(value, TensorSlice) else value.ty)
                elements = []
                for operand, tensor in zip(OPERANDS[step.op], tensors, strict=True):
                    if operand.extent == "tensor":
                        elements.append(tensor[indices])
                    elif operand.extent == "channel":
                        elements.append(tensor[indices[-1]])
                    else:
                        elements.append(tensor)
                if not types.integer:
                    elements = [element.astype(type_) for element in elements]
                value = step.apply(value, elements, type_)
            return value.astype(types.result)

        return te.compute(self._shape, stored, name=name)


def epilogue_stage(
    workload: Workload,
    shape: Sequence[int],
    element: Callable[..., Any],
    name: str = "epilogue",
) -> tuple[list[te.Tensor], te.Tensor]:
    """Return the tensors that an epilogue reads, and the stage that applies all its steps.

    Parameters are those of `Epilogue` and its `stage`.
    """
    epilogue = Epilogue(workload, shape)
    return epilogue.operands, epilogue.stage(element, name)


def operand_name(step: Step, operand: Operand, index: int) -> str:
    """Return the name of the parameter for an operand of the step at some index."""
    numbers = "" if isinstance(operand.extent, str) else "_numbers"
    return f"{step.op}{numbers}_{index}"


def is_per_channel(parameter: str) -> bool:
    """Return whether a parameter, by its name, is an operand with a value per channel."""
    operands = OPERANDS.get(parameter.rpartition("_")[0], ())
    return any(operand.extent == "channel" for operand in operands)


def padded(
    data: te.Tensor,
    padding: Sequence[int],
    nchw: bool = False,
    outside: Any = None,
    dtype: str | None = None,
) -> te.Tensor:
    """Return padded data of a type, its own by default.

    Parameters
    ----------
    data : te.Tensor
        Pictures.
    padding : sequence of int
        Top, left, bottom, right.
    nchw : bool
        The layout of the data; otherwise NHWC.
    outside : Expr, optional
        The value of the padding; by default zero.
    dtype : str, optional
        The type of the result.
    """
    top, left, bottom, right = padding
    rows, columns = (2, 3) if nchw else (1, 2)
    shape = [int(extent) for extent in data.shape]
    height, width = shape[rows], shape[columns]
    shape[rows] += top + bottom
    shape[columns] += left + right
    dtype = dtype or data.dtype
    if shape == [int(extent) for extent in data.shape] and dtype == data.dtype:
        return data
    if outside is None:
        outside = tirx.const(0, dtype)

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
        value = data[tuple(source)].astype(dtype)
        if not inside:
            return value
        return tirx.if_then_else(tirx.all(*inside), value, outside)

    return te.compute(tuple(shape), element, name="pad")
