"""A model of earlier trials: trained once, its prediction is a feature of the cost model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xgboost

from mobilenet_tvm.compile.tuning.features import Features, Table, features
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.target import Target

#: Earlier measurements by layer: decisions and their times in seconds.
Known = Mapping[Workload, Sequence[tuple[Decision, float]]]

_ROUNDS = 100
_SETTINGS = {"max_depth": 6, "eta": 0.1, "nthread": 1}


class Prior:
    """Predicts throughput relative to the fastest decision of a layer, from earlier trials.

    The trials come from other layers, machines or targets, and the cost model learns how much to
    trust the prediction. As samples of the cost model itself, thousands of them would outweigh the
    few of a layer, and the model would be retrained on them in every round.

    Parameters
    ----------
    earlier : mapping of Target to mapping
        Trials by target and layer.
    seed : int
        Seed of XGBoost.
    """

    def __init__(self, earlier: Mapping[Target, Known], seed: int = 0) -> None:
        rows, throughputs = [], []
        for target, layers in earlier.items():
            for workload, measured in layers.items():
                fastest = min(seconds for _, seconds in measured)
                for decision, seconds in measured:
                    rows.append(features(workload, decision, target))
                    throughputs.append(fastest / seconds)
        self._booster: xgboost.Booster | None = None
        known = Features.of(rows)
        self._names = known.names
        if rows:
            data = xgboost.DMatrix(known.values, np.array(throughputs, np.float32))
            self._booster = xgboost.train({**_SETTINGS, "seed": seed}, data, _ROUNDS)

    @property
    def known(self) -> bool:
        """Whether there were any earlier trials."""
        return self._booster is not None

    def predict(self, candidates: Features) -> Table:
        """Return the predictions, [candidates]; NaN without earlier trials."""
        if self._booster is None:
            return np.full(len(candidates.values), np.nan, np.float32)
        rows = xgboost.DMatrix(candidates.columns(self._names))
        return np.asarray(self._booster.predict(rows), np.float32)
