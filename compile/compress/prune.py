"""Prunes a network to fewer channels inside its blocks: the function behind `prune`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mobilenet_tvm.compile.compress.channels import Channels, find_channels, remove
from mobilenet_tvm.compile.compress.criteria import by_activation, by_magnitude, by_norm
from mobilenet_tvm.compile.compress.evaluate import Evaluation, evaluate
from mobilenet_tvm.compile.compress.float_graph import FloatGraph, require_float32
from mobilenet_tvm.compile.compress.fold_norm import fold_norm
from mobilenet_tvm.compile.compress.pictures import Preprocessing, find_pictures, spread
from mobilenet_tvm.compile.compress.predict import Prediction, predict
from mobilenet_tvm.compile.compress.reconstruct import reconstruct
from mobilenet_tvm.compile.compress.runners import runner_of
from mobilenet_tvm.compile.compress.statistics import channel_moments
from mobilenet_tvm.compile.compress.widths import kept_count, vector_of
from mobilenet_tvm.compile.frontend.fold import fold_constants
from mobilenet_tvm.compile.models.counts import macs, static_shapes
from mobilenet_tvm.compile.models.source import ModelOptions, resolve
from mobilenet_tvm.compile.output_file import prepare_output
from mobilenet_tvm.compile.pipeline import layers
from mobilenet_tvm.runtime.atomic import replacing
from mobilenet_tvm.targets.errors import UserError, WrongUseError
from mobilenet_tvm.targets.presets import get_target
from mobilenet_tvm.targets.target import Target

Array = np.ndarray[Any, Any]

_log = logging.getLogger(__name__)

CRITERIA = ("activation", "magnitude", "norm", "random")


@dataclass(frozen=True)
class PruneOptions:
    """What to prune.

    Parameters
    ----------
    sparsity : float
        The share of each block's channels to be removed, above 0 and below 1.
    by : str, optional
        Which channels stay: one of `CRITERIA`. Default: `activation` with pictures, `magnitude`
        without.
    seed : int
        Of `random`.
    refit : bool
        Whether, with pictures, the channels that stay are fitted to stand in for the others.
    calibration : int
        How many of the pictures activations are taken from.
    held_out : int
        How many of the others the result is evaluated on, at most.
    """

    sparsity: float
    by: str | None = None
    seed: int = 0
    refit: bool = True
    calibration: int = 64
    held_out: int = 1000

    def __post_init__(self) -> None:
        """Raise a UserError where an option has an invalid value."""
        if not 0 < self.sparsity < 1:
            raise WrongUseError(
                f"sparsity {self.sparsity:g} is not between 0 and 1; give the share of channels "
                "to remove, such as 0.25"
            )
        if self.by not in (None, *CRITERIA):
            raise WrongUseError(f"unknown criterion '{self.by}'; known: {', '.join(CRITERIA)}")
        if self.calibration < 1 or self.held_out < 0 or self.seed < 0:
            raise WrongUseError("--calibration needs a picture at least; no number is negative")


@dataclass(frozen=True)
class PrunedBlock:
    """The channels of one block: the node that makes them, and how many there were and are."""

    node: str
    before: int
    after: int


@dataclass(frozen=True)
class PruneResult:
    """A pruned network, beside the full one.

    Parameters
    ----------
    path : Path
        The file.
    weights : str
        A short description of where the weights come from.
    target : str
        The target's name.
    vector : int
        Channels that are removed at a time.
    by : str
        The criterion.
    blocks : tuple of PrunedBlock
        In the network's order.
    macs, full_macs : int
        Multiply-accumulates of one run.
    size_bytes, full_bytes : int
        Size of the file, and of the full network as a file.
    prediction : Prediction, optional
        Times by tuning logs. None if these know no layer.
    calibrated_on : int
        Number of pictures that activations were taken from.
    held_out : Evaluation, optional
        On other pictures, compared with the full network. None if there are none, or the network is
        no classifier.
    """

    path: Path
    weights: str
    target: str
    vector: int
    by: str
    blocks: tuple[PrunedBlock, ...]
    macs: int
    full_macs: int
    size_bytes: int
    full_bytes: int
    prediction: Prediction | None = None
    calibrated_on: int = 0
    held_out: Evaluation | None = None

    @property
    def channels(self) -> int:
        """Channels of all blocks of the full network."""
        return sum(block.before for block in self.blocks)

    @property
    def removed(self) -> int:
        """How many of them were removed."""
        return self.channels - sum(block.after for block in self.blocks)


def prune_model(
    model: str | Path | onnx.ModelProto,
    output: str | Path,
    options: PruneOptions,
    *,
    target: str | Target = "native",
    images: str | Path | None = None,
    labels: str | Path | None = None,
    preprocessing: Preprocessing | None = None,
    first_class: int = 0,
    **model_options: Any,
) -> PruneResult:
    """Remove a share of the channels inside each block of a network.

    These are the channels of the expanded tensor of an inverted residual, with their depthwise
    filters, or those between the pointwise layers of MobileNetV1. The values that residuals join
    keep their channels. The result is a plain smaller network. Constants keep their names, so that
    those of a named model are those of a PyTorch state dict.

    Parameters
    ----------
    model : str, Path or onnx.ModelProto
        As for `compile_model`.
    output : str or Path
        The ONNX file to write.
    options : PruneOptions
        What to prune.
    target : str or Target
        The machine, whose vectors decide how many channels are removed at a time.
    images : str or Path, optional
        Pictures to take activations from and to evaluate on.
    labels, preprocessing, first_class
        As for `evaluate_model`.
    **model_options
        Fields of `ModelOptions`.

    Returns
    -------
    PruneResult
        The file, and what it saves and costs.

    Raises
    ------
    UserError
        If the model is quantised or has no such channels, none would be removed or none left, a
        picture cannot be read, or the file cannot be written.
    """
    path, machine = Path(output), get_target(target) if isinstance(target, str) else target
    by = options.by or ("magnitude" if images is None else "activation")
    if images is None and (by == "activation" or labels is not None):
        raise WrongUseError("--by activation and --labels need pictures; give --images")
    if path.suffix != ".onnx":
        raise WrongUseError(f"{path}: the result is an ONNX file; give a name that ends in .onnx")
    pictures = [] if images is None else find_pictures(images, labels)
    found = resolve(model, ModelOptions(**model_options))
    require_float32(found.model, "prune")
    full = fold_constants(found.model)
    counts = _plan(full, options.sparsity, machine)
    prepare_output(path, model, model_options.get("weights"), images, labels)
    before = layers(full, machine)
    chosen, others = spread(pictures, options.calibration)
    how, inputs = preprocessing or Preprocessing(), []
    if pictures:
        reference = runner_of(full)
        inputs = [reference.read(picture.path, how) for picture in chosen]
        _log.info("taking activations from %d pictures", len(chosen))
    small, blocks = prune(full, counts, by, inputs, refit=options.refit, seed=options.seed)
    after = layers(small, machine)
    data = small.SerializeToString()
    try:
        with replacing(path) as scratch:
            scratch.write_bytes(data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another") from None
    held_out = None
    left = spread(others, options.held_out)[0] if options.held_out else []
    if left and reference.is_classifier(inputs[0]):
        _log.info("evaluating on %d pictures", len(left))
        held_out = evaluate(runner_of(small), left, how, reference, first_class)
    return PruneResult(
        path,
        found.weights,
        machine.name,
        vector_of(machine),
        by,
        blocks,
        macs(small),
        macs(full),
        len(data),
        len(full.SerializeToString()),
        predict(before, after, machine),
        len(chosen),
        held_out,
    )


def prune(
    full: onnx.ModelProto,
    counts: Sequence[int],
    by: str,
    inputs: Sequence[Array] = (),
    *,
    refit: bool = True,
    seed: int = 0,
) -> tuple[onnx.ModelProto, tuple[PrunedBlock, ...]]:
    """Prune a float network.

    Parameters
    ----------
    full : onnx.ModelProto
        With static shapes and folded constants; it is not changed.
    counts : sequence of int
        How many channels stay, for each of `find_channels`.
    by : str
        One of `CRITERIA`.
    inputs : sequence of numpy.ndarray
        Inputs to take activations from; `activation` needs some.
    refit, seed
        As in `PruneOptions`.

    Returns
    -------
    small : onnx.ModelProto
        The pruned network.
    blocks : tuple of PrunedBlock
        What was removed.
    """
    graph, folded = FloatGraph(full), FloatGraph(fold_norm(full))
    blocks = find_channels(graph)
    moments = channel_moments(full, _read_values(blocks), inputs) if inputs else {}
    random = np.random.default_rng(seed)
    pruned = []
    for block, same, count in zip(blocks, find_channels(folded), counts, strict=True):
        match by:
            case "activation":
                score = by_activation(folded, same, moments, count)
            case "magnitude":
                score = by_magnitude(folded, same)
            case "norm":
                score = by_norm(graph, block)
            case _:
                score = random.random(block.count)
        kept = np.sort(np.argsort(-score, kind="stable")[:count])
        pruned.append(PrunedBlock(block.name, block.count, count))
        if inputs and refit:
            reconstruct(graph, block, kept, moments)
        remove(graph, block, kept)
    return graph.model(), tuple(pruned)


def _plan(full: onnx.ModelProto, sparsity: float, target: Target) -> list[int]:
    """Return how many channels stay in each block."""
    blocks, shapes = find_channels(FloatGraph(full)), static_shapes(full)
    if not blocks:
        raise UserError(
            "the model has no channels that can be removed: no layer inside a block makes them for "
            "another layer alone"
        )
    counts = [kept_count(block, sparsity, target, shapes) for block in blocks]
    if counts == [block.count for block in blocks]:
        raise UserError(
            f"sparsity {sparsity:g} removes nothing, since {target.name} computes "
            f"{vector_of(target)} channels at a time; give a larger one"
        )
    return counts


def _read_values(blocks: Sequence[Channels]) -> list[str]:
    """Return the values that layers read channels from."""
    return [node.input[0] for block in blocks for node in (*block.readers, *block.pooled_readers)]
