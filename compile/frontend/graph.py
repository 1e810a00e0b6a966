"""Helpers for ONNX graphs: what nodes read, order, dead nodes, and branches put in place."""

from __future__ import annotations

import heapq
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
    nodes = list(graph.node)
    maker = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    needs = [{maker[name] for name in reads(node) if name in maker} for node in nodes]
    readers: list[list[int]] = [[] for _ in nodes]
    for place, makers in enumerate(needs):
        for each in makers:
            readers[each].append(place)
    missing = [len(makers) for makers in needs]
    # The first that is ready comes first, so that sorted nodes stay as they are.
    ready = [place for place, count in enumerate(missing) if not count]
    ordered = []
    while ready:
        place = heapq.heappop(ready)
        ordered.append(nodes[place])
        for reader in readers[place]:
            missing[reader] -= 1
            if not missing[reader]:
                heapq.heappush(ready, reader)
    if len(ordered) < len(nodes):
        return  # a cycle, which the checker reports
    if ordered != nodes:
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
