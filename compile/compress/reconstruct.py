"""Has the channels that stay stand in for those that are removed.

As He, Zhang and Sun 2017, arXiv 1707.06168, section 3.1, a linear least-squares problem on the
activations of some pictures; here of the full network, since those of the pruned one, of few
pictures, gave worse networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mobilenet_tvm.compile.compress.channels import Channels
from mobilenet_tvm.compile.compress.float_graph import FloatGraph
from mobilenet_tvm.compile.compress.statistics import Moments

Array = np.ndarray[Any, Any]


def reconstruct(
    graph: FloatGraph, channels: Channels, kept: Array, moments: Mapping[str, Moments]
) -> None:
    """Change the layers that read channels so that they need only some of them.

    Each channel that goes is taken for a linear function of those that stay, and its weights are
    added to theirs. To be called before `remove`.

    Parameters
    ----------
    graph : FloatGraph
        The network.
    channels : Channels
        Some of it.
    kept : numpy.ndarray
        The places of the channels that stay, in rising order.
    moments : mapping of str to Moments
        Of the readers' inputs, by name.
    """
    gone = np.setdiff1d(np.arange(channels.count), kept)
    readers = [*channels.readers, *channels.pooled_readers]
    for parameter in channels.parameters:
        if parameter.node not in readers or parameter.place != 1:
            continue
        known = moments[parameter.node.input[0]]
        stand_in = np.linalg.solve(
            known.damped[np.ix_(kept, kept)], known.covariance[np.ix_(kept, gone)]
        )
        name = graph.own(parameter.node, 1)
        # [outputs, ..., C], whatever the layer's layout.
        weight = graph.arrays[name].astype(np.float64)
        turned = np.moveaxis(weight, parameter.axis, -1)
        lost = turned[..., gone]
        turned[..., kept] += lost @ stand_in.T
        graph.arrays[name] = weight.astype(np.float32)
        rest = known.mean[gone] - known.mean[kept] @ stand_in
        graph.shift(parameter.node, (lost @ rest).reshape(len(lost), -1).sum(1))
