"""Quantises a float network to 8-bit integers: the function behind `quantize`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter

from mobilenet_tvm.compile.compress.calibrate import PERCENTILES, Calibration
from mobilenet_tvm.compile.compress.correct_bias import correct_bias
from mobilenet_tvm.compile.compress.equalize import equalize
from mobilenet_tvm.compile.compress.evaluate import Evaluation, evaluate
from mobilenet_tvm.compile.compress.float_graph import FloatGraph, require_float32
from mobilenet_tvm.compile.compress.fold_norm import fold_norm
from mobilenet_tvm.compile.compress.pictures import Preprocessing, find_pictures, spread
from mobilenet_tvm.compile.compress.qdq import to_qdq, weights_of
from mobilenet_tvm.compile.compress.runners import runner_of, session_of
from mobilenet_tvm.compile.compress.search_ranges import search_ranges
from mobilenet_tvm.compile.compress.sensitivity import most_sensitive
from mobilenet_tvm.compile.compress.statistics import channel_means, peaks, values_of
from mobilenet_tvm.compile.frontend.check import first_line, opset_of
from mobilenet_tvm.compile.frontend.fold import fold_constants
from mobilenet_tvm.compile.models.source import ModelOptions, resolve
from mobilenet_tvm.compile.output_file import prepare_output
from mobilenet_tvm.runtime.atomic import replacing
from mobilenet_tvm.targets.errors import UserError, WrongUseError

Array = np.ndarray[Any, Any]

_log = logging.getLogger(__name__)

METHODS = ("search", "mse", "percentile", "entropy", "minmax")

#: The percentile of `percentile`; `search` corrects biases for the ranges that it gives.
_PERCENTILE = 99.99

#: DequantizeLinear has a scale per channel from this version on.
_OPSET = 13

#: Calibration pictures on which a range, or a layer that may stay float, is tried.
_TRIALS = 16


@dataclass(frozen=True)
class QuantizeOptions:
    """How to quantise.

    Parameters
    ----------
    calibration : int
        How many of the pictures ranges are taken from.
    held_out : int
        How many of the others the result is evaluated on, at most.
    method : str
        How ranges are chosen: one of `METHODS`.
    equalize : bool
        Whether to equalise the ranges of weights across layers.
    correct_bias : bool
        Whether to correct biases for the error of the weights.
    keep_float : int
        How many layers to leave in float: those that cost most.
    """

    calibration: int = 64
    held_out: int = 1000
    method: str = "search"
    equalize: bool = True
    correct_bias: bool = True
    keep_float: int = 0

    def __post_init__(self) -> None:
        """Raise a UserError where an option has an invalid value."""
        if self.method not in METHODS:
            raise WrongUseError(f"unknown method '{self.method}'; known: {', '.join(METHODS)}")
        if self.calibration < 1 or self.held_out < 0 or self.keep_float < 0:
            raise WrongUseError("--calibration needs a picture at least, and no count is negative")


@dataclass(frozen=True)
class QuantizeResult:
    """A quantised network, and what it cost.

    Parameters
    ----------
    path : Path
        The file.
    weights : str
        A short description of where the weights come from.
    size_bytes, float_bytes : int
        Size of the file, and of the float network as a file.
    calibrated_on : int
        Number of calibration pictures.
    calibration, held_out : Evaluation, optional
        On the calibration pictures, and on others, compared with the float network. None if the
        network is no classifier, or there are no others.
    layers : dict of str to float
        Ratio of signal to quantisation error at each layer's output in dB, in the network's order,
        all layers before being quantised.
    kept_float : tuple of str
        The layers that were left in float.
    """

    path: Path
    weights: str
    size_bytes: int
    float_bytes: int
    calibrated_on: int
    calibration: Evaluation | None
    held_out: Evaluation | None
    layers: dict[str, float] = field(default_factory=dict)
    kept_float: tuple[str, ...] = ()


def quantize_model(
    model: str | Path | onnx.ModelProto,
    images: str | Path,
    output: str | Path,
    options: QuantizeOptions | None = None,
    *,
    labels: str | Path | None = None,
    preprocessing: Preprocessing | None = None,
    first_class: int = 0,
    **model_options: Any,
) -> QuantizeResult:
    """Quantise a float network to 8-bit integers, and say what it costs.

    Parameters
    ----------
    model : str, Path or onnx.ModelProto
        As for `compile_model`.
    images, labels, preprocessing, first_class
        As for `evaluate_model`.
    output : str or Path
        The ONNX file to write, in the QDQ format.
    options : QuantizeOptions, optional
        How to quantise.
    **model_options
        Fields of `ModelOptions`.

    Returns
    -------
    QuantizeResult
        The file, and errors.

    Raises
    ------
    UserError
        If the model is quantised already or is not float32, a picture cannot be read, or the file
        cannot be written.
    """
    options = options or QuantizeOptions()
    preprocessing = preprocessing or Preprocessing()
    path, choices = Path(output), ModelOptions(**model_options)
    prepare_output(path, model, choices.weights, labels)
    pictures = find_pictures(images, labels)
    found = resolve(model, choices)
    source = _prepared(found.model)
    reference = runner_of(source)
    chosen, others = spread(pictures, options.calibration)
    inputs = [reference.read(picture.path, preprocessing) for picture in chosen]
    quantized, network, kept = quantize(source, inputs, options)
    data = quantized.SerializeToString()
    try:
        with replacing(path) as scratch:
            scratch.write_bytes(data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another") from None
    runner = runner_of(quantized)
    evaluations: list[Evaluation | None] = [None, None]
    if reference.is_classifier(inputs[0]):
        held_out = spread(others, options.held_out)[0] if options.held_out else []
        for place, part in enumerate((chosen, held_out)):
            if part:
                _log.info("evaluating on %d pictures", len(part))
                evaluations[place] = evaluate(runner, part, preprocessing, reference, first_class)
    return QuantizeResult(
        path,
        found.weights,
        len(data),
        len(source.SerializeToString()),
        len(chosen),
        evaluations[0],
        evaluations[1],
        layer_errors(network, quantized, inputs[:_TRIALS]),
        kept,
    )


def quantize(
    source: onnx.ModelProto, inputs: Sequence[Array], options: QuantizeOptions
) -> tuple[onnx.ModelProto, onnx.ModelProto, tuple[str, ...]]:
    """Quantise a prepared float network.

    Parameters
    ----------
    source : onnx.ModelProto
        A float network with one input, with folded constants and names for all nodes.
    inputs : sequence of numpy.ndarray
        Inputs to calibrate on.
    options : QuantizeOptions
        How.

    Returns
    -------
    quantized : onnx.ModelProto
        In the QDQ format.
    network : onnx.ModelProto
        The float network that it was made from, with folded and equalised layers.
    kept : tuple of str
        The layers that were left in float.
    """
    network = fold_norm(source)
    if options.equalize:
        clips = [node.output[0] for node in network.graph.node if node.op_type == "Clip"]
        network = equalize(network, peaks(network, clips, inputs))
    _log.info("calibrating on %d pictures", len(inputs))
    calibration = Calibration(network, inputs, entropy=options.method == "entropy")
    ranges = {
        "minmax": lambda: calibration.percentile(100),
        "percentile": lambda: calibration.percentile(_PERCENTILE),
        "search": lambda: calibration.percentile(_PERCENTILE),
        "mse": calibration.mse,
        "entropy": calibration.entropy,
    }[options.method]()
    corrected = network
    if options.correct_bias:
        names = [node.input[0] for node in FloatGraph(network).layers()]
        weights = weights_of(to_qdq(network, ranges))
        corrected = correct_bias(network, weights, channel_means(network, names, inputs))
    session = session_of(source)
    few = inputs[:: -(-len(inputs) // _TRIALS)]
    references = [session.run(None, {source.graph.input[0].name: image}) for image in few]
    if options.method == "search":
        _log.info("choosing ranges by the error of the outputs, which takes minutes")
        candidates = [*map(calibration.percentile, PERCENTILES), calibration.mse()]
        ranges = search_ranges(corrected, candidates, few, references)
    kept: tuple[str, ...] = ()
    if options.keep_float:
        _log.info("looking for the layers that cost most")
        kept = most_sensitive(corrected, ranges, few, references, options.keep_float)
    return to_qdq(corrected, ranges, kept), network, kept


def layer_errors(
    network: onnx.ModelProto, quantized: onnx.ModelProto, inputs: Sequence[Array]
) -> dict[str, float]:
    """Return the ratio of signal to error in dB of each layer's output; see `QuantizeResult`."""
    after = {
        node.input[0]: node.output[0]
        for node in quantized.graph.node
        if node.op_type == "DequantizeLinear"
    }
    pairs: dict[str, tuple[str, str]] = {}
    names = {node.name: node.output[0] for node in FloatGraph(quantized).nodes}
    for node in FloatGraph(network).nodes:
        if node.op_type not in ("Conv", "Gemm", "MatMul", "Add"):
            continue
        # A ReLU after the layer has become part of its quantisation, which has its name then.
        value = names[node.name].removesuffix("_QuantizeLinear_Input")
        place = after.get(f"{value}_QuantizeLinear_Output", value)
        pairs[node.name] = value, place
    signal = dict.fromkeys(pairs, 0.0)
    noise = dict.fromkeys(pairs, 0.0)
    both = zip(
        values_of(network, [value for value, _ in pairs.values()], inputs),
        values_of(quantized, [place for _, place in pairs.values()], inputs),
        strict=True,
    )
    for expected, found in both:
        for name, (value, place) in pairs.items():
            signal[name] += float((expected[value] ** 2).sum())
            noise[name] += float(((found[place] - expected[value]) ** 2).sum())
    return {
        name: 10 * float(np.log10(signal[name] / noise[name])) if noise[name] else np.inf
        for name in pairs
        if signal[name]
    }


def _prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """Check that a network can be quantised, fold its constants and name its nodes."""
    require_float32(model, "quantise")
    if opset_of(model) < _OPSET:
        try:
            model = onnx.version_converter.convert_version(model, _OPSET)
        except RuntimeError as error:
            raise UserError(
                f"the model's opset {opset_of(model)} cannot be converted to {_OPSET} "
                f"({first_line(error)}); export it again with that"
            ) from None
    model = fold_constants(model)
    taken: set[str] = set()
    for node in model.graph.node:
        if not node.name or node.name in taken:
            node.name = node.output[0]
        taken.add(node.name)
    return model
