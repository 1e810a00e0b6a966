"""Converts a checked ONNX model into a Relax module."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from typing import Any

import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from mobilenet_tvm.compile.frontend.arguments import dtype_of
from mobilenet_tvm.compile.frontend.check import first_line, opset_of, unsupported
from mobilenet_tvm.compile.frontend.composed import DEFINED, expand
from mobilenet_tvm.compile.frontend.converters import AUTO_PADDED, CONVERTERS
from mobilenet_tvm.compile.frontend.cut import COUNTING
from mobilenet_tvm.compile.frontend.fold import fold_constants
from mobilenet_tvm.compile.frontend.graph import reads
from mobilenet_tvm.compile.frontend.indexing import slice_attributes
from mobilenet_tvm.compile.frontend.limits import check_computed
from mobilenet_tvm.compile.frontend.padding import explicit_padding
from mobilenet_tvm.compile.frontend.pooling import places_of_maxima, refuse_maxima_of_regions
from mobilenet_tvm.compile.frontend.widen import widen
from mobilenet_tvm.compile.passes.names import NODE_NAMES, variable_name
from mobilenet_tvm.compile.passes.values import constant, constant_value, shape_of
from mobilenet_tvm.targets.errors import UserError


def to_relax(model: onnx.ModelProto) -> tvm.IRModule:
    """Convert a checked, static model into a Relax module with one function, `main`.

    Parameters
    ----------
    model : onnx.ModelProto
        The model, with static input shapes.

    Returns
    -------
    tvm.IRModule
        NCHW convolutions as in the file, weights as constants. Its attribute `NODE_NAMES` lists
        the nodes, whose places are in the variables' names.

    Raises
    ------
    UserError
        If a node cannot be compiled; the message names the node, its operator and the fix.
    """
    model = fold_constants(expand(model, _known_operators()))
    check_computed(model)
    model = widen(model)
    importer = _Importer(None, None)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # TVM warns of renamed inputs and prints failed nodes; the error below is enough.
        warnings.simplefilter("ignore")
        try:
            mod = importer.from_onnx(model.graph, opset_of(model))
            _check_results(mod, model.graph)
            return mod.with_attr(NODE_NAMES, [node.name for node in model.graph.node])
        except UserError:
            # A builder that is destroyed with an open block reports that on stderr as well.
            with contextlib.suppress(Exception):
                importer.bb._end_block()
            raise


class _Importer(onnx_frontend.ONNXGraphImporter):  # type: ignore[misc]
    """TVM's importer with this project's conversions, and values and errors that name the node."""

    #: Of the nodes in the graph, by name.
    _places: dict[str, int]

    def _check_for_unsupported_ops(self, graph: onnx.GraphProto) -> None:
        known = _known_operators()
        used = {output.name for output in graph.output}
        used.update(name for node in graph.node for name in reads(node))
        for node in graph.node:
            name = node.name or node.output[0]
            if node.op_type in COUNTING:
                # TVM would pad some of them.
                raise unsupported(node.op_type, name, "its shape depends on the input's values")
            if _trains(node, used):
                raise unsupported(
                    node.op_type, name, "training mode; call model.eval(), export again"
                )
            if node.op_type not in known:
                raise unsupported(node.op_type, name)

    def _construct_nodes(self, graph: onnx.GraphProto) -> None:
        for node in graph.node:
            # The base class passes on only the name, which many exporters leave empty.
            node.name = node.name or node.output[0]
        self._places = {node.name: place for place, node in enumerate(graph.node)}
        super()._construct_nodes(graph)

    def _sanitize_name(self, name: str) -> str:
        # The kernels of GPUs have parameters of these names, which must be identifiers of C.
        sanitized: str = super()._sanitize_name(re.sub(r"\W", "_", name, flags=re.ASCII))
        return sanitized

    def _convert_operator(
        self, op_name: str, inputs: list[Any], attrs: dict[str, Any], opset: int
    ) -> relax.Expr:
        node = attrs["tvm_custom"]["name"]
        try:
            _check_inputs(op_name, inputs)
            inputs, attrs = _adapted(op_name, inputs, attrs, opset)
            result = self._converted(op_name, inputs, attrs, opset)
            if isinstance(result, list):
                return relax.Tuple([self._emit(output, op_name, node) for output in result])
            _check_outputs(result, attrs["tvm_custom"]["num_outputs"])
            if isinstance(result, relax.Expr) and not _is_static(result.ty):
                raise NotImplementedError("its shape depends on the input's values")
            return self._emit(result, op_name, node) if isinstance(result, relax.Call) else result
        except Exception as error:
            raise unsupported(op_name, node, first_line(error)) from error

    def _converted(self, op_name: str, inputs: list[Any], attrs: dict[str, Any], opset: int) -> Any:
        """Return the output of a node, or a list of its outputs."""
        if op_name in CONVERTERS and _has_tensors(inputs):
            result = CONVERTERS[op_name](inputs, attrs, opset)
            return result if isinstance(result, list) else self.bb.normalize(result)
        if op_name in ("ReduceMax", "ReduceMin") and dtype_of(inputs[0]) == "bool":
            inputs[0] = self.bb.normalize(relax.op.astype(inputs[0], "uint8"))
            result = super()._convert_operator(op_name, inputs, attrs, opset)
            return self.bb.normalize(relax.op.astype(result, "bool"))
        result = super()._convert_operator(op_name, inputs, attrs, opset)
        if op_name == "MaxPool" and attrs["tvm_custom"]["num_outputs"] > 1:
            maxima = self.bb.emit(result)
            return [maxima, self.bb.normalize(places_of_maxima(inputs[0], maxima, attrs))]
        return result

    def _emit(self, result: relax.Expr, op_name: str, node: str) -> relax.Expr:
        """Bind a result to a variable that is named after its node."""
        if node not in self._places or not isinstance(result, relax.Call | relax.TupleGetItem):
            return result
        return self.bb.emit(result, name_hint=variable_name(op_name, self._places[node]))


def _adapted(
    op_name: str, inputs: list[Any], attrs: dict[str, Any], opset: int
) -> tuple[list[Any], dict[str, Any]]:
    """Return a node's inputs and attributes in the form that converters read."""
    if op_name in AUTO_PADDED:
        attrs = explicit_padding(inputs, attrs)
    elif op_name == "RoiAlign":
        refuse_maxima_of_regions(attrs)
    elif op_name == "Slice" and opset < 10:
        inputs = slice_attributes(inputs, attrs)
    elif op_name in ("Squeeze", "Unsqueeze") and len(inputs) > 1:
        inputs[1] = _as_vector(inputs[1])
    return inputs, attrs


