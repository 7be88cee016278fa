"""Estimates with 95 % intervals: a paired percentile bootstrap over scenes. Knows no frames, no models and no worlds.

The unit is the scene. Every number that is reported is a function of the means of per-scene columns, so one draw of
scenes moves the model, its baselines and the truth together (paired). Nothing is ever dropped: a column that is not
finite is an error of its maker, and a resample whose statistic is undefined widens the interval on both sides.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float64

RESAMPLES = 10_000
CONFIDENCE = 0.95

Statistic = Callable[[np.ndarray], np.ndarray]
"""Takes column means (..., columns) and returns one number for each leading index (...)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number over ``n`` scenes with its 95 % bootstrap interval ``low`` .. ``high`` (infinite where unbounded)."""

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, Any]:
        """Return the estimate as a JSON-able dictionary; an unbounded end becomes None."""
        ends = {key: end if math.isfinite(end) else None for key, end in (("low", self.low), ("high", self.high))}
        return {"value": self.value, **ends, "n": self.n}

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(
    columns: Float64[np.ndarray, "scenes columns"],
    statistic: Statistic,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Return ``statistic`` of the column means with its 95 % interval over resampled scenes.

    Raises ValueError if there is no scene, a column holds NaN or infinity, or the statistic of all scenes is undefined:
    what could not be measured must be counted in the columns, not left out.
    """
    if not len(columns) or not np.isfinite(columns).all():
        raise ValueError(f"columns must hold at least one scene and finite numbers only, got shape {columns.shape}")
    count = len(columns)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(columns.mean(axis=0)))
        draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
        values = np.asarray(statistic(draws @ columns / count), dtype=np.float64)
    if not math.isfinite(value):
        raise ValueError("the statistic is undefined on all scenes together: nothing to measure here")
    tail = (1 - CONFIDENCE) / 2
    low = np.quantile(np.where(np.isfinite(values), values, -np.inf), tail, method="lower")
    high = np.quantile(np.where(np.isfinite(values), values, np.inf), 1 - tail, method="higher")
    return Estimate(value=value, low=float(low), high=float(high), n=count)


def ratio(
    numerators: Float64[np.ndarray, " scenes"], denominators: Float64[np.ndarray, " scenes"], *, seed: int = 0
) -> Estimate | None:
    """Return the ratio of two sums over scenes (not the mean of ratios); None if the denominators sum to nothing."""
    if not denominators.sum():
        return None
    columns = np.stack([numerators, denominators], axis=1)
    return estimate(columns, lambda means: means[..., 0] / means[..., 1], seed=seed)


def quotient(means: np.ndarray) -> np.ndarray:
    """Statistic: the mean of the first column over that of the second."""
    return np.asarray(means[..., 0] / means[..., 1])


def margin(model: int, baselines: tuple[int, ...], count: int) -> Statistic:
    """Return the statistic "lowest baseline minus model", all divided by the column ``count``; > 0: the model wins.

    The best baseline is chosen anew in every resample, so the interval also holds for not knowing which one is best.
    """
    return lambda means: (means[..., list(baselines)].min(axis=-1) - means[..., model]) / means[..., count]


def proportion(successes: int, n: int) -> Estimate:
    """Return a share of ``n`` with its 95 % Wilson score interval, which holds for small n and near 0 and 1."""
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return Estimate(value=successes / n, low=float(interval.low), high=float(interval.high), n=n)
