"""What all compiled models have in common: they take and return NumPy arrays."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mobilenet_tvm.runtime.metadata import Metadata, TensorInfo
from mobilenet_tvm.targets.errors import UserError

Array = np.ndarray[Any, np.dtype[Any]]

#: TVM's kAllocAlignment: bytes to which generated code takes every tensor to be aligned.
ALIGNMENT = 64


class BaseModel(ABC):
    """A compiled model, wherever it runs.

    Attributes
    ----------
    metadata : Metadata
        The artifact's.
    inputs, outputs : tuple of TensorInfo
        Names, shapes and dtypes.
    threads : int
        How many threads work on one call; 1 on a GPU.
    """

    def __init__(self, metadata: Metadata, threads: int) -> None:
        self.metadata = metadata
        self.inputs = metadata.inputs
        self.outputs = metadata.outputs
        self.threads = threads
        self._dtypes = [np.dtype(info.dtype) for info in self.inputs]

    def __repr__(self) -> str:
        """Return model, target, inputs, outputs, and threads or device, in one line."""
        inputs, outputs = (", ".join(map(str, infos)) for infos in (self.inputs, self.outputs))
        return (
            f"<{type(self).__name__} {self.metadata.model} for {self.metadata.target['name']}: "
            f"{inputs} -> {outputs}, {self._place()}>"
        )

    def __call__(self, /, *arrays: ArrayLike, **named: ArrayLike) -> Any:
        """Run the model.

        Parameters
        ----------
        *arrays : array_like
            Inputs in the order of `inputs`, with the shapes and dtypes given there. An array
            that is contiguous, writeable and aligned to 64 bytes is not copied.
        **named : array_like
            Inputs by name, after those given by position.

        Returns
        -------
        ndarray or dict of str to ndarray
            The output, or several outputs by name, in the order of `outputs`. Each array has
            memory of its own, which is read-only with NumPy before 2.2.

        Raises
        ------
        UserError
            If an input is missing, unknown, or of another shape or dtype.
        """
        given: Sequence[ArrayLike] = arrays
        if named or len(arrays) != len(self.inputs):
            given = self._order(arrays, named)
        results = self._compute(
            [
                _prepare(array, info, dtype)
                for array, info, dtype in zip(given, self.inputs, self._dtypes, strict=True)
            ]
        )
        if len(self.outputs) == 1:
            return results[0]
        return {info.name: array for info, array in zip(self.outputs, results, strict=True)}

    @abstractmethod
    def _compute(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """Return the outputs for inputs that are aligned and contiguous."""

    @abstractmethod
    def _place(self) -> str:
        """Return the threads or device that compute the model, for `repr`."""

    def _order(self, arrays: tuple[ArrayLike, ...], named: dict[str, ArrayLike]) -> list[ArrayLike]:
        """Put inputs given by position and by name into the model's order."""
        names = [info.name for info in self.inputs]
        if len(arrays) > len(names):
            raise UserError(f"{len(arrays)} inputs given, but the model takes {_list(self.inputs)}")
        given = dict(zip(names, arrays, strict=False))
        for name in named:
            if name not in names:
                raise UserError(f"no input named '{name}'; the model takes {_list(self.inputs)}")
            if name in given:
                raise UserError(f"input '{name}' given both by position and by name; give it once")
        given |= named
        missing = [info for info in self.inputs if info.name not in given]
        if missing:
            raise UserError(f"missing input: {_list(missing)}")
        return [given[name] for name in names]


def _prepare(value: ArrayLike, info: TensorInfo, dtype: np.dtype[Any]) -> Array:
    """Return an input aligned and contiguous: the same array where it already is."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise UserError(f"the model takes {info}, but was given no array ({error})") from None
    # The other byte order counts as the same type; the copy below converts it.
    if array.shape != info.shape or array.dtype.newbyteorder("=") != dtype:
        given = f"{array.dtype}[{','.join(map(str, array.shape))}]"
        raise UserError(f"the model takes {info}, but was given {given}; convert the array")
    if (
        array.dtype.isnative
        and array.flags.c_contiguous
        and array.flags.writeable
        and array.__array_interface__["data"][0] % ALIGNMENT == 0
    ):
        return array
    aligned = empty_aligned(info)
    np.copyto(aligned, array)
    return aligned


def empty_aligned(info: TensorInfo) -> Array:
    """Return an uninitialised array for an input, which a model takes without a copy."""
    dtype = np.dtype(info.dtype)
    size = math.prod(info.shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.__array_interface__["data"][0] % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(info.shape)


def _list(tensors: Sequence[TensorInfo]) -> str:
    return ", ".join(map(str, tensors)) or "no input"
