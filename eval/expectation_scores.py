"""Scores of expectation quadruplets: what a scorer's surprise tells apart, and how much of that was learnt. No model.

Every number is a function of weights over quadruplets, so that an interval comes from drawing quadruplets anew, and all
rows move together (`worldsim.eval.statistics`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from worldsim.eval.statistics import Estimate, Statistic, estimate

SATURATED = 0.99
"""From this AUC on d' is the headline."""
LEAST_NETWORKS = 3
"""Untrained networks that a claim needs beside the model."""
LEAST_TRAINED_SHARE = 0.5
"""A concept is not claimed unless so much of what is right above chance is due to training."""
MOST_D_PRIME = 100.0
"""d' is held to this where the clips of a kind are all alike."""
_POSSIBLE, _IMPOSSIBLE = slice(0, 2), slice(2, 4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Surprises:
    """Clip scores of one row: m networks, n quadruplets, four clips."""

    total: Float64[np.ndarray, "m n 4"]
    """Sum over time. Over a quadruplet it cancels whatever is in the frames themselves."""
    most: Float64[np.ndarray, "m n 4"]
    """Maximum over time, which does not: see what it makes of ``temporal energy``."""

    @classmethod
    def of(cls, networks: Sequence[Float32[np.ndarray, "n 4 t"]]) -> Surprises:
        """Return the clip scores of the surprise of each scored frame."""
        frames = np.stack(networks).astype(np.float64)
        return cls(total=frames.sum(axis=-1), most=frames.max(axis=-1))

    def less(self, other: Surprises) -> Surprises:
        """Return these scores without what a straight line in the scores of ``other`` (one network) explains of them."""
        return Surprises(total=_less(self.total, other.total), most=_less(self.most, other.most))


def _less(clips: Float64[np.ndarray, "m n 4"], other: Float64[np.ndarray, "1 n 4"]) -> Float64[np.ndarray, "m n 4"]:
    """Return the residuals of least squares over all clips, with their mean left in; ``other`` explains nothing if flat."""
    away = other - other.mean()
    spread = np.square(away).sum()
    slope = (clips * away).sum(axis=(1, 2), keepdims=True) / spread if spread > 0 else 0.0
    return clips - slope * away


def accuracy(clips: Float64[np.ndarray, "m n 4"]) -> Statistic:
    """Share of quadruplets with more surprise over the impossible clips than over the possible; ties count half."""
    difference = clips[..., _IMPOSSIBLE].sum(axis=-1) - clips[..., _POSSIBLE].sum(axis=-1)
    right = (np.sign(difference) + 1) / 2
    return lambda weights: weights @ right.mean(axis=0)


def relative_surprise(clips: Float64[np.ndarray, "m n 4"]) -> Statistic:
    """Mean of (impossible - possible) / (impossible + possible) (PLATO, Piloto et al. 2022); 0 where nothing surprises."""
    possible, impossible = clips[..., _POSSIBLE].sum(axis=-1), clips[..., _IMPOSSIBLE].sum(axis=-1)
    total = impossible + possible
    share = np.divide(impossible - possible, total, out=np.zeros_like(total), where=total > 0)
    return lambda weights: weights @ share.mean(axis=0)


def auc(clips: Float64[np.ndarray, "m n 4"]) -> Statistic:
    """Chance that an impossible clip surprises more than a possible one, of whatever quadruplets; ties count half."""
    impossible, possible = clips[:, :, None, _IMPOSSIBLE, None], clips[:, None, :, None, _POSSIBLE]
    wins = ((np.sign(impossible - possible) + 1) / 2).mean(axis=(0, 3, 4))  # (n, n)
    return lambda weights: ((weights @ wins) * weights).sum(axis=-1)


def d_prime(clips: Float64[np.ndarray, "m n 4"]) -> Statistic:
    """Difference of the means of both kinds of clips in units of their standard deviation (root mean of variances).

    0 where the means are equal, and held to `MOST_D_PRIME` where nothing varies.
    """
    kinds = clips[..., _POSSIBLE], clips[..., _IMPOSSIBLE]
    first = [kind.mean(axis=-1) for kind in kinds]
    second = [np.square(kind).mean(axis=-1) for kind in kinds]

    def statistic(weights: np.ndarray) -> np.ndarray:
        means = [weights @ moment.T for moment in first]  # (..., m)
        variance = [weights @ moment.T - mean**2 for moment, mean in zip(second, means, strict=True)]
        spread = np.sqrt(np.maximum(sum(variance), 0) / 2)
        apart = means[1] - means[0]
        floor = np.maximum(spread, np.abs(apart) / MOST_D_PRIME)
        return np.asarray(np.divide(apart, floor, out=np.zeros_like(apart), where=floor > 0).mean(axis=-1))

    return statistic


def trained_share(right: Statistic, untrained: Statistic) -> Statistic:
    """Share of what a number is above chance (.5) that untrained networks lack; undefined where it is not above it."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        value = right(weights)
        return np.where(value > 0.5, (value - untrained(weights)) / (value - 0.5), np.nan)

    return statistic


STATISTICS = {"accuracy": accuracy, "relative_surprise": relative_surprise, "auc": auc, "d_prime": d_prime}


def rate(rows: Mapping[str, Surprises]) -> dict[str, Any]:
    """Return all numbers of all rows, and what may be claimed. JSON-able.

    A concept is claimed where the model is right about more than half of the quadruplets and about more of them than the
    untrained networks (both intervals above), of which there are `LEAST_NETWORKS` or more (one may be always wrong by chance, and
    flatter the model), and at least `LEAST_TRAINED_SHARE` of that was learnt. The share is reported
    of the AUC too, but not judged by it: over clips of many scenes it is ruled by how hard each scene is.
    """
    model, untrained = rows["model"].total, rows["untrained"].total
    count = model.shape[1]
    numbers = {
        name: {
            f"{statistic}{suffix}": _interval(make(clips), count).to_json()
            for statistic, make in STATISTICS.items()
            for suffix, clips in (("", row.total), ("_of_maximum", row.most))
        }
        for name, row in rows.items()
    }
    right, chance = accuracy(model), accuracy(untrained)
    above = _interval(lambda weights: right(weights) - chance(weights), count)
    shares = {
        f"trained_share_of_{name}": _interval(trained_share(make(model), make(untrained)), count)
        if numbers["model"][name]["value"] > 0.5
        else None
        for name, make in (("accuracy", accuracy), ("auc", auc))
    }
    learnt = shares["trained_share_of_accuracy"]
    learnt_enough = learnt is not None and learnt.value >= LEAST_TRAINED_SHARE and len(untrained) >= LEAST_NETWORKS
    return {
        "quadruplets": count,
        "rows": numbers,
        "above_untrained": above.to_json(),
        **{name: share.to_json() if share else None for name, share in shares.items()},
        "headline": "d_prime" if numbers["model"]["auc"]["value"] > SATURATED else "auc",
        "claimed": bool(learnt_enough and above.low > 0 and _interval(right, count).low > 0.5),
    }


def _interval(statistic: Statistic, count: int) -> Estimate:
    """Return a function of weights over quadruplets at equal weights, with its interval over drawn quadruplets."""
    return estimate(np.eye(count), statistic)
