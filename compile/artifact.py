"""From a model and a target to one `.so`: the function behind the `compile` command."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from tvm import relax, tirx

from mobilenet_tvm.compile.codegen.build import write_artifact
from mobilenet_tvm.compile.codegen.c_interface.library import write_c_library
from mobilenet_tvm.compile.codegen.c_interface.names import Names
from mobilenet_tvm.compile.frontend.read import graph_inputs
from mobilenet_tvm.compile.logs.decisions import Decisions, find_logs
from mobilenet_tvm.compile.logs.log import TuningLog
from mobilenet_tvm.compile.models.source import ModelOptions, Source, resolve
from mobilenet_tvm.compile.output_file import prepare_folder, prepare_output
from mobilenet_tvm.compile.passes.heads import DTYPES
from mobilenet_tvm.compile.passes.network_calls import NetworkCall
from mobilenet_tvm.compile.pipeline import Lowered, lower
from mobilenet_tvm.runtime.c_library import PREFIX
from mobilenet_tvm.runtime.metadata import Metadata, TensorInfo
from mobilenet_tvm.targets.errors import WrongUseError
from mobilenet_tvm.targets.presets import PRESETS, get_target
from mobilenet_tvm.targets.target import Target

_LOGGER = logging.getLogger(__name__)

#: What may call a compiled model.
INTERFACES = ("python", "c")


@dataclass(frozen=True)
class Artifact:
    """A compiled model on disk.

    Parameters
    ----------
    path : Path
        The `.so`.
    metadata : Metadata
        What is embedded in it.
    seconds : float
        How long compiling took.
    logs : tuple of TuningLog
        Where its decisions came from, with the lines that could not be used.
    """

    path: Path
    metadata: Metadata
    seconds: float
    logs: tuple[TuningLog, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size


def compile_model(
    model: str | Path | onnx.ModelProto,
    target: str | Target = "native",
    output: str | Path | None = None,
    dump: str | Path | None = None,
    tuning_log: str | Path | None = None,
    dtype: str = "float32",
    interface: str = "python",
    static: bool = False,
    **options: Any,
) -> Artifact:
    """Compile a MobileNet into one shared library.

    Parameters
    ----------
    model : str, Path or onnx.ModelProto
        A name that `mobilenet-tvm models` lists, an ONNX file, or a model in memory.
    target : str or Target
        A name that `mobilenet-tvm targets` lists. Default: this machine.
    output : str or Path, optional
        The file to write. Default `build/<model>-<target>.so`, with `-float16` after the target.
        For C, the folder of its files. Default `build/<model>-<target>`.
    dump : str or Path, optional
        A folder to write the network to as it is after each phase.
    tuning_log : str or Path, optional
        The tuning log to take decisions from, or `none`. Default: the user's own log, then the
        shipped one.
    dtype : str
        Type of the values that layers compute: `float32`, or `float16` on a GPU or on a CPU that
        multiplies it. Inputs and outputs keep the model's types.
    interface : str
        `python`, or `c`: a library for C, which needs no TVM, and its header. `load` takes both.
    static : bool
        Whether to write a static library beside the shared one; for C.
    **options
        Fields of `ModelOptions`: alpha, resolution, classes, weights, seed, batch, input_shapes,
        until.

    Returns
    -------
    Artifact
        The file and its metadata.

    Raises
    ------
    UserError
        If the model, the target, an option, the log or the output cannot be used.
    """
    start = time.perf_counter()
    machine = get_target(target) if isinstance(target, str) else target
    check_dtype(dtype, machine)
    for_c = check_interface(interface, static, machine)
    try:
        choices = ModelOptions(**options)
    except TypeError:
        known = ", ".join(ModelOptions.__dataclass_fields__)
        raise WrongUseError(
            f"unknown option among {', '.join(options)}; known options: {known}"
        ) from None
    logs = find_logs(tuning_log, machine)
    decisions = Decisions(logs)
    source = resolve(model, choices)
    _announce_not_finite(source.model)
    suffix = "" if dtype == "float32" else f"-{dtype}"
    stem = f"{source.name}-{machine.name}{suffix}"
    path = Path(output) if output else Path("build") / (stem if for_c else f"{stem}.so")
    if for_c:
        names = Names.of(source.name)
        _prepare_for_c(path, names)
    else:
        prepare_output(path, model, choices.weights, tuning_log)
    lowered = lower(source.model, machine, decisions, None if dump is None else Path(dump), dtype)
    metadata = _describe(source, machine, dtype, lowered, decisions)
    if for_c:
        metadata = replace(metadata, extra={**metadata.extra, PREFIX: names.prefix})
        path = write_c_library(lowered.mod, machine, metadata, path, static)
    else:
        write_artifact(lowered.mod, machine, metadata, path)
    return Artifact(path, metadata, time.perf_counter() - start, tuple(logs))


def _prepare_for_c(folder: Path, names: Names) -> None:
    """Check that a library for C can be written to a folder, before the work on it starts."""
    if folder.suffix in (".a", ".h", ".so"):
        raise WrongUseError(
            f"{folder}: is the name of a file, and --interface c writes a library and a header; "
            "give the name of a folder"
        )
    prepare_folder(folder, *names.files)


def _announce_not_finite(model: onnx.ModelProto) -> None:
    """Log a line if a weight holds NaN or infinity; one number may be a bound."""
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    found = [
        name
        for name, array in tensors.items()
        if array.size > 1 and array.dtype.kind == "f" and not np.isfinite(array).all()
    ]
    if found:
        others = f" and {len(found) - 1} more" if len(found) > 1 else ""
        _LOGGER.warning(
            "warning: weight '%s'%s holds NaN or infinity, and so may the outputs", found[0], others
        )


def check_dtype(dtype: str, target: Target) -> None:
    """Make sure that a target's layers can compute values of a type.

    Raises
    ------
    WrongUseError
        If they cannot.
    """
    if dtype not in DTYPES:
        raise WrongUseError(f"unknown dtype '{dtype}'; known: {', '.join(DTYPES)}")
    if dtype != "float32" and target.gpu is None and not target.float16:
        others = ", ".join(name for name, known in PRESETS.items() if known.float16)
        raise WrongUseError(
            f"{target.name} does not multiply {dtype}; leave --dtype out, or compile for a GPU or "
            f"a CPU that does: {others}"
        )


def check_interface(interface: str, static: bool, target: Target) -> bool:
    """Make sure that there are libraries with an interface for a target; return whether it is C's.

    Raises
    ------
    WrongUseError
        If there are none.
    """
    if interface not in INTERFACES:
        raise WrongUseError(f"unknown interface '{interface}'; known: {', '.join(INTERFACES)}")
    for_c = interface == "c"
    if static and not for_c:
        raise WrongUseError("a static library is for C; add --interface c")
    if for_c and target.gpu is not None:
        raise WrongUseError(
            f"a library for C computes on a CPU, and {target.name} is a GPU; choose a CPU target "
            "such as arm64"
        )
    return for_c


def _describe(
    source: Source, target: Target, dtype: str, lowered: Lowered, decisions: Decisions
) -> Metadata:
    main = lowered.mod["main"]
    names = [value.name for value in graph_inputs(source.model)]
    inputs = zip(names, [param.ty for param in main.params], strict=True)
    results = main.ret_ty.fields if isinstance(main.ret_ty, relax.TupleType) else [main.ret_ty]
    outputs = zip([value.name for value in source.model.graph.output], results, strict=True)
    calls = [_call(call, decisions) for call in lowered.calls]
    extra: dict[str, Any] = {
        "dtype": dtype,
        "activation_bytes": lowered.activation_bytes,
        "functions": sum(isinstance(f, tirx.PrimFunc) for f in lowered.mod.functions.values()),
        "calls": calls,
        "shared_outputs": lowered.shared_outputs,
    }
    if source.recipe:
        extra["recipe"] = dict(source.recipe)
    return Metadata(
        model=source.name,
        inputs=tuple(_tensor(name, type_) for name, type_ in inputs),
        outputs=tuple(_tensor(name, type_) for name, type_ in outputs),
        target={
            "name": target.name,
            "triple": target.triple,
            "cpu": target.cpu,
            "features": ",".join(target.features),
            "kind": target.kind,
        },
        required_features=target.required_features,
        versions={
            package: version(package)
            for package in ("mobilenet-tvm", "apache-tvm", "apache-tvm-ffi", "onnx")
        },
        weights=source.weights,
        layers=len(lowered.layers),
        tuned_layers=sum(call["tuned"] for call in calls),
        extra=extra,
    )


def _call(call: NetworkCall, decisions: Decisions) -> dict[str, Any]:
    """Return what `profile` shows of a call, apart from its time."""
    layer = call.layer
    source = decisions.source(layer.workload) if layer else ""
    return {
        "function": call.function,
        "node": call.node,
        "workload": str(layer.workload) if layer else call.function,
        "flops": call.flops,
        "bytes": call.bytes,
        "decision": vars(layer.decision) if layer else {},
        "tuned": source not in ("", "default"),
        "source": source,
    }


def _tensor(name: str, type_: relax.TensorType) -> TensorInfo:
    return TensorInfo(name, tuple(int(extent) for extent in type_.shape.values), str(type_.dtype))
