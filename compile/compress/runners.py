"""Runs a compiled model or an ONNX file on pictures, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mobilenet_tvm.compile.compress.pictures import Preprocessing, image_layout, read_picture
from mobilenet_tvm.compile.frontend.read import fix_shapes, graph_inputs, load_onnx
from mobilenet_tvm.runtime import load
from mobilenet_tvm.targets.errors import UserError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Runner:
    """A network with one picture as input.

    Parameters
    ----------
    shape : tuple of int
        The input's: [1, C, H, W] or [1, H, W, C].
    dtype : str
        The input's.
    run : callable
        Maps such an input to the first output.
    """

    shape: tuple[int, ...]
    dtype: str
    run: Callable[[Array], Array]

    def read(self, path: Path, preprocessing: Preprocessing) -> Array:
        """Read a picture as the input; see `read_picture`."""
        return read_picture(path, self.shape, self.dtype, preprocessing)

    def is_classifier(self, image: Array) -> bool:
        """Return whether the first output has one score per class, on some picture."""
        scores = self.run(image)
        return scores.ndim > 1 and scores.size == scores.shape[1]

    def classify(self, image: Array) -> Array:
        """Return the scores of one picture, one per class, as float32."""
        scores = self.run(image)
        if scores.ndim < 2 or scores.size != scores.shape[1]:
            raise UserError(
                f"the network's first output is {list(scores.shape)}, not one score per class; "
                "give a classifier, or end it at its scores with --until when compiling"
            )
        return np.asarray(scores, np.float32).ravel()


def open_runner(path: str | Path, threads: int | None = None) -> Runner:
    """Open a compiled model (`.so`) or an ONNX file, which ONNX Runtime runs.

    Parameters
    ----------
    path : str or Path
        The file.
    threads : int, optional
        Threads to run with. Default: the runtime's own.

    Raises
    ------
    UserError
        If the file cannot be run here, or does not take one picture.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        model = load(path, threads=threads)
        tensor = model.inputs[0]
        return _checked(tensor.shape, tensor.dtype, lambda image: _first(model(image)), path)
    return runner_of(fix_shapes(load_onnx(path)), threads, str(path))


def runner_of(
    model: onnx.ModelProto, threads: int | None = None, origin: str = "the model"
) -> Runner:
    """Return a model in memory as ONNX Runtime runs it; see `open_runner`."""
    tensor, *others = graph_inputs(model)
    if others:
        raise UserError(f"{origin} has several inputs; give one that reads a picture only")
    session = session_of(model, threads)
    shape = tuple(dim.dim_value for dim in tensor.type.tensor_type.shape.dim)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.type.tensor_type.elem_type).name

    def run(image: Array) -> Array:
        return np.asarray(session.run(None, {tensor.name: image})[0])

    return _checked(shape, dtype, run, origin)


def session_of(model: onnx.ModelProto, threads: int | None = None, *, optimize: bool = True) -> Any:
    """Return a session of ONNX Runtime, in which no sum of integers saturates."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError("this needs ONNX Runtime; run: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.x64quantprecision", "1")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        # ONNX Runtime's exceptions share no base class that is public.
        reason = str(error).partition("\n")[0]
        raise UserError(f"ONNX Runtime cannot run the model ({reason})") from error


def _checked(
    shape: tuple[int, ...], dtype: str, run: Callable[[Array], Array], origin: str | Path
) -> Runner:
    try:
        image_layout(shape)
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None
    return Runner(shape, dtype, run)


def _first(output: Any) -> Array:
    return np.asarray(next(iter(output.values())) if isinstance(output, dict) else output)
