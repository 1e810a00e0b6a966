"""The cost model: an ensemble of XGBoost models on this project's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xgboost

from mobilenet_tvm.compile.tuning.features import Features, Table, all_names, features_of
from mobilenet_tvm.compile.tuning.prior import Known, Prior
from mobilenet_tvm.compile.tuning.space import Space
from mobilenet_tvm.targets.target import Target

#: Models, each of which learns from a random sample of the measurements.
MODELS = 3
_ROUNDS = 40
#: With so few samples, more threads make XGBoost ten times slower.
_SETTINGS = {"max_depth": 6, "eta": 0.3, "nthread": 1}
#: The column of what earlier trials say.
_PRIOR = "prior"
#: It is trained again when it has this share more of measurements.
_RETRAIN_SHARE = 0.05


# With MetaSchedule's XGBModel on the same features, the search was no better than a random one on
# the pointwise layers of benchmarks/cost_model.py: 99 % of the best after 28 trials on average, 25
# at random. With this one it takes 23, or 13 after trials of other layers.
class CostModel:
    """Predicts how fast candidates are, from all that were measured.

    Its scores are throughputs, relative to the fastest known of each layer. Several models, each
    trained on a sample with replacement [1]_, agree where much was measured, and differ elsewhere:
    following each in turn exploits the one and explores the other.

    Parameters
    ----------
    seed : int
        Of the samples and of XGBoost.
    earlier : mapping of Target to mapping, optional
        Trials that it starts from, by target and layer; see `Prior`.

    References
    ----------
    .. [1] L. Breiman, "Bagging predictors", Machine Learning 24, 1996.
    """

    def __init__(self, seed: int, earlier: Mapping[Target, Known] | None = None) -> None:
        self._prior = Prior(earlier or {}, seed)
        self._rng = np.random.default_rng(seed)
        self._features: dict[str, Features] = {}
        self._measured: dict[str, dict[int, float]] = {}
        self._boosters: list[xgboost.Booster] = []
        #: Of the columns that they were trained on.
        self._names: tuple[str, ...] = ()
        self._trained_with = 0

    def scores(self, space: Space, numbers: Sequence[int]) -> Table | None:
        """Predict decisions of a space, [models, decisions]; None where nothing is known yet."""
        if not numbers:
            return None
        candidates = self._candidates(space).rows(numbers)
        if self._boosters:
            data = xgboost.DMatrix(candidates.columns(self._names))
            return np.array([booster.predict(data) for booster in self._boosters])
        return self._prior.predict(candidates)[np.newaxis] if self._prior.known else None

    def learn(self, space: Space, seconds: Mapping[int, float]) -> None:
        """Learn from measurements of a layer's decisions, by number, in seconds."""
        self._candidates(space)
        self._measured.setdefault(space.key, {}).update(seconds)
        samples = sum(map(len, self._measured.values()))
        if samples > (1 + _RETRAIN_SHARE) * self._trained_with:
            self._train()
            self._trained_with = samples

    def _candidates(self, space: Space) -> Features:
        """Return a space's features, the last of them what earlier trials say."""
        if space.key not in self._features:
            found = features_of(space)
            self._features[space.key] = found.plus(_PRIOR, self._prior.predict(found))
        return self._features[space.key]

    def _train(self) -> None:
        measured = {
            key: self._features[key].rows(list(seconds)) for key, seconds in self._measured.items()
        }
        self._names = all_names(candidates.names for candidates in measured.values())
        rows = np.concatenate([found.columns(self._names) for found in measured.values()])
        times = [np.array(list(seconds.values())) for seconds in self._measured.values()]
        throughputs = np.concatenate([layer.min(initial=np.inf) / layer for layer in times])
        self._boosters = []
        for _ in range(MODELS):
            sample = self._rng.integers(len(rows), size=len(rows))
            data = xgboost.DMatrix(rows[sample], throughputs[sample])
            seed = int(self._rng.integers(2**31))
            self._boosters.append(xgboost.train({**_SETTINGS, "seed": seed}, data, _ROUNDS))
