"""Finds the model that a user asks for: a named one, or an ONNX file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx

from mobilenet_tvm.compile.frontend.cut import cut_until
from mobilenet_tvm.compile.frontend.read import fix_shapes, load_onnx, prepare
from mobilenet_tvm.compile.models.named import ModelSpec, build, canonical_name, weights_origin
from mobilenet_tvm.runtime.metadata import Metadata
from mobilenet_tvm.targets.errors import WrongUseError


@dataclass(frozen=True)
class ModelOptions:
    """Options of a model; None stands for the model's own.

    Parameters
    ----------
    alpha : float, optional
        Width multiplier of a named model.
    resolution : int, optional
        Height and width of a named model's input, in pixels.
    classes : int, optional
        Number of a named model's outputs.
    weights : str, optional
        A file, or `pretrained`, for a named model.
    seed : int, optional
        Seed of a named model's random weights.
    batch : int, optional
        Images per run.
    input_shapes : mapping of str to tuple of int
        Shapes of an ONNX file's dynamic inputs.
    until : str or sequence of str
        The nodes or tensors after which the network ends. Default: its outputs, or what comes
        before nodes whose shapes depend on the data.
    """

    alpha: float | None = None
    resolution: int | None = None
    classes: int | None = None
    weights: str | None = None
    seed: int | None = None
    batch: int | None = None
    input_shapes: Mapping[str, tuple[int, ...]] | None = None
    until: str | Sequence[str] | None = None


@dataclass(frozen=True)
class Source:
    """A model that is ready to compile.

    Parameters
    ----------
    name : str
        For the output file and the metadata, such as `mobilenet_v2`.
    model : onnx.ModelProto
        With static input shapes.
    weights : str
        A short description of where the weights come from.
    recipe : mapping
        How to build a named model again: `model` and the fields of `ModelOptions`.
        For a file, whose path is private, only `until`, the outputs that it was cut to, if it was.
    """

    name: str
    model: onnx.ModelProto
    weights: str
    recipe: Mapping[str, Any] = field(default_factory=dict)


def resolve(model: str | Path | onnx.ModelProto, options: ModelOptions) -> Source:
    """Find or build a model and fix its shapes.

    Parameters
    ----------
    model : str, Path or onnx.ModelProto
        A name such as `v2`, the path of an ONNX file, or a model in memory.
    options : ModelOptions
        Options that do not apply to the kind of model are refused.

    Returns
    -------
    Source
        The model with static shapes.

    Raises
    ------
    UserError
        If there is no such model, the file is damaged, or an option does not apply.
    """
    if isinstance(model, onnx.ModelProto):
        return _from_onnx(model, "the model", "model", "in memory", options)
    if _is_path(model):
        path = Path(model)
        loaded = load_onnx(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        weights = f"file: {path.name} (sha256 {digest})"
        return _from_onnx(loaded, str(path), path.stem, weights, options)
    if options.input_shapes:
        raise WrongUseError("--input-shape is for ONNX files; a named model takes --resolution")
    given = {"alpha": options.alpha, "resolution": options.resolution, "classes": options.classes}
    given = {name: value for name, value in given.items() if value is not None}
    spec = ModelSpec(str(model), batch=options.batch or 1, **given)  # type: ignore[arg-type]
    if options.weights is not None and options.seed is not None:
        raise WrongUseError("--seed is for random weights; give either --weights or --seed")
    built = build(spec, options.weights, options.seed or 0)
    recipe: dict[str, Any] = {"model": spec.name, "batch": spec.batch, **given}
    if options.until:
        cut_until(built.graph, options.until)
        recipe["until"] = _output_names(built)
    if options.weights is None:
        recipe["seed"] = options.seed or 0
    elif options.weights == "pretrained":
        recipe["weights"] = options.weights
    return Source(spec.title, built, weights_origin(built) or "unknown", recipe)


def resolve_again(metadata: Metadata, model: str | Path | None, options: ModelOptions) -> Source:
    """Find or build the model that an artifact was compiled from.

    Parameters
    ----------
    metadata : Metadata
        The artifact's, with the shapes and all options of a named model.
    model : str or Path, optional
        Required if the artifact was compiled from a file.
    options : ModelOptions
        Override those of the artifact, such as `weights`.

    Returns
    -------
    Source
        The model with the artifact's shapes.

    Raises
    ------
    UserError
        As `resolve`, or if the model is not known.
    """
    recipe = dict(metadata.extra.get("recipe", {}))
    name = recipe.pop("model", None)
    if name is not None:
        # An artifact from elsewhere does not choose files to read here.
        name = canonical_name(name)
    if model is None and name is None:
        raise WrongUseError(f"{metadata.model} was compiled from a file; give it with --model")
    given = {k: v for k, v in vars(options).items() if v is not None}
    if model is not None and _is_path(model):
        shapes = {tensor.name: tensor.shape for tensor in metadata.inputs}
        return resolve(
            model,
            replace(
                options,
                input_shapes=options.input_shapes or shapes,
                until=options.until or recipe.get("until"),
            ),
        )
    if "weights" in given:
        recipe.pop("seed", None)
    if name is not None and model is not None and canonical_name(str(model)) != name:
        recipe = {}
    return resolve(model or name, ModelOptions(**{**recipe, **given}))


def _from_onnx(
    model: onnx.ModelProto, origin: str, name: str, weights: str, options: ModelOptions
) -> Source:
    for option in ("alpha", "resolution", "classes", "weights", "seed"):
        if getattr(options, option) is not None:
            raise WrongUseError(f"--{option} is for named models; an ONNX file has its own")
    prepared = prepare(model, origin, options.until or ())
    outputs = _output_names(prepared)
    recipe = {"until": outputs} if outputs != _output_names(model) else {}
    return Source(name, fix_shapes(prepared, options.batch, options.input_shapes), weights, recipe)


def _output_names(model: onnx.ModelProto) -> list[str]:
    return [output.name for output in model.graph.output]


def _is_path(model: str | Path) -> bool:
    """Tell a file from a name: it has a suffix or a separator, or it exists."""
    path = Path(model)
    try:
        return path.suffix != "" or len(path.parts) > 1 or path.is_file()
    except OSError:
        return True  # too long for a name of either kind
