"""Reads ONNX files, and gives their inputs static shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx.external_data_helper import load_external_data_for_tensor

from mobilenet_tvm.compile.frontend.check import (
    check_domains,
    check_model,
    check_texts,
    check_types,
    first_line,
    opset_of,
)
from mobilenet_tvm.compile.frontend.check_nodes import check_nodes
from mobilenet_tvm.compile.frontend.composed import expand_group_norm
from mobilenet_tvm.compile.frontend.cut import cut_tail, cut_until
from mobilenet_tvm.compile.frontend.graph import drop_dead, reads, sort
from mobilenet_tvm.compile.frontend.limits import MAX_ELEMENTS, check_size
from mobilenet_tvm.compile.frontend.qoperator import expand_qoperators
from mobilenet_tvm.compile.frontend.sparse import make_dense
from mobilenet_tvm.runtime.files import require_ordinary
from mobilenet_tvm.targets.errors import UserError

#: Most bytes of a file, protobuf's limit.
MAX_BYTES = (1 << 31) - 1


def read_onnx(path: str | Path) -> onnx.ModelProto:
    """Read, check and `prepare` an ONNX file; see `load_onnx`."""
    return prepare(load_onnx(path), str(path))


def load_onnx(path: str | Path) -> onnx.ModelProto:
    """Read an ONNX file.

    Parameters
    ----------
    path : str or Path
        The file; files with external data are in the same folder. Both may be links to files of
        one other folder.

    Returns
    -------
    onnx.ModelProto
        The model, with external data loaded.

    Raises
    ------
    UserError
        If the file is missing, empty, truncated, or not an ONNX model.
    """
    path = Path(path)
    try:
        require_ordinary(path)
        if path.stat().st_size > MAX_BYTES:
            raise UserError(
                f"{path}: larger than 2 GB, the most that protobuf reads; "
                "save it with external data"
            )
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give a model's name or an ONNX file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not data:
        raise UserError(f"{path}: the file is empty; export or download the model again")
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError:
        raise UserError(
            f"{path}: not an ONNX file, or truncated ({len(data)} bytes); "
            "export or download the model again"
        ) from None
    check_texts(model, str(path))
    if not model.graph.node or not model.graph.output:
        raise UserError(f"{path}: not an ONNX model, since it has no graph; give another file")
    try:
        _load_linked(model, path)
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise UserError(
            f"{path}: its external data is missing or truncated; put the data file beside it "
            f"({first_line(error)})"
        ) from None
    return model


def _load_linked(model: onnx.ModelProto, path: Path) -> None:
    """Load external data that is a link into the folder to which the model itself is a link.

    Caches of downloaded models keep files this way. ONNX refuses all links, since one in a
    stranger's archive may lead anywhere.
    """
    if not path.is_symlink():
        return
    folder = path.resolve().parent
    for tensor in model.graph.initializer:
        places = [entry for entry in tensor.external_data if entry.key == "location"]
        link = path.parent / places[0].value if places else path
        if places and link.is_symlink() and link.resolve().parent == folder:
            places[0].value = link.resolve().name
            load_external_data_for_tensor(tensor, str(folder))


def prepare(
    model: onnx.ModelProto, origin: str, until: str | Sequence[str] = ()
) -> onnx.ModelProto:
    """Check a model that is in memory, and bring it into the form that the importer reads.

    Parameters
    ----------
    model : onnx.ModelProto
        The model, with its weights; it is not changed.
    origin : str
        The model's name in error messages, such as its path.
    until : str or sequence of str
        The nodes or tensors to cut the model behind. Default: it is cut before nodes whose shapes
        depend on the data, which is logged.

    Returns
    -------
    onnx.ModelProto
        A model without functions, dead nodes, sparse tensors and quantised operators, which have
        become float ones between DequantizeLinear and QuantizeLinear.

    Raises
    ------
    UserError
        If the model is not valid, an operator is not supported, or there is no such node.
    """
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    check_texts(prepared, origin)
    check_size(prepared, origin)
    sort(prepared.graph)
    if 18 <= opset_of(prepared) < 21:
        expand_group_norm(prepared.graph)
    check_model(prepared, origin)
    if prepared.functions:
        prepared = onnx.inliner.inline_local_functions(prepared)
    # Up to version 3 of the format, initialisers are inputs as well.
    inputs = graph_inputs(prepared)
    del prepared.graph.input[:]
    prepared.graph.input.extend(inputs)
    prepared.ir_version = max(prepared.ir_version, 4)
    if until:
        cut_until(prepared.graph, until)
    else:
        drop_dead(prepared.graph)
        cut_tail(prepared.graph)
    check_types(prepared, origin)
    make_dense(prepared.graph)
    check_nodes(prepared, origin)
    prepared = expand_qoperators(prepared)
    check_domains(prepared)
    return prepared


def graph_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the graph's inputs without those that are initialisers."""
    weights = {initializer.name for initializer in model.graph.initializer}
    weights.update(tensor.values.name for tensor in model.graph.sparse_initializer)
    return [value for value in model.graph.input if value.name not in weights]


