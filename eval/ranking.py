"""How well one way of judging policies agrees with another: correlations, rank violations, regret, bias, with intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64

from worldsim.eval.statistics import CONFIDENCE, Estimate

RESAMPLES = 2_000
Means = Float64[np.ndarray, "*draws p"]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Measures of agreement by name, each with its interval over policies and starts."""

    measures: Mapping[str, Estimate]

    def to_json(self) -> dict[str, Any]:
        """Return the measures as a JSON-able dictionary."""
        return {name: one.to_json() for name, one in self.measures.items()}


def pearson(real: Means, judged: Means) -> np.ndarray:
    """Return the linear correlation of policies' values; 0 where one of both does not vary."""
    r, s = (values - values.mean(-1, keepdims=True) for values in (real, judged))
    size = np.sqrt((r**2).sum(-1) * (s**2).sum(-1))
    return np.asarray(np.where(size > 1e-12, (r * s).sum(-1) / np.maximum(size, 1e-12), 0.0))


def spearman(real: Means, judged: Means) -> np.ndarray:
    """Return the rank correlation; tied policies share their mean rank."""
    from scipy.stats import rankdata  # takes a second to import

    return pearson(rankdata(real, axis=-1), rankdata(judged, axis=-1))


def kendall(real: Means, judged: Means) -> np.ndarray:
    """Return Kendall's tau-b."""
    upper = np.triu_indices(real.shape[-1], 1)
    r, s = (np.sign(values[..., :, None] - values[..., None, :])[..., upper[0], upper[1]] for values in (real, judged))
    size = np.sqrt((r != 0).sum(-1) * (s != 0).sum(-1))
    return np.asarray(np.where(size > 0, (r * s).sum(-1) / np.maximum(size, 1), 0.0))


def mmrv(real: Means, judged: Means) -> np.ndarray:
    """Return the mean maximum rank violation of ``judged`` against ``real``, in units of ``real`` (SIMPLER, Li et al. 2024).

    Mean over policies i of the largest |R_i - R_j| over policies j that are ordered otherwise; where ``judged`` ties two
    that ``real`` tells apart, half of it. Not symmetric: the true values come first.
    """
    r, s = (values[..., :, None] - values[..., None, :] for values in (real, judged))
    wrong = np.where(r * s < 0, 1.0, np.where((s == 0) & (r != 0), 0.5, 0.0))
    return np.asarray((np.abs(r) * wrong).max(-1).mean(-1))


def regret(real: Means, judged: Means) -> np.ndarray:
    """Return how much worse than the best policy the one is that is judged best, in units of ``real``."""
    chosen = judged.argmax(-1)[..., None]
    return np.asarray(real.max(-1) - np.take_along_axis(real, chosen, axis=-1)[..., 0])


def bias(real: Means, judged: Means) -> np.ndarray:
    """Return the mean of judged less real."""
    return np.asarray((judged - real).mean(-1))


def slope(real: Means, judged: Means) -> np.ndarray:
    """Return the slope of judged over real values (least squares); 0 where real does not vary."""
    r = real - real.mean(-1, keepdims=True)
    size = (r**2).sum(-1)
    return np.asarray(np.where(size > 1e-12, (r * judged).sum(-1) / np.maximum(size, 1e-12), 0.0))


MEASURES: Mapping[str, Callable[[Means, Means], np.ndarray]] = {
    "spearman": spearman, "pearson": pearson, "kendall": kendall, "mmrv": mmrv, "regret": regret, "bias": bias,
    "slope": slope,
}  # fmt: skip


def agreement(
    real: Float64[np.ndarray, "p s"], judged: Float64[np.ndarray, "p s2"], *, paired: bool = True, seed: int = 0
) -> Agreement:
    """Return all measures of ``judged`` against ``real``, with bootstrap intervals over policies and starts.

    Both are drawn anew in every resample; ``paired`` starts are drawn together.
    """
    rng = np.random.default_rng(seed)
    policies, starts = real.shape
    who = rng.integers(policies, size=(RESAMPLES, policies))
    when = rng.multinomial(starts, np.full(starts, 1 / starts), RESAMPLES) / starts
    others = judged.shape[1]
    other = when if paired else rng.multinomial(others, np.full(others, 1 / others), RESAMPLES) / others
    drawn_real = np.take_along_axis(when @ real.T, who, axis=1)
    drawn_judged = np.take_along_axis(other @ judged.T, who, axis=1)
    tail = (1 - CONFIDENCE) / 2
    measures = {}
    for name, measure in MEASURES.items():
        draws = measure(drawn_real, drawn_judged)
        measures[name] = Estimate(
            value=float(measure(real.mean(1), judged.mean(1))),
            low=float(np.quantile(draws, tail)),
            high=float(np.quantile(draws, 1 - tail)),
            n=policies,
        )
    return Agreement(measures)
