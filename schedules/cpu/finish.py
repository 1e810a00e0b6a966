"""The epilogue of emitted layers: steps on vectors of sums, rounding, tables and stores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812

from mobilenet_tvm.schedules.cpu.dot.base import Dot, Vectors
from mobilenet_tvm.schedules.cpu.dot.lookup import lookup, lookup_width
from mobilenet_tvm.schedules.cpu.emit import either, load, load_some, parameter, repeated, store
from mobilenet_tvm.schedules.stages import operand_name
from mobilenet_tvm.schedules.workloads import OPERANDS, Step, Workload
from mobilenet_tvm.schedules.workloads.dtypes import vector_type
from mobilenet_tvm.schedules.workloads.epilogue import ROUNDING, spread
from mobilenet_tvm.targets.target import Target


class Finish:
    """The epilogue of a layer: its operands' parameters, and its steps on vectors of sums.

    Parameters
    ----------
    workload : Workload
        The layer.
    target : Target
        The machine.
    outputs : int
        Channels of the result.
    padded : int
        Values of the operands that have one per channel: `outputs`, rounded up.
    size : int
        Elements of the result; 0 if it is no parameter, but a tensor that `into` names.
    interleaved : bool
        Whether the lanes of vectors of sums are in the order of `Dot.order`.
    """

    def __init__(
        self,
        workload: Workload,
        target: Target,
        outputs: int,
        padded: int,
        size: int,
        interleaved: bool,
    ) -> None:
        self._target, self._interleaved = target, interleaved
        self._types, self.outputs = workload.types, outputs
        self._steps = []
        for index, step in enumerate(workload.epilogue):
            buffers = []
            for operand in OPERANDS[step.op]:
                shape = {"channel": padded, "tensor": size}.get(str(operand.extent), operand.extent)
                dtype = operand.dtype(self._types)
                buffers.append(parameter(operand_name(step, operand, index), int(shape), dtype))
            self._steps.append((step, buffers))
        self.result = parameter("result", size, self._types.result) if size else None
        self._bias = self._table = None
        if self._steps and self._steps[0][0].op == "add_channel":
            (self._bias,) = self._steps.pop(0)[1]
        if self._steps and self._steps[-1][0].op == "lookup":
            (self._table,) = self._steps.pop()[1]
        self._rounds, self._numbers = False, None
        if self._steps and self._steps[-1][0].op in ROUNDING:
            self._rounds, self._numbers = True, self._bounds(*self._steps[-1])

    def into(self, result: Any) -> Finish:
        """Return the same epilogue for another result."""
        other = copy(self)
        other.result = result
        return other

    @staticmethod
    def _bounds(step: Step, buffers: list[Any]) -> list[Any]:
        """Return the last numbers of a rounding step, which are those of `quantization_bounds`."""
        count = int(OPERANDS[step.op][-1].extent)
        return [buffers[-1][i] for i in range(count - 3, count)]

    def start(self, lanes: int, channel: Any, copies: int = 1) -> Any:
        """Return a vector of sums before any product: the bias; arguments as of `apply`."""
        sums = vector_type(self._types.sums, lanes)
        if self._bias is not None:
            bias = repeated(load(self._bias, channel, lanes // copies), copies, lanes)
            return bias.astype(sums)
        return spread(tirx.const(0, self._types.sums), sums)

    def apply(
        self,
        lanes: int,
        sums: Any,
        channel: Any,
        tensor: Callable[[Any], Any],
        copies: int = 1,
    ) -> Any:
        """Return what the steps make of a vector of sums, up to the last rounding.

        Parameters
        ----------
        lanes : int
            Length of the vector.
        sums : Expr
            They began with `start`.
        channel : Expr
            Where the vector's part of an operand with a value per channel begins.
        tensor : callable
            Returns the vector's part of a tensor of the result's shape.
        copies : int
            How often the same channels are in the vector.
        """
        value = sums
        for number, (step, buffers) in enumerate(self._steps):
            elements = []
            for operand, buffer in zip(OPERANDS[step.op], buffers, strict=True):
                if operand.extent == "tensor":
                    elements.append(tensor(buffer))
                elif operand.extent == "channel":
                    values = load(buffer, channel, lanes // copies)
                    elements.append(repeated(values, copies, lanes))
                else:
                    elements.append(buffer)
            if not self._types.integer:
                elements = [element.astype(str(value.ty)) for element in elements]
            if self._rounds and number == len(self._steps) - 1:
                return step.scaled(value, elements, str(value.ty))
            value = step.apply(value, elements, str(value.ty))
        return value

    def store(
        self, dot: Dot, rows: list[list[Any]], whole: Any, places: list[Any], stride: int
    ) -> None:
        """Emit the rounding, the lookup and the store of rows of neighbouring outputs.

        Parameters
        ----------
        dot : Dot
            The instruction set.
        rows : list of list of Expr
            What `apply` returned, for each row and vector.
        whole : int or Expr
            The number of outputs of a row that exist, or whether all do; else the last ones of the
            layer do not.
        places : list of Expr
            Where the first row begins in the result; several, if it is in pieces.
        stride : int
            From a row to the next.
        """
        size = len(rows[0]) * dot.lanes // len(places)
        if self._rounds:
            narrow = dot.narrow(rows, self._numbers, self._types.result, self._interleaved)
        else:
            narrow = [self._natural(dot, row) for row in rows]

        def emit(count: int) -> None:
            for number, place in enumerate(places):
                for row, values in enumerate(narrow):
                    piece = values
                    if len(places) > 1:
                        piece = tirx.Shuffle(
                            [values], list(range(number * size, (number + 1) * size))
                        )
                    store(self.result, place + row * stride, piece, size, count)
                self._look_up(len(rows), place, stride, count)

        if isinstance(whole, int):
            emit(whole)
        else:
            either(whole, size, self.outputs % size, self.outputs, emit)

    def _natural(self, dot: Dot, row: list[Any]) -> Any:
        """Return the values of a row in the result's type, and in order."""
        size = len(row) * dot.lanes
        places = list(range(size))
        if self._interleaved:
            for lane, output in enumerate(dot.order(len(row))):
                places[output] = lane
        values = row[0] if len(row) == 1 and places == sorted(places) else tirx.Shuffle(row, places)
        result = vector_type(self._types.result, size)
        return T.bind(values if str(values.ty) == result else values.astype(result))

    def _look_up(self, rows: int, place: Any, stride: int, count: int) -> None:
        """Emit the lookup of values that are stored, if it is a step, which then is the last.

        A loop of its own takes less code than a lookup for each vector of a tile.

        Parameters
        ----------
        rows : int
            Number of rows of values.
        place : Expr
            Where the first begins in the result.
        stride : int
            From a row to the next.
        count : int
            Values of a row.
        """
        if self._table is None:
            return
        width = lookup_width(self._target)
        with T.serial(0, rows) as row:
            for first in range(0, count, width):
                start, size = place + row * stride + first, min(width, count - first)
                values = load_some(self.result, start, width, size)
                mapped = lookup(self._table, values, self._target)
                store(self.result, start, mapped, width, size)


