"""Long sums of products in float16: parts of them, which are added up in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import s_tir, te
from tvm.s_tir.schedule import LoopRV, SBlockRV

from mobilenet_tvm.schedules.cpu.base import product_type
from mobilenet_tvm.schedules.cpu.registers import sum_in_registers
from mobilenet_tvm.schedules.loops import divisor_at_most
from mobilenet_tvm.schedules.stages import Epilogue
from mobilenet_tvm.schedules.workloads import Types

#: The most products that are accumulated in float16 before they are added to a float32 sum. The
#: median and largest error of V1 with random weights, as shares of the output's range, are 1.9 and
#: 2.3 % with 32, 2.0 and 2.6 % with 96, 3.4 and 4.0 % without float32 sums; of V2 2.0 and 2.4, 2.1
#: and 2.8, 3.5 and 4.5 %. A pretrained V2 names 999 of 1,000 pictures as in float32 with 96, and
#: 993 without, with median errors of 0.29 and 0.57 %. On an A76, it takes 65.8 million
#: instructions, and 63.9 without.
MOST_PRODUCTS = 96
#: Products that are unrolled together.
GROUP = 4


def products_of_part(inputs: int, types: Types) -> int:
    """Return how many of a sum's products are accumulated in their own type.

    Parameters
    ----------
    inputs : int
        All products of a sum.
    types : Types
        The layer's.

    Returns
    -------
    int
        A divisor of the inputs; all of them if the sum has the type of the products, or is short.
    """
    if product_type(types) == types.sums:
        return inputs
    group = math.gcd(inputs, GROUP)
    return group * divisor_at_most(inputs // group, MOST_PRODUCTS // group)


def sums_of_products(
    shape: Sequence[int],
    inputs: int,
    types: Types,
    epilogue: Epilogue,
    product: Callable[..., Any],
) -> te.Tensor:
    """Return a stage that sums up products, named `pointwise` or, of parts of them, `sums`.

    Parameters
    ----------
    shape : sequence of int
        Shape of the result, channels last.
    inputs : int
        Products of a sum.
    types : Types
        The layer's. The result is of the type of the sums, if there is more than one part.
    epilogue : Epilogue
        The steps on the sums.
    product : callable
        Maps the indices of a sum and the index of an input to a product.
    """
    count = products_of_part(inputs, types)
    k = te.reduce_axis((0, count), name="k")
    if count == inputs:
        return te.compute(
            shape,
            lambda *place: epilogue.sum(product(*place, k), k, place[-1], shape[-1]),
            name="pointwise",
        )
    part = te.reduce_axis((0, inputs // count), name="part")
    parts = te.compute(
        (inputs // count, *shape),
        lambda part, *place: te.sum(product(*place, part * count + k), axis=k),
        name="pointwise",
    )

    def total(*place: Any) -> Any:
        return epilogue.sum(parts(part, *place).astype(types.sums), part, place[-1], shape[-1])

    return te.compute(shape, total, name="sums")


def add_parts(sch: s_tir.Schedule, product: SBlockRV, loop: LoopRV, lanes: int) -> LoopRV | None:
    """Compute a tile's sums of products in a loop; return the loop over their parts, if any.

    Parameters
    ----------
    sch : Schedule
        Changed in place.
    product : SBlockRV
        The block of the products, of `sums_of_products`.
    loop : LoopRV
        The loop over tiles.
    lanes : int
        Vector length; divides the tile's channels.
    """
    (sums,) = sch.get_consumers(product)
    if sch.get(sums).name_hint != "sums":
        sch.compute_at(product, loop, preserve_unit_loops=True)
        return None
    sch.compute_at(sums, loop, preserve_unit_loops=True)
    *_, row, column, part = sch.get_loops(sums)
    sch.reorder(part, row, column)
    sch.compute_at(product, part, preserve_unit_loops=True)
    sum_in_registers(sch, sums, part, [], [row, column], lanes)
    return part