def _is_static(type_: Any) -> bool:
    """Return whether all extents of a tensor's type, or of all tensors' in a tuple, are numbers."""
    if isinstance(type_, relax.TupleType):
        return all(map(_is_static, type_.fields))
    if not isinstance(type_, relax.TensorType):
        return True
    return isinstance(type_.shape, relax.ShapeExpr) and all(
        isinstance(extent, tvm.tirx.IntImm) for extent in type_.shape.values
    )


def _trains(node: onnx.NodeProto, used: set[str]) -> bool:
    """Return whether a batch normalisation returns the statistics of the batch.

    Up to opset 13, it then has more outputs, and only that says that it uses them.
    """
    if node.op_type != "BatchNormalization":
        return False
    return bool(used & set(node.output[1:])) or sum(map(bool, node.output)) > 3


def _known_operators() -> set[str]:
    return {*onnx_frontend._get_convert_map(), *CONVERTERS, "Constant"} - DEFINED


def _has_tensors(inputs: list[Any]) -> bool:
    """Return whether there is something to compute at run time, and no input is a shape."""
    given = [value for value in inputs if value is not None]
    return any(isinstance(value, relax.Var) for value in given) and all(
        isinstance(value.ty, relax.TensorType) for value in given
    )


def _as_vector(axes: Any) -> Any:
    """Return axes that are a single number as a vector, as ONNX Runtime reads them."""
    value = None if axes is None else constant_value(axes)
    return axes if value is None or value.ndim else constant(value.reshape(1))


def _check_inputs(operator: str, inputs: list[Any]) -> None:
    """Reject what has no elements, which loops over nothing; Concat drops it."""
    for value in inputs:
        known = isinstance(value, relax.Var) and isinstance(value.ty, relax.TensorType)
        if known and operator != "Concat" and 0 in shape_of(value):
            raise NotImplementedError(f"an input without elements, of shape {shape_of(value)}")


def _check_outputs(result: Any, wanted: int) -> None:
    """Reject a node some of whose outputs are not computed."""
    type_ = getattr(result, "ty", None)
    several = len(type_.fields) if isinstance(type_, relax.TupleType) else 1
    if wanted > several:
        raise NotImplementedError(f"its output {several + 1}")


def _check_results(mod: tvm.IRModule, graph: onnx.GraphProto) -> None:
    """Reject a network one of whose outputs has no elements."""
    type_ = mod["main"].body.ty
    types = type_.fields if isinstance(type_, relax.TupleType) else [type_]
    for output, each in zip(graph.output, types, strict=True):
        extents = [int(extent) for extent in each.shape.values]
        if 0 in extents:
            raise UserError(
                f"output '{output.name}' of shape {extents} has no elements; export the model "
                "without it"
            )
