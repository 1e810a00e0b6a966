"""Cuts networks: behind nodes that the user names, or before shapes that depend on the data."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Sequence

import onnx

from mobilenet_tvm.compile.frontend.graph import drop_dead, reads
from mobilenet_tvm.targets.errors import WrongUseError

_LOGGER = logging.getLogger(__name__)

#: Operators whose output has as many elements as there are values of some kind in the input.
COUNTING = frozenset({"NonMaxSuppression", "NonZero", "Unique"})
#: The places of inputs whose values, not only their shapes, determine the output's shape.
_SHAPING = {
    "Compress": (1,),
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Upsample": (1,),
}
#: Operators that read a tensor's shape, which is static, and not its values.
_OF_SHAPES = frozenset({"Shape", "Size"})


def cut_until(graph: onnx.GraphProto, until: str | Sequence[str]) -> None:
    """Make some nodes' outputs the outputs of a graph, and drop what only the others needed.

    Parameters
    ----------
    graph : onnx.GraphProto
        The graph, which is changed. Nodes are sorted.
    until : str or sequence of str
        Names of tensors that nodes compute, or of nodes, of which all outputs are meant.

    Raises
    ------
    WrongUseError
        If there is no such node or tensor; suggests similar names.
    """
    outputs: list[str] = []
    for wanted in [until] if isinstance(until, str) else until:
        tensors = [name for node in graph.node for name in node.output if name == wanted]
        named = [node for node in graph.node if node.name == wanted]
        found = tensors or [name for node in named for name in node.output if name]
        if not (wanted and found):
            raise _unknown(graph, wanted)
        outputs += found
    _set_outputs(graph, outputs)


def cut_tail(graph: onnx.GraphProto) -> None:
    """Cut a graph before its nodes whose shapes depend on the data, and log a line that says so.

    The outputs are then those that do not depend on such nodes, and what the dropped nodes read of
    what the others compute from the inputs, in the order of the nodes. A graph in which nothing
    would remain stays as it is.

    Parameters
    ----------
    graph : onnx.GraphProto
        The graph, which is changed. Nodes are sorted, and none is dead.
    """
    data = {value.name for value in graph.input}
    made: dict[str, None] = {}
    tail: set[str] = set()
    first: list[onnx.NodeProto] = []
    dropped: list[onnx.NodeProto] = []
    for node in graph.node:
        follows = not tail.isdisjoint(reads(node))
        if follows or _depends_on_data(node, data):
            dropped.append(node)
            tail.update(node.output)
            if not follows:
                first.append(node)
        else:
            computed = _from_data(node, data)
            data.update(computed)
            made.update(dict.fromkeys(computed))
    needed = {name for node in dropped for name in reads(node)}
    outputs = [value.name for value in graph.output if value.name not in tail]
    outputs += [name for name in made if name in needed and name not in outputs]
    if not dropped or made.keys().isdisjoint(outputs):
        return
    node = first[0]
    others = f" and {len(first) - 1} more" if len(first) > 1 else ""
    _LOGGER.warning(
        "warning: the network is cut before node '%s' (%s)%s, whose shape depends on the data; "
        "its outputs are now %s, and what follows is left to the caller",
        node.name or node.output[0],
        node.op_type,
        others,
        ", ".join(outputs),
    )
    _set_outputs(graph, outputs)


def _depends_on_data(node: onnx.NodeProto, data: set[str]) -> bool:
    """Return whether a node's shape depends on values that are computed from the inputs."""
    if node.op_type in COUNTING:
        return not data.isdisjoint(node.input)
    if node.op_type == "Loop":
        return node.input[0] in data or _ends_by_data(node)
    return any(node.input[i] in data for i in _SHAPING.get(node.op_type, ()) if i < len(node.input))


def _ends_by_data(loop: onnx.NodeProto) -> bool:
    """Return whether a Loop may end before its count, or has none."""
    body = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
    goes_on = body.output[0].name
    maker = next((node for node in body.node if goes_on in node.output), None)
    passed_on = maker is None or maker.op_type in ("Cast", "Constant", "Identity")
    return not loop.input[0] or not passed_on


def _from_data(node: onnx.NodeProto, data: set[str]) -> list[str]:
    """Return those of a node's outputs whose values, not only their shapes, come from data."""
    if node.op_type in _OF_SHAPES or data.isdisjoint(reads(node)):
        return []
    if node.op_type != "If" or node.input[0] in data:
        return [name for name in node.output if name]
    # One branch is put in the place of the node, since its condition is known.
    kept: set[str] = set()
    for branch in (attribute.g for attribute in node.attribute):
        inner = set(data)
        for each in branch.node:
            inner.update(_from_data(each, inner))
        kept.update(
            name
            for name, value in zip(node.output, branch.output, strict=False)
            if value.name in inner
        )
    return [name for name in node.output if name in kept]


def _set_outputs(graph: onnx.GraphProto, names: Iterable[str]) -> None:
    """Give a graph other outputs, and drop nodes, inputs and initialisers that none needs."""
    known = {value.name: value for value in (*graph.value_info, *graph.output)}
    # Runtimes infer types that are not stated.
    outputs = [known.get(name, onnx.ValueInfoProto(name=name)) for name in dict.fromkeys(names)]
    copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in outputs]
    del graph.output[:]
    graph.output.extend(copies)
    drop_dead(graph)
    used = {name for node in graph.node for name in reads(node)}
    used.update(value.name for value in graph.output)
    for tensors in (graph.input, graph.initializer):
        for index in reversed(range(len(tensors))):
            if tensors[index].name not in used:
                del tensors[index]


def _unknown(graph: onnx.GraphProto, name: str) -> WrongUseError:
    names = dict.fromkeys(each for node in graph.node for each in (node.name, *node.output) if each)
    near = difflib.get_close_matches(name, names, n=3)
    offer = f"did you mean {' or '.join(near)}? " if near else ""
    return WrongUseError(
        f"no node or computed tensor has the name '{name}'; {offer}"
        "Netron, or onnx.load(FILE).graph.node in Python, shows all names"
    )
