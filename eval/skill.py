"""Skill: where a predictor stands between the best trivial one (0) and the truth (1), with its interval. No model.

S = (E_triv - E) / (E_triv - E_oracle), all errors means over the same scenes, resampled together. E_triv is the lowest of
the trivial predictors in every resample, so that no probe is inflated by a weak straw man. The oracle is the true
frames read by the same read-out. Where trivial predictors come within a few floors of it (the floor is the read-out's
median error on a visible body of a true frame), a probe says nothing: it is void.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64

from worldsim.eval.statistics import Estimate, estimate

LEAST_FLOORS = 5.0
"""The best trivial predictor must be worse than the oracle by this many floors."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneCosts:
    """Summed cost (m) of each scene by row of the table, and how many bodies were scored in it."""

    costs: Mapping[str, Float64[np.ndarray, " scenes"]]
    scored: Float64[np.ndarray, " scenes"]
    floor: float
    """Median error (m) of the read-out on visible bodies of true frames."""

    def mean(self, row: str) -> Estimate:
        """Return the mean cost of a scored body in m."""
        columns = np.stack([self.costs[row], self.scored], axis=1)
        return estimate(columns, lambda means: means[..., 0] / means[..., 1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skill:
    """Skill of one row; None where the probe is void."""

    value: Estimate | None
    best_trivial: str
    gap_in_floors: float

    @property
    def void(self) -> bool:
        """Whether trivial predictors come too near to the truth for the probe to say anything."""
        return self.value is None

    def to_json(self) -> dict[str, Any]:
        """Return the skill as a JSON-able dictionary."""
        value = None if self.value is None else self.value.to_json()
        return {"skill": value, "best_trivial": self.best_trivial, "gap_in_floors": self.gap_in_floors}


def skill(costs: SceneCosts, row: str, trivial: tuple[str, ...], oracle: str = "oracle") -> Skill:
    """Return the skill of a row between the best of the ``trivial`` ones and the oracle."""
    means = {name: float(costs.costs[name].sum() / costs.scored.sum()) for name in (*trivial, oracle)}
    best = min(trivial, key=lambda name: means[name])
    gap = (means[best] - means[oracle]) / costs.floor
    if gap < LEAST_FLOORS:
        return Skill(value=None, best_trivial=best, gap_in_floors=gap)
    columns = np.stack([costs.costs[name] for name in (row, oracle, *trivial)], axis=1)

    def statistic(means: np.ndarray) -> np.ndarray:
        lowest = means[..., 2:].min(axis=-1)
        return np.asarray((lowest - means[..., 0]) / (lowest - means[..., 1]))

    return Skill(value=estimate(columns, statistic), best_trivial=best, gap_in_floors=gap)
