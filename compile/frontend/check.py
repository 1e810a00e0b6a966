"""Checks ONNX models, and names what cannot be compiled."""

from __future__ import annotations

from collections import Counter

import onnx
from google.protobuf.message import EncodeError, Message
from onnx import numpy_helper

from mobilenet_tvm.targets.errors import UserError

MIN_OPSET, MAX_OPSET = 7, 26
#: Element types that are not supported: floats of 4 and 8 bits, texts, complex numbers.
_OTHER_TYPES = frozenset(
    number
    for name, number in onnx.TensorProto.DataType.items()
    if name.startswith(("FLOAT8", "FLOAT4", "STRING", "COMPLEX"))
)
#: Those with names. Of an output, the type may not be stated.
_KNOWN_TYPES = frozenset(onnx.TensorProto.DataType.values())


def check_model(model: onnx.ModelProto, origin: str) -> None:
    """Reject a model that is not valid ONNX, or of an unsupported version.

    Parameters
    ----------
    model : onnx.ModelProto
        The model, with its weights.
    origin : str
        The model's name in error messages, such as its path.

    Raises
    ------
    UserError
        If the model is rejected, with the reason.
    """
    opset = opset_of(model)
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise UserError(
            f"{origin}: opset {opset} is not supported; export it with an opset "
            f"from {MIN_OPSET} to {MAX_OPSET}"
        )
    checked = onnx.ModelProto()
    checked.CopyFrom(model)
    # Up to version 3, initialisers had to be inputs too, which runtimes do not need.
    checked.ir_version = max(checked.ir_version, 4)
    for output in checked.graph.output:
        # The checker demands an output's shape, which exporters omit and runtimes do not need.
        output.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(checked)
    except (onnx.checker.ValidationError, EncodeError) as error:
        raise UserError(f"{origin}: not a valid ONNX model: {first_line(error)}") from None
    except UnicodeDecodeError:
        # The checker's own message, of a file with such bytes.
        raise _not_text(origin) from None
    _check_tensors(model.graph, origin)
    for name, count in Counter(output.name for output in model.graph.output).items():
        if count > 1:
            raise UserError(
                f"{origin}: {count} outputs have the name '{name}'; remove all but one, "
                "or rename them with Identity nodes"
            )


def check_types(model: onnx.ModelProto, origin: str) -> None:
    """Reject element types that no CPU computes with; parameters as of `check_model`.

    NumPy has no bfloat16, so it cannot be an input or output.
    """
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for value in (*model.graph.input, *model.graph.output):
        types[value.name] = value.type.tensor_type.elem_type
    for node in model.graph.node:
        name = node.name or node.output[0]
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype", "output_dtype"):
                types[name] = attribute.i
            elif attribute.name == "value" and node.op_type.startswith("Constant"):
                types[name] = attribute.t.data_type
    ends = {value.name for value in (*model.graph.input, *model.graph.output)}
    for name, type_ in types.items():
        known = type_ in _KNOWN_TYPES
        if (
            not known
            or type_ in _OTHER_TYPES
            or (type_ == onnx.TensorProto.BFLOAT16 and name in ends)
        ):
            name_of = onnx.TensorProto.DataType.Name
            kind = name_of(type_).lower() if known else f"number {type_}"
            raise UserError(
                f"{origin}: '{name}' has the type {kind}, which cannot be compiled; "
                "export the model with float32 or 8-bit integers"
            )


def check_texts(message: Message, origin: str) -> None:
    """Reject texts that are not UTF-8, which protobuf lets pass.

    Raises
    ------
    UserError
        If there is one.
    """
    for field, value in message.ListFields():
        if isinstance(value, Message):
            check_texts(value, origin)
        elif field.type == field.TYPE_MESSAGE:
            for part in value:
                check_texts(part, origin)
        elif field.type == field.TYPE_STRING:
            # Protobuf returns what it cannot decode as it is.
            for text in (value,) if isinstance(value, str | bytes) else value:
                if isinstance(text, bytes):
                    raise _not_text(origin)


def _not_text(origin: str) -> UserError:
    return UserError(
        f"{origin}: damaged: a text in it is not UTF-8; export or download the model again"
    )


def _check_tensors(graph: onnx.GraphProto, origin: str) -> None:
    """Reject tensors whose data do not fit their types and shapes."""
    tensors = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            tensors += [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]
            for inner in (attribute.g, *attribute.graphs):
                _check_tensors(inner, origin)
    for tensor in tensors:
        if tensor.data_type not in _KNOWN_TYPES:
            raise UserError(
                f"{origin}: damaged: the tensor '{tensor.name}' has a type of number "
                f"{tensor.data_type}, which ONNX does not have; export or download the model again"
            )
        try:
            numpy_helper.to_array(tensor)
        except (KeyError, OverflowError, TypeError, ValueError, OSError) as error:
            raise UserError(
                f"{origin}: damaged: the tensor '{tensor.name}' does not fit its type and shape "
                f"({first_line(error)}); export or download the model again"
            ) from None


def check_domains(model: onnx.ModelProto) -> None:
    """Reject a model without functions that has other than ONNX's own operators.

    Raises
    ------
    UserError
        If there is such an operator, with the node's name.
    """
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise unsupported(node.op_type, node.name or node.output[0], f"domain {node.domain}")


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the standard operator set that a model uses."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)


def unsupported(operator: str, node: str, reason: str = "") -> UserError:
    """Return the error for a node that cannot be compiled."""
    why = f" ({reason})" if reason else ""
    return UserError(
        f"node '{node}': operator {operator} cannot be compiled{why}; "
        "compile what is before it with --until, or export the model without it"
    )


def first_line(error: Exception) -> str:
    """Return the first line of an error's message that is not empty."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