def fix_shapes(
    model: onnx.ModelProto,
    batch: int | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> onnx.ModelProto:
    """Give every input a static shape.

    Parameters
    ----------
    model : onnx.ModelProto
        The model; it is not changed.
    batch : int, optional
        The extent of dynamic first axes. Default: 1.
    input_shapes : mapping of str to tuple of int, optional
        Shapes by input name, for inputs with other dynamic axes.

    Returns
    -------
    onnx.ModelProto
        A copy with static inputs.

    Raises
    ------
    UserError
        If a shape is missing, contradicts the file, or is for an unknown input, or if the model
        has no 4-D input.
    """
    shapes = dict(input_shapes or {})
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    inputs = graph_inputs(fixed)
    names = [value.name for value in inputs]
    used = {name for node in fixed.graph.node for name in reads(node)}
    used.update(output.name for output in fixed.graph.output)
    for name in shapes:
        if name not in names:
            raise UserError(f"the model has no input '{name}'; its inputs: {', '.join(names)}")
    for value in inputs:
        tensor = value.type.tensor_type
        declared = [_extent(dim) for dim in tensor.shape.dim]
        free_batch = bool(declared) and declared[0] is None
        wanted: list[int | None] = list(shapes.get(value.name, declared))
        if value.name not in shapes:
            if free_batch:
                wanted[0] = 1 if batch is None else batch
            elif batch is not None and declared and declared[0] != batch:
                raise UserError(
                    f"input '{value.name}' has a fixed batch of {declared[0]}; "
                    f"--batch {batch} needs a model exported with a dynamic batch"
                )
        if declared and len(wanted) != len(declared):
            raise UserError(
                f"input '{value.name}' has {len(declared)} axes, the given shape {len(wanted)}"
            )
        if value.name not in used:
            wanted = [given or 1 for given in wanted]
        if any(given is not None and given < 1 for given in wanted):
            raise UserError(f"input '{value.name}' of shape {wanted}; give extents of 1 and more")
        if math.prod(given or 1 for given in wanted) > MAX_ELEMENTS:
            raise UserError(
                f"input '{value.name}' of shape {wanted}, of which {MAX_ELEMENTS} elements are "
                "possible; give another --input-shape"
            )
        for axis, (given, extent) in enumerate(zip(wanted, declared, strict=False)):
            if given is None:
                raise UserError(
                    f"axis {axis} of input '{value.name}' is dynamic; "
                    f"fix it with --input-shape {value.name}=1,3,224,224"
                )
            if extent is not None and given != extent:
                raise UserError(
                    f"axis {axis} of input '{value.name}' is {extent} in the file, "
                    f"not {given}; export the model for that shape"
                )
        del tensor.shape.dim[:]
        for given in wanted:
            tensor.shape.dim.add().dim_value = given or 0
    if not any(len(value.type.tensor_type.shape.dim) == 4 for value in inputs):
        raise UserError(
            "the model has no image input (4 axes); give a MobileNet or a similar network"
        )
    return fixed


def _extent(dim: onnx.TensorShapeProto.Dimension) -> int | None:
    return dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
