"""Decides which channels stay when a network is pruned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mobilenet_tvm.compile.compress.channels import Channels
from mobilenet_tvm.compile.compress.float_graph import FloatGraph
from mobilenet_tvm.compile.compress.statistics import Moments
from mobilenet_tvm.targets.errors import UserError

Array = np.ndarray[Any, Any]


def by_magnitude(graph: FloatGraph, channels: Channels) -> Array:
    """Return the norm of the weights with which each channel is read.

    The layers that make a channel say less of its worth: they may make it large for a reader that
    makes it small again.

    Parameters
    ----------
    graph : FloatGraph
        The network, with folded batch normalisations.
    channels : Channels
        Some of it.
    """
    norms: Array = np.linalg.norm(_read_weights(graph, channels), axis=0)
    return norms


def by_norm(graph: FloatGraph, channels: Channels) -> Array:
    """Return the scale of the last batch normalisation of each channel, without its sign.

    Parameters
    ----------
    graph : FloatGraph
        The network, with its batch normalisations.
    channels : Channels
        Some of it.

    Raises
    ------
    UserError
        If there is no batch normalisation.
    """
    if not channels.norms:
        raise UserError(
            f"the channels that '{channels.name}' makes have no batch normalisation, "
            "which exporters fold; choose another --by, or export the model for training"
        )
    return np.abs(graph.arrays[channels.norms[-1].input[1]].astype(np.float64))


def by_activation(
    graph: FloatGraph, channels: Channels, moments: Mapping[str, Moments], count: int
) -> Array:
    """Rank channels by the error of what reads them without them.

    Channels go one after the other: that whose loss costs the readers' outputs least, where each
    time the others make up for it as well as they can (Hassibi and Stork 1992, 'optimal brain
    surgeon', with channels in place of weights).

    Parameters
    ----------
    graph : FloatGraph
        The network, with folded batch normalisations.
    channels : Channels
        Some of it.
    moments : mapping of str to Moments
        Of the readers' inputs, by name.
    count : int
        How many channels stay, whose order does not matter.
    """
    damped = moments[channels.readers[0].input[0]].damped
    inverse = np.linalg.inv(damped)
    weights = _read_weights(graph, channels)
    rank = np.full(channels.count, channels.count)
    for place in range(channels.count - count):
        stay = rank == channels.count
        cost = np.where(stay, (weights**2).sum(0), np.inf) / np.where(stay, inverse.diagonal(), 1)
        worst = int(cost.argmin())
        rank[worst] = place
        row = inverse[worst] / inverse[worst, worst]
        weights -= np.outer(weights[:, worst], row)
        inverse -= np.outer(inverse[:, worst], row)
    return rank


def _read_weights(graph: FloatGraph, channels: Channels) -> Array:
    """Return the weights [outputs, C] of the layers that read channels before the pooling."""
    read = [p for p in channels.parameters if p.node in channels.readers and p.place == 1]
    parts = (graph.arrays[p.node.input[1]].swapaxes(0, p.axis) for p in read)
    return np.concatenate([part.reshape(len(part), -1).T for part in parts]).astype(np.float64)
