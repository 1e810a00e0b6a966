"""Lists what there is to choose from: the named models and the targets."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from mobilenet_tvm.compile.models.counts import macs, parameter_count
from mobilenet_tvm.compile.models.named import NAMES, PUBLISHED, ModelSpec, Published, outline
from mobilenet_tvm.targets.errors import UserError
from mobilenet_tvm.targets.presets import ALIASES, PRESETS, native
from mobilenet_tvm.targets.target import Target


@dataclass(frozen=True)
class ListedModel:
    """A named model at its default options.

    Parameters
    ----------
    name : str
        As `compile_model` takes it.
    parameters : int
        Trainable parameters, as counted.
    macs : int
        Multiply-accumulates of one image, as counted.
    published : Published
        The figures of the literature.
    """

    name: str
    parameters: int
    macs: int
    published: Published


@dataclass(frozen=True)
class ListedTarget:
    """A target and its other names."""

    target: Target
    aliases: tuple[str, ...]


def list_models() -> list[ListedModel]:
    """Return the named models, counted, beside the published figures."""
    found = []
    for name in NAMES:
        model = outline(ModelSpec(name))
        found.append(ListedModel(name, parameter_count(model), macs(model), PUBLISHED[name]))
    return found


def list_targets() -> list[ListedTarget]:
    """Return the targets, this machine last, if it can be one."""
    targets = list(PRESETS.values())
    with suppress(UserError):
        targets.append(native())
    return [
        ListedTarget(target, tuple(a for a, name in ALIASES.items() if name == target.name))
        for target in targets
    ]
