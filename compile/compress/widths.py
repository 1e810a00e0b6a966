"""Decides how many channels stay when a network is pruned for a target."""

from __future__ import annotations

import math

import onnx

from mobilenet_tvm.compile.compress.channels import Channels
from mobilenet_tvm.compile.models.counts import Shape
from mobilenet_tvm.schedules.cpu.pointwise import best_tile, tile_cycles
from mobilenet_tvm.schedules.gpu.tensor_cores import SIZE
from mobilenet_tvm.schedules.workloads import Pointwise
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.target import Target

#: Values in the widest load of a GPU, in float16.
_GPU_LANES = 8


def vector_of(target: Target) -> int:
    """Return the number of channels that a target computes together: what is removed at a time.

    On a CPU a vector of float32 values, and on a GPU what a thread loads at a time in float16, or,
    with tensor cores, a side of their matrices.
    """
    if target.gpu is None:
        return target.lanes_of("float32")
    return SIZE if target.gpu.tensor_fma_per_cycle else _GPU_LANES


def kept_count(
    channels: Channels, sparsity: float, target: Target, shapes: dict[str, Shape]
) -> int:
    """Return how many channels stay, in whole vectors.

    It is the whole number of vectors nearest to the share that shall stay, or a larger one if the
    register tile of the pointwise layer that makes the channels takes no longer for that.

    Parameters
    ----------
    channels : Channels
        Some of a network.
    sparsity : float
        The share to be removed.
    target : Target
        The machine.
    shapes : dict of str to tuple of int
        Of the network's values.

    Raises
    ------
    UserError
        If none would stay.
    """
    vector = vector_of(target)
    if channels.count <= vector:
        return channels.count
    wanted = round((1 - sparsity) * channels.count / vector) * vector
    if not wanted:
        most = 1 - vector / channels.count
        raise UserError(
            f"sparsity {sparsity:g} leaves none of the {channels.count} channels that "
            f"'{channels.name}' makes, which {target.name} computes {vector} at a time; "
            f"give {math.floor(100 * most) / 100:g} or less"
        )
    if wanted >= channels.count:
        return channels.count
    if target.gpu is not None or not _is_pointwise(channels.makers[0], shapes):
        return wanted

    def cycles(count: int) -> float:
        batch, inputs, *image = shapes[channels.makers[0].input[0]]
        layer = Pointwise(batch * math.prod(image), inputs, count)
        return tile_cycles(layer, target, *best_tile(layer, target))

    most = cycles(wanted)
    return max(count for count in range(wanted, channels.count, vector) if cycles(count) <= most)


def _is_pointwise(node: onnx.NodeProto, shapes: dict[str, Shape]) -> bool:
    return node.op_type == "Conv" and math.prod(shapes[node.input[1]][2:]) == 1
