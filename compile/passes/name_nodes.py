"""A compiler pass that names all values after the ONNX nodes they come from."""

from __future__ import annotations

import tvm
from tvm import relax

from mobilenet_tvm.compile.passes.names import node_index
from mobilenet_tvm.compile.passes.rewriter import GraphRewriter
from mobilenet_tvm.compile.passes.values import bindings_of


class NameNodes(GraphRewriter):
    """Give each value the name of the next named value.

    The importer names the result of a node; TVM's intermediate values precede it.
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self._names: dict[relax.Var, str] = {}
        name = ""
        bindings = bindings_of(mod["main"])
        for binding in reversed(bindings):
            if node_index(binding.var) is not None:
                name = binding.var.name
            self._names[binding.var] = name

    def visit_binding(self, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        """Keep the value under its new name."""
        self._name = self._names[var]
        return value
