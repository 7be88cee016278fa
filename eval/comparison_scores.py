"""From the probes of many trained models to differences between their kinds, with intervals. Trains and draws nothing.

Two sources of chance: which scenes were asked about, the same for all models, and how a training went (its seed). With
three seeds an arm or more the interval is Welch's over the seeds' means; below that it is a bootstrap over scenes and
seeds, and one seed says nothing of other trainings.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from worldsim.errors import UsageError
from worldsim.eval.hypotheses import LEAST_TRAININGS, Contrast, Hypothesis
from worldsim.eval.registry import FAMILIES
from worldsim.eval.rows import MODEL
from worldsim.eval.statistics import CONFIDENCE, RESAMPLES, Estimate

NUMBER = "one number a model"
"""Stands where families do for what no probe asks."""
Columns = Mapping[str, Float64[np.ndarray, " n"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probed:
    """What the probes said of one trained model."""

    seed: int
    tables: Mapping[str, Mapping[str, Any]]
    """Per family what `results.json` says of it."""
    columns: Mapping[str, Columns]
    """Per family the columns of all rows, named row/column."""
    numbers: Mapping[str, float]
    """What else is known of the model: scores of the last validation of its training, `worldsim.eval.other_sizes`."""

    @classmethod
    def read(cls, folder: Path, seed: int, numbers: Mapping[str, float]) -> Probed:
        """Read the results of `worldsim probe`; UsageError if they are not whole."""
        try:
            tables = json.loads((folder / "results.json").read_text())["families"]
            with np.load(folder / "scenes.npz", allow_pickle=False) as stored:
                flat = {name: stored[name].astype(np.float64) for name in stored.files}
        except (OSError, ValueError, KeyError) as error:
            fix = "remove the folder and run the same command again"
            raise UsageError("probe results", got=f"{folder} ({error})", allowed="a finished probe", fix=fix) from error
        columns: dict[str, dict[str, np.ndarray]] = {}
        for name, column in flat.items():
            code, rest = name.split("/", 1)
            columns.setdefault(code, {})[rest] = column
        return cls(seed=seed, tables=tables, columns=columns, numbers=numbers)


def asked(hypothesis: Hypothesis, models: Sequence[Probed]) -> tuple[str, ...]:
    """Return the families of a hypothesis that all models were asked about, and that are not void; `NUMBER` where none ask."""
    if not hypothesis.families:
        return (NUMBER,) if all(hypothesis.measure in model.numbers for model in models) else ()
    return tuple(
        code
        for code in hypothesis.families
        if all(code in model.tables and model.tables[code]["outcome"] != "void" for model in models)
    )


def values(
    hypothesis: Hypothesis, codes: Sequence[str], models: Sequence[Probed]
) -> Float64[np.ndarray, "resamples models"]:
    """Return each model's number, the mean over families: of all scenes (row 0), then of resampled scenes.

    One draw of scenes is the same for all models. What no family asks is known by one number, which stands in all rows.
    """
    if not hypothesis.families:
        return np.tile([float(model.numbers[str(hypothesis.measure)]) for model in models], (RESAMPLES + 1, 1))
    each = np.zeros((len(codes), RESAMPLES + 1, len(models)))
    for place, code in enumerate(codes):
        count = len(models[0].columns[code][f"{MODEL}/{FAMILIES[code].error.columns[0]}"])
        rng = np.random.default_rng([0, *code.encode()])
        draws = rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
        weights = np.concatenate([np.ones((1, count)), draws]) / count
        for model, probed in enumerate(models):
            each[place, :, model] = _values(hypothesis, code, probed, weights)
    return each.mean(axis=0)


def _values(hypothesis: Hypothesis, code: str, model: Probed, weights: np.ndarray) -> np.ndarray:
    """Return the measure or the skill of one model in one family, by rows of scene ``weights`` (resamples, n)."""
    family, columns = FAMILIES[code], model.columns[code]

    def means(rows: Sequence[str], names: Sequence[str]) -> np.ndarray:
        stacked = np.stack([columns[f"{row}/{name}"] for row in rows for name in names], axis=1)
        return (weights @ stacked).reshape(len(weights), len(rows), len(names))

    with np.errstate(divide="ignore", invalid="ignore"):
        if hypothesis.measure is not None:
            (measure,) = (one for one in family.measures if one.name == hypothesis.measure)
            return np.asarray(measure.statistic(means([MODEL], measure.columns)))[:, 0]
        rows = [MODEL, hypothesis.ceiling, *model.tables[code]["trivial"]]
        errors = np.asarray(family.error.statistic(means(rows, family.error.columns)))
        best = errors[:, 2:].min(axis=1)
        return (best - errors[:, 0]) / (best - errors[:, 1])


def contrast(
    hypothesis: Hypothesis, codes: Sequence[str], ours: Sequence[Probed], theirs: Sequence[Probed]
) -> Contrast:
    """Return how much more one kind of models has of what a hypothesis measures than another."""
    both = values(hypothesis, codes, [*ours, *theirs])
    one, other = both[:, : len(ours)], both[:, len(ours) :]
    value = float(one[0].mean() - other[0].mean())
    seeds = min(len(ours), len(theirs))
    if seeds >= LEAST_TRAININGS:
        (low, high, p), method = welch(one[0], other[0]), "Welch over training seeds"
    elif not hypothesis.families:
        low, high, p, method = -np.inf, np.inf, 1.0, "none: too few trainings"
    else:
        low, high, p = _bootstrap(one[1:], other[1:])
        method = "bootstrap over scenes and seeds" if seeds > 1 else "bootstrap over scenes, one training seed"
    count = len(next(iter(ours[0].columns[codes[0]].values()))) if hypothesis.families else seeds
    difference = Estimate(value=value, low=float(low), high=float(high), n=count)
    return Contrast(difference=difference, p=p, trainings=seeds, method=method)


def welch(one: Sequence[float] | np.ndarray, other: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Return the interval of the difference of two means of two or more trainings each, and how likely none is (Welch 1947)."""
    from scipy.stats import ttest_ind

    test = ttest_ind(one, other, equal_var=False)
    low, high = test.confidence_interval(CONFIDENCE)
    return float(low), float(high), float(np.asarray(test)[1])


def _bootstrap(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Return the interval of the difference of two arms' means (resamples, seeds), seeds resampled too, and two-sided p."""
    rng = np.random.default_rng(1)

    def drawn(arm: np.ndarray) -> np.ndarray:
        return np.take_along_axis(arm, rng.integers(0, arm.shape[1], size=arm.shape), axis=1).mean(axis=1)

    return between(drawn(one) - drawn(other))


def between(gaps: Float64[np.ndarray, " n"]) -> tuple[float, float, float]:
    """Return the interval of resampled differences, and how likely none is (two-sided); what is no number widens both ends."""
    tail = (1 - CONFIDENCE) / 2
    low = np.quantile(np.where(np.isfinite(gaps), gaps, -np.inf), tail, method="lower")
    high = np.quantile(np.where(np.isfinite(gaps), gaps, np.inf), 1 - tail, method="higher")
    below, above = (gaps <= 0).mean(), (gaps >= 0).mean()
    return float(low), float(high), min(1.0, 2 * float(max(min(below, above), 1 / len(gaps))))
