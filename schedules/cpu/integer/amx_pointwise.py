"""Pointwise convolution on integers by AMX: products of tiles of 16 rows of 64 bytes.

A core holds eight tiles: two of data and two of weights meet in four of sums (source: Intel 64 and
IA-32 Architectures Software Developer's Manual, volume 1, chapter 18).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T  # noqa: N812

from mobilenet_tvm.schedules.base import Array
from mobilenet_tvm.schedules.base import Decision as BaseDecision
from mobilenet_tvm.schedules.cpu.dot import DOTS, dots_of
from mobilenet_tvm.schedules.cpu.emit import load, parameter
from mobilenet_tvm.schedules.cpu.finish import Finish, finish_tile
from mobilenet_tvm.schedules.cpu.integer.base import (
    IntegerSchedule,
    in_order,
    is_interleaved,
    pack_panels,
)
from mobilenet_tvm.schedules.workloads import Pointwise, Workload
from mobilenet_tvm.targets.target import Target

#: LLVM's name of the feature.
FEATURE = "+amx-int8"
#: Most rows of a tile, and bytes of a row.
MAX_ROWS, ROW_BYTES = 16, 64
#: Tiles of data, and vectors of outputs, that are multiplied together.
HIGH, WIDE = 2, 2
#: Fewest inputs of a tile: with fewer, it takes as long as VPDPBUSD.
MIN_STEP = 48
#: Rows of sums whose epilogue is emitted at a time.
EPILOGUE_ROWS = 2
#: Parts of the work: each configures the tiles once.
MAX_PARTS = 16
#: Cycles of a tile's product, to load or store a row of a tile, and to requantise a vector.
PRODUCT_CYCLES, ROW_CYCLES, EPILOGUE_CYCLES = 16.0, 0.5, 4.0
TILE_CYCLES = 60.0


@dataclass(frozen=True)
class Decision(BaseDecision):
    """How to compute a pointwise layer by AMX.

    Parameters
    ----------
    dot : str
        The instruction set in whose order weights are packed.
    rows : int
        Pixels of a tile, at most 16.
    step : int
        Inputs of a tile, at most 64; divides the inputs.
    weights_outside : bool
        Whether all pixels meet a panel of weights before the next one, or all panels a few pixels.
    interleaved : bool
        Whether sums are in the order of `Dot.order`; determined by the layer.
    """

    dot: str
    rows: int
    step: int
    weights_outside: bool
    interleaved: bool


class AmxProduct(IntegerSchedule[Pointwise, Decision]):
    """Adds products of tiles to sums in tiles, which are stored for the epilogue."""

    workload_type = Pointwise
    decision_type = Decision

    def takes(self, workload: Workload, target: Target) -> bool:
        """Return whether this schedule computes a layer."""
        return (
            FEATURE in target.features
            and super().takes(workload, target)
            and isinstance(workload, Pointwise)
            and workload.types.weights == "int8"
            and workload.pixels >= HIGH * MAX_ROWS
            and _steps(workload.inputs)[-1] >= MIN_STEP
        )

    def default(self, workload: Pointwise, target: Target) -> Decision:
        """Choose the decision with the fewest cycles in a model."""
        return min(
            self.decisions(workload, target),
            key=lambda decision: (self.cycles(workload, decision, target), -decision.rows),
        )

    def space(self, workload: Pointwise, target: Target) -> dict[str, list[Any]]:  # noqa: ARG002
        """Return the candidate values of each part of a decision."""
        rows = {-(-workload.pixels // (HIGH * tiles)) for tiles in _counts(workload.pixels)}
        return {
            "rows": sorted(r for r in rows if r <= MAX_ROWS),
            "step": _steps(workload.inputs)[-2:],
            "weights_outside": [False, True],
        }

    def valid(self, workload: Pointwise, decision: Decision, target: Target) -> bool:
        """Return whether `build` accepts a decision."""
        return (
            (decision.dot, decision.interleaved)
            == (dots_of(target, workload.types)[0].name, is_interleaved(workload))
            and 1 <= decision.rows <= MAX_ROWS
            and HIGH * decision.rows <= workload.pixels
            and 4 <= decision.step <= ROW_BYTES
            and decision.step % 4 == 0
            and workload.inputs % decision.step == 0
        )

    def decisions(self, workload: Pointwise, target: Target) -> list[Decision]:
        """Return the valid decisions in the space, without duplicates."""
        name, order = dots_of(target, workload.types)[0].name, is_interleaved(workload)
        return [
            Decision(name, rows, step, outside, order)
            for rows, step, outside in itertools.product(*self.space(workload, target).values())
        ]

    def pack(self, weights: Sequence[Array], decision: Decision) -> list[Array]:
        """Return weights [inputs, outputs] as [panels, groups, vectors]."""
        (weight,) = weights
        return [pack_panels(weight, DOTS[decision.dot], _width(decision), decision.interleaved)]

    def arrange(self, operand: Array, decision: Decision, part: int = 0) -> Array:  # noqa: ARG002
        """Return values of the outputs, the last axis, padded and in the order of the sums."""
        return in_order(operand, DOTS[decision.dot], _width(decision), decision.interleaved)

    def emit(self, workload: Pointwise, decision: Decision, target: Target) -> None:
        """Emit data [pixels, inputs], packed weights, the epilogue's operands, and the output."""
        dot, width = DOTS[decision.dot], _width(decision)
        pixels, inputs, outputs = workload.pixels, workload.inputs, workload.outputs
        high, panels = HIGH * decision.rows, -(-outputs // width)
        data = parameter("data", pixels * inputs, workload.types.data)
        weight = parameter("weight", panels * inputs * width, workload.types.weights)
        size = pixels * outputs
        finish = Finish(workload, target, outputs, panels * width, size, decision.interleaved)
        tiles = -(-pixels // high)
        count = panels * tiles
        parts = min(count, MAX_PARTS)

        with T.parallel(0, parts) as part:
            begin, end = (T.bind((part + i) * count // parts) for i in (0, 1))
            _configure(decision)
            sums = T.alloc_buffer((high * width,), "int32", align=64)
            with T.serial(0, end - begin) as index:
                task = T.bind(begin + index)
                outside = decision.weights_outside
                panel = T.bind(task // tiles if outside else task % panels)
                # The last tile begins earlier instead of being smaller.
                number = task % tiles if outside else task // panels
                first = T.bind(T.min(number * high, pixels - high))
                channel = T.bind(panel * width)
                self._products(decision, data, weight, sums, first * inputs, channel, inputs)
                with T.serial(0, high // EPILOGUE_ROWS) as pair:
                    row = T.bind(pair * EPILOGUE_ROWS)
                    place = T.bind((first + row) * outputs + channel)
                    biased = [
                        [
                            T.bind(
                                load(sums, (row + i) * width + v * dot.lanes, dot.lanes)
                                + finish.start(dot.lanes, channel + v * dot.lanes)
                            )
                            for v in range(WIDE)
                        ]
                        for i in range(EPILOGUE_ROWS)
                    ]
                    finish_tile(dot, finish, biased, panel < panels - 1, channel, place, outputs)
            _emit("tilerelease")

    def _products(
        self,
        decision: Decision,
        data: Any,
        weight: Any,
        sums: Any,
        start: Any,
        channel: Any,
        inputs: int,
    ) -> None:
        """Emit the products of a few tiles, and store their sums."""
        rows, step, width = decision.rows, decision.step, _width(decision)
        lanes = DOTS[decision.dot].lanes
        for tile in range(HIGH * WIDE):
            _emit("tilezero", T.int8(tile))
        first_data, first_weights = HIGH * WIDE, HIGH * WIDE + HIGH
        with T.serial(0, inputs // step) as k:
            for tile in range(HIGH):
                place = T.address_of(data[start + (tile * rows) * inputs + k * step])
                _emit("tileloadd64", T.int8(first_data + tile), place, T.int64(inputs))
            for vector in range(WIDE):
                packed = channel * inputs + k * (step * width) + vector * 4 * lanes
                place = T.address_of(weight[packed])
                _emit("tileloadd64", T.int8(first_weights + vector), place, T.int64(4 * width))
            for tile, vector in itertools.product(range(HIGH), range(WIDE)):
                operands = first_data + tile, first_weights + vector
                _emit("tdpbusd", T.int8(tile * WIDE + vector), *map(T.int8, operands))
        for tile, vector in itertools.product(range(HIGH), range(WIDE)):
            place = T.address_of(sums[(tile * rows) * width + vector * lanes])
            _emit("tilestored64", T.int8(tile * WIDE + vector), place, T.int64(4 * width))

    def features(self, workload: Pointwise, decision: Decision, target: Target) -> dict[str, float]:
        """Describe a decision: its tiles, and what they waste."""
        high, width = HIGH * decision.rows, _width(decision)
        tiles, panels = -(-workload.pixels // high), -(-workload.outputs // width)
        computed = tiles * high * panels * width
        return {
            "wasted": computed / (workload.pixels * workload.outputs) - 1,
            "tiles": tiles,
            "panels": panels,
            "steps": workload.inputs / decision.step,
            "panel_share_of_l1": workload.inputs * width / target.l1d_bytes,
            "data_share_of_l2": workload.pixels * workload.inputs / target.l2_bytes,
            "weights_share_of_l2": workload.outputs * workload.inputs / target.l2_bytes,
        }

    def cycles(self, workload: Pointwise, decision: Decision, target: Target) -> float:  # noqa: ARG002
        """Estimate a layer's cycles."""
        high, width = HIGH * decision.rows, _width(decision)
        tiles, panels = -(-workload.pixels // high), -(-workload.outputs // width)
        products = HIGH * WIDE * PRODUCT_CYCLES * decision.rows / MAX_ROWS
        loads = ROW_CYCLES * (high + WIDE * decision.step / 4)
        steps = workload.inputs / decision.step
        # The sums of a tile are stored and loaded again.
        epilogue = (EPILOGUE_CYCLES + 1.5) * high * WIDE
        return tiles * panels * (steps * max(products, loads) + epilogue + TILE_CYCLES)


def _width(decision: Decision) -> int:
    """Return the outputs of a panel."""
    return WIDE * DOTS[decision.dot].lanes


def _steps(inputs: int) -> list[int]:
    """Return the numbers of inputs that tiles can have."""
    return [step for step in range(4, ROW_BYTES + 1, 4) if inputs % step == 0] or [0]


def _counts(pixels: int) -> range:
    """Return sensible numbers of tiles."""
    fewest = -(-pixels // (HIGH * MAX_ROWS))
    return range(fewest, fewest + max(2, fewest // 7) + 1)


def _configure(decision: Decision) -> None:
    """Emit the configuration of the tiles: palette 1, their rows, and the bytes of a row."""
    shapes = [
        *[(decision.rows, ROW_BYTES)] * (HIGH * WIDE),
        *[(decision.rows, decision.step)] * HIGH,
        *[(decision.step // 4, ROW_BYTES)] * WIDE,
    ]
    values = [0] * 64
    values[0] = 1
    for tile, (rows, size) in enumerate(shapes):
        values[16 + 2 * tile], values[48 + tile] = size, rows
    config = T.alloc_buffer((64,), "uint8", align=64)
    for place, value in enumerate(values):
        T.buffer_store(config, T.uint8(value), [place])
    _emit("ldtilecfg", T.address_of(config[0]))


def _emit(name: str, *arguments: Any) -> None:
    """Emit an AMX instruction."""
    T.evaluate(T.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments))


SCHEDULE = AmxProduct()
