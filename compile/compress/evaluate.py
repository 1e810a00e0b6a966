"""Measures how often a network names pictures as they are, or as another network does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobilenet_tvm.compile.compress.pictures import Picture, Preprocessing, find_pictures
from mobilenet_tvm.compile.compress.runners import Runner, open_runner
from mobilenet_tvm.targets.errors import UserError, WrongUseError

Array = np.ndarray[Any, Any]

#: Called after each picture with how many are done, and how many there are.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """How a network does on pictures; shares are from 0 to 1.

    Parameters
    ----------
    pictures : int
        How many there were.
    top1, top5 : float, optional
        Share of pictures whose class has the highest score, or one of the five highest. None if
        no classes are known.
    agreement : float, optional
        Share of pictures on which the other network has the same highest score. None without one.
    against_top1 : float, optional
        `top1` of the other network.
    pictures_per_second : float
        Of the network alone, without reading pictures.
    """

    pictures: int
    top1: float | None
    top5: float | None
    agreement: float | None
    against_top1: float | None
    pictures_per_second: float

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


def evaluate_model(
    model: str | Path,
    images: str | Path,
    *,
    labels: str | Path | None = None,
    against: str | Path | None = None,
    preprocessing: Preprocessing | None = None,
    first_class: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a compiled model or an ONNX file on pictures.

    Parameters
    ----------
    model : str or Path
        A `.so`, or an `.onnx` file, which ONNX Runtime runs.
    images, labels
        See `find_pictures`.
    against : str or Path, optional
        Another such file to compare with.
    preprocessing : Preprocessing, optional
        Default: torchvision's.
    first_class : int
        The place of class 0 among the scores: 1 for networks that have a background before it.
    threads : int, optional
        Threads to run with.
    progress : callable, optional
        Called after each picture.

    Returns
    -------
    Evaluation
        The figures.

    Raises
    ------
    UserError
        If a file cannot be run, a picture cannot be read, or a class has no score.
    """
    pictures = find_pictures(images, labels)
    if against is None and pictures[0].label is None:
        raise WrongUseError(
            f"{images}: the classes of its pictures are not known; give --labels, or --against"
        )
    return evaluate(
        open_runner(model, threads),
        pictures,
        preprocessing or Preprocessing(),
        None if against is None else open_runner(against, threads),
        first_class,
        progress,
    )


def evaluate(
    runner: Runner,
    pictures: Sequence[Picture],
    preprocessing: Preprocessing,
    against: Runner | None = None,
    first_class: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a network that is open; see `evaluate_model`."""
    hits, hits5, same, theirs, seconds = 0, 0, 0, 0, 0.0
    for done, picture in enumerate(pictures, 1):
        image = runner.read(picture.path, preprocessing)
        start = time.perf_counter()
        scores = runner.classify(image)
        seconds += time.perf_counter() - start
        label = None if picture.label is None else picture.label + first_class
        if label is not None and label >= scores.size:
            raise UserError(
                f"{picture.path}: is of class {picture.label}, but the network has {scores.size} "
                "scores; give other labels or another network"
            )
        # Where scores are equal, as integers often are, the first counts, as for argmax.
        order = np.argsort(-scores, kind="stable")[:5]
        hits += order[0] == label
        hits5 += label in order
        if against is not None:
            other = against.classify(against.read(picture.path, preprocessing)).argmax()
            same += other == order[0]
            theirs += other == label
        if progress:
            progress(done, len(pictures))
    count = len(pictures)
    labelled = pictures[0].label is not None
    return Evaluation(
        count,
        float(hits / count) if labelled else None,
        float(hits5 / count) if labelled else None,
        None if against is None else float(same / count),
        None if against is None or not labelled else float(theirs / count),
        count / seconds,
    )
