"""What earlier trials say of a candidate: learnt once, and then a feature of the cost model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xgboost

from mobilenet_tvm.compile.tuning.features import Features, Table, features
from mobilenet_tvm.schedules.base import Decision
from mobilenet_tvm.schedules.workloads import Workload
from mobilenet_tvm.targets.target import Target

#: Earlier measurements of layers: decisions and their seconds.
Known = Mapping[Workload, Sequence[tuple[Decision, float]]]

_ROUNDS = 100
_SETTINGS = {"max_depth": 6, "eta": 0.1, "nthread": 1}


class Prior:
    """Predicts throughputs, relative to the fastest decision of a layer, from earlier trials.

    They come from other layers, machines or targets: the cost model learns how far to trust them.
    As samples of that model, thousands of them would outweigh a layer's few, and would be learnt
    again in each round.

    Parameters
    ----------
    earlier : mapping of Target to mapping
        Trials by target and layer.
    seed : int
        Of XGBoost.
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
        """Whether there were any trials."""
        return self._booster is not None

    def predict(self, candidates: Features) -> Table:
        """Predict candidates, [candidates]; NaN without trials."""
        if self._booster is None:
            return np.full(len(candidates.values), np.nan, np.float32)
        rows = xgboost.DMatrix(candidates.columns(self._names))
        return np.asarray(self._booster.predict(rows), np.float32)