def finish_tile(
    dot: Dot,
    finish: Finish,
    sums: Sequence[Vectors | list[Any]],
    whole: int | Any,
    channel: Any,
    place: Any,
    stride: int,
) -> None:
    """Emit the epilogue of a matrix product's tile.

    Parameters
    ----------
    dot : Dot
        The instruction set.
    finish : Finish
        The epilogue.
    sums : list of Vectors
        For each row, its vectors of sums.
    whole : int or Expr
        As for `Finish.store`; an expression if the epilogue reads a tensor.
    channel : Expr
        The first output.
    place : Expr
        Where the tile begins in the result.
    stride : int
        From the outputs of a row to those of the next.
    """
    lanes, last = dot.lanes, len(sums[0]) - 1
    rest = finish.outputs % lanes

    def value(row: int, vector: int) -> Any:
        start = place + (row * stride + vector * lanes)

        def tensor(buffer: Any) -> Any:
            full = load(buffer, start, lanes)
            if not rest or vector < last:
                return full
            # Nothing is read beyond the tensor's end.
            return tirx.if_then_else(whole, full, load_some(buffer, start, lanes, rest))

        return finish.apply(lanes, sums[row][vector], channel + vector * lanes, tensor)

    rows = [[T.bind(value(row, v)) for v in range(last + 1)] for row in range(len(sums))]
    finish.store(dot, rows, whole, [place], stride)
