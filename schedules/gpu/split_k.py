"""A product whose inputs several threads or warps share, on NVIDIA GPUs."""

from __future__ import annotations

from typing import Any

from tvm import te

from mobilenet_tvm.schedules.stages import epilogue_stage
from mobilenet_tvm.schedules.workloads import Pointwise


def split_product(
    workload: Pointwise, staged: te.Tensor, weight: te.Tensor, split_k: int, step_k: int
) -> tuple[list[te.Tensor], te.Tensor]:
    """Return the epilogue's operands, and the result.

    Parameters
    ----------
    workload : Pointwise
        The layer.
    staged : te.Tensor
        Data [rows, inputs], both padded to whole tiles and steps.
    weight : te.Tensor
        Packed weights [inputs, columns], padded likewise.
    split_k : int
        Parts of the inputs, each accumulated separately.
    step_k : int
        Inputs of a part that are in shared memory at a time.
    """
    (rows, inputs), columns = (int(extent) for extent in staged.shape), int(weight.shape[1])
    sums = workload.types.sums
    step = te.reduce_axis((0, inputs // (split_k * step_k)), name="step")
    k = te.reduce_axis((0, step_k), name="k")

    def products(s: Any, m: Any, n: Any) -> Any:
        # The parts are interleaved, so that the inputs they need at the same time are adjacent.
        place = (step * split_k + s) * step_k + k
        left, right = staged[m, place].astype(sums), weight[place, n].astype(sums)
        return te.sum(left * right, axis=[step, k])

    partial = te.compute((split_k, rows, columns), products, name="partial")
    s = te.reduce_axis((0, split_k), name="s")
    product = te.compute(
        (rows, columns), lambda m, n: te.sum(partial[s, m, n], axis=s), name="pointwise"
    )
    shape = (workload.pixels, workload.outputs)
    return epilogue_stage(workload, shape, lambda m, n: product[m, n])
