"""TVM's XGBoost cost model on this project's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xgboost
from tvm.s_tir import meta_schedule
from tvm.s_tir.meta_schedule.cost_model.xgb_model import XGBConfig, XGBModel

from mobilenet_tvm.compile.tuning.features import FeatureExtractor
from mobilenet_tvm.compile.tuning.metaschedule import tune_context
from mobilenet_tvm.compile.tuning.space import Space

#: With so few samples, more threads make XGBoost ten times slower.
_THREADS = 1
#: It is trained again when it knows this share more. Training takes a tenth of a second.
_NEW = 0.05


class CostModel:
    """Predicts how fast candidates are, from all that were measured.

    Its scores are throughputs, relative to the fastest known of each layer.

    Parameters
    ----------
    seed : int
        Of XGBoost.

    Attributes
    ----------
    xgb : XGBModel
        The model, for MetaSchedule.
    """

    def __init__(self, seed: int) -> None:
        self._extractor = FeatureExtractor()
        self._contexts: dict[str, meta_schedule.TuneContext] = {}
        self.xgb = XGBModel(
            extractor=self._extractor,
            # No gamma: TVM's drops splits worth 1 % of throughput, the size of what is searched
            # here, and made this search worse than a random one.
            config=XGBConfig(seed=seed, nthread=_THREADS, max_depth=6, eta=0.4, gamma=0.0),
            # Whoever asks asks `trained` first.
            num_warmup_samples=0,
            early_stopping_rounds=10,
        )

    @property
    def trained(self) -> bool:
        """Whether it has seen measurements."""
        return self.xgb.booster is not None

    def scores(self, space: Space, numbers: Sequence[int]) -> np.ndarray[Any, Any] | None:
        """Predict decisions of a space, by number; None where nothing is known yet."""
        if not self.trained or not numbers:
            return None
        candidates = [space.candidates[number] for number in numbers]
        with xgboost.config_context(nthread=_THREADS):
            return np.asarray(self.xgb.predict(self._context(space), candidates))

    def add(self, space: Space) -> None:
        """Make a space known, of which candidates will come."""
        self._extractor.spaces[space.key] = space

    def learn(self, space: Space, seconds: Mapping[int, float]) -> None:
        """Learn from measurements.

        Parameters
        ----------
        space : Space
            A layer of any target.
        seconds : mapping of int to float
            By the decision's number.
        """
        if seconds:
            self.add(space)
            if self.xgb.data_size >= (1 + _NEW) * self.xgb.last_train_size:
                # By itself it waits for 20 % more than it was last trained with.
                self.xgb.last_train_size = 0
            candidates = [space.candidates[number] for number in seconds]
            results = [meta_schedule.runner.RunnerResult([s], None) for s in seconds.values()]
            with xgboost.config_context(nthread=_THREADS):
                self.xgb.update(self._context(space), candidates, results)

    def _context(self, space: Space) -> meta_schedule.TuneContext:
        if space.key not in self._contexts:
            self._contexts[space.key] = tune_context(space.mod)
        return self._contexts[space.key]
