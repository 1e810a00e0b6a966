"""Helpers for ONNX graphs: what nodes read, order, dead nodes, and branches put in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import helper


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names of the values that a node reads, those in its subgraphs included."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from (output.name for output in graph.output)
            for inner in graph.node:
                yield from reads(inner)


def sort(graph: onnx.GraphProto) -> None:
    """Sort a graph's nodes topologically.

    The format demands it, but some tools ignore that, and runtimes do not need it.
    """
    made = {name for node in graph.node for name in node.output}
    ready: set[str] = set()
    waiting = list(graph.node)
    ordered: list[onnx.NodeProto] = []
    while waiting:
        later = []
        for node in waiting:
            if all(name in ready or name not in made for name in reads(node)):
                ordered.append(node)
                ready.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            return  # a cycle, which the checker reports
        waiting = later
    if ordered != list(graph.node):
        replace_nodes(graph, ordered)


def drop_dead(graph: onnx.GraphProto) -> None:
    """Remove the nodes that no output depends on; the graph's nodes must be in order."""
    live = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if not live.isdisjoint(node.output):
            live.update(reads(node))
            kept.append(node)
    if len(kept) < len(graph.node):
        replace_nodes(graph, kept[::-1])


def replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Give a graph other nodes, which may be some of its own."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def branch(
    node: onnx.NodeProto, taken: bool
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return the nodes and initialisers of a branch of an If, with names for the outer graph.

    Parameters
    ----------
    node : onnx.NodeProto
        The If.
    taken : bool
        Its condition.
    """
    wanted = "then_branch" if taken else "else_branch"
    graph = next(attribute.g for attribute in node.attribute if attribute.name == wanted)
    inner = {name for each in graph.node for name in each.output if name}
    inner.update(tensor.name for tensor in graph.initializer)
    # Branches of other nodes may use the same names.
    names = {name: f"{node.output[0]}/{name}" for name in inner}
    nodes = [renamed(each, names) for each in graph.node]
    for target, output in zip(node.output, graph.output, strict=True):
        source = names.get(output.name, output.name)
        nodes.append(helper.make_node("Identity", [source], [target], name=f"{node.name}/{target}"))
    tensors = []
    for tensor in graph.initializer:
        copy = onnx.TensorProto()
        copy.CopyFrom(tensor)
        copy.name = names[tensor.name]
        tensors.append(copy)
    return nodes, tensors


def renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """Return a copy of a node that reads and makes values of other names."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    for attribute in copy.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for output in graph.output:
                output.name = names.get(output.name, output.name)
            if graph.node:
                replace_nodes(graph, [renamed(inner, names) for inner in graph.node])
    return copy
