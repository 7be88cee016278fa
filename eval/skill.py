"""Skill: where a predictor stands between the best trivial one (0) and the truth (1), with its interval. No model.

S = (E_triv - E) / (E_triv - E_oracle), all errors over the same scenes, resampled together. E_triv is the lowest of
the trivial predictors in every resample, so that no probe is inflated by a weak straw man. The oracle is the true
frames read by the same read-out. Where trivial predictors come within a few floors of it (the floor is the read-out's
median error on a visible body of a true frame), a probe says nothing: it is void.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worldsim.eval.families import Measure, Scores
from worldsim.eval.statistics import Estimate, estimate

LEAST_FLOORS = 5.0
"""The best trivial predictor must be worse than the oracle by this many floors."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skill:
    """Skill of one row; None where the probe is void."""

    value: Estimate | None
    best_trivial: str
    gap_in_floors: float | None
    """How far the best trivial row is from the oracle; None where nothing is read out."""

    @property
    def void(self) -> bool:
        """Whether trivial predictors come too near to the truth for the probe to say anything."""
        return self.value is None

    def to_json(self) -> dict[str, Any]:
        """Return the skill as a JSON-able dictionary."""
        value = None if self.value is None else self.value.to_json()
        return {"skill": value, "best_trivial": self.best_trivial, "gap_in_floors": self.gap_in_floors}


def measured(scores: Scores, measure: Measure) -> Estimate | None:
    """Return a measure of a row with its interval; None where it is not defined on its scenes."""
    columns = np.stack([scores.columns[name] for name in measure.columns], axis=1)
    try:
        return estimate(columns, measure.statistic)
    except ValueError:
        if not np.isfinite(columns).all():
            raise
        return None


def skill(
    table: Mapping[str, Scores],
    row: str,
    error: Measure,
    trivial: Sequence[str],
    *,
    one: str = "oracle",
    least_floors: float = LEAST_FLOORS,
) -> Skill:
    """Return the skill of a row between the best of the ``trivial`` ones (0) and the row ``one`` (1).

    A row of the first scenes only is compared with the others on those. Void where the best trivial row is not worse
    than the oracle by ``least_floors``.
    """
    count = len(table[row].frame_cost)
    names = (row, one, *trivial)
    columns = np.stack([table[name].columns[column][:count] for name in names for column in error.columns], axis=1)

    def errors(means: np.ndarray) -> np.ndarray:
        parts = means.reshape(*means.shape[:-1], len(names), len(error.columns))
        return error.statistic(parts)

    at = errors(columns.mean(axis=0))
    best = int(np.argmin(at[2:]))
    floor = table["oracle"].floor
    gap = None if floor is None else float(at[2 + best] - at[1]) / floor
    if (gap is not None and gap < least_floors) or at[2 + best] <= at[1]:
        return Skill(value=None, best_trivial=trivial[best], gap_in_floors=gap)

    def statistic(means: np.ndarray) -> np.ndarray:
        each = errors(means)
        lowest = each[..., 2:].min(axis=-1)
        return np.asarray((lowest - each[..., 0]) / (lowest - each[..., 1]))

    return Skill(value=estimate(columns, statistic), best_trivial=trivial[best], gap_in_floors=gap)
