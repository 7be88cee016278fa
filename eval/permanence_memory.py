"""How long what is hidden is remembered: recall against hidden time, its half-life, and recall beyond habit. No model.

Pooled over the families in which a hidden target comes back. What a model's window holds ("memory-reachable") and what
lies beyond it are reported apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64

from worldsim.eval.families import Scores
from worldsim.eval.rows import CLIMATOLOGY, LIMITED, MODEL, ORACLE
from worldsim.eval.statistics import CONFIDENCE, Estimate, estimate, quotient, ratio

REACHABLE = (4, 16)
"""Hidden frames, first and last, that are called memory-reachable, whatever a model's window."""
LONGEST = 512.0
"""Half-lives from here on are told as none: within the hidden times of the scenes they all look alike."""
RESAMPLES = 2_000
_START = np.linspace(0.01, 1.0, 100)
_HALF_LIVES = np.geomspace(1.0, LONGEST, 91)


def memory(tables: Mapping[str, Mapping[str, Scores]]) -> dict[str, Any] | None:
    """Return recall by hidden time and half-life of the model and of the truth, from tables by family. JSON-able.

    None if no family has targets that come back.
    """
    asked = {
        code: table
        for code, table in tables.items()
        if "recalled" in table[MODEL].columns and table[MODEL].columns["returning"].all()
    }
    if not asked:
        return None
    rows = {}
    for name in (ORACLE, LIMITED, MODEL):
        columns = {
            column: np.concatenate([table[name].columns[column] for table in asked.values()])
            for column in ("recalled", "targets", "hidden_frames")
        }
        rows[name] = _row(columns["recalled"], columns["targets"], columns["hidden_frames"])
    return {
        "families": list(asked),
        "reachable_frames": list(REACHABLE),
        "rows": rows,
        "beyond_habit": {code: _json(beyond_habit(table)) for code, table in asked.items()},
    }


def beyond_habit(table: Mapping[str, Scores]) -> Estimate | None:
    """Return kappa, (recall - climatology's recall) / (1 - climatology's), of the model: 0 is habit, 1 is the truth."""
    columns = np.stack(
        [table[name].columns[column] for name in (MODEL, CLIMATOLOGY) for column in ("recalled", "targets")], axis=1
    )

    def kappa(means: np.ndarray) -> np.ndarray:
        habit = quotient(means[..., 2:])
        return np.asarray((quotient(means[..., :2]) - habit) / (1 - habit))

    try:
        return estimate(columns, kappa)
    except ValueError:  # habit recalls everything
        return None


def _row(recalled: np.ndarray, targets: np.ndarray, hidden: np.ndarray) -> dict[str, Any]:
    """Return recall within and beyond reach, by hidden time, and the half-life."""
    near = (hidden >= REACHABLE[0]) & (hidden <= REACHABLE[1])
    edges = [*range(4, 33, 4), np.inf]
    bins = [(low, high, (hidden >= low) & (hidden < high)) for low, high in itertools.pairwise(edges)]
    return {
        "reachable": _json(ratio(recalled * near, targets * near)),
        "beyond": _json(ratio(recalled * ~near, targets * ~near)),
        "by_hidden_frames": [
            {"from": low, "to": None if np.isinf(high) else high - 1, **(_json(value) or {})}
            for low, high, inside in bins
            if (value := ratio(recalled * inside, targets * inside)) is not None
        ],
        "half_life": half_life(recalled, targets, hidden),
    }


def half_life(
    recalled: Float64[np.ndarray, " n"], targets: Float64[np.ndarray, " n"], hidden: Float64[np.ndarray, " n"]
) -> dict[str, Any] | None:
    """Return the hidden frames after which half of what was recalled is lost, with its 95 % bootstrap interval.

    Maximum likelihood of P(recalled | h) = p0 2^(-h / half-life) over n scenes. An end that is None is beyond `LONGEST`:
    nothing is seen to be lost. None where nothing is recalled at all.
    """
    if not recalled.any():
        return None
    share = (_START[:, None, None] * 2.0 ** (-hidden / _HALF_LIVES[:, None])).clip(1e-9, 1 - 1e-9)
    likelihood = (recalled * np.log(share) + (targets - recalled) * np.log1p(-share)).reshape(-1, len(hidden))
    draws = np.random.default_rng(0).multinomial(len(hidden), np.full(len(hidden), 1 / len(hidden)), size=RESAMPLES)

    def best(weights: np.ndarray) -> np.ndarray:
        place = (likelihood @ weights.T).argmax(axis=0)
        return _HALF_LIVES[place % len(_HALF_LIVES)]

    tail = (1 - CONFIDENCE) / 2
    drawn = best(draws)
    values = {
        "value": best(np.ones((1, len(hidden))))[0],
        "low": np.quantile(drawn, tail, method="lower"),
        "high": np.quantile(drawn, 1 - tail, method="higher"),
    }
    ends = {name: round(float(value), 2) if value < LONGEST else None for name, value in values.items()}
    return {**ends, "n": len(hidden)}


def _json(value: Estimate | None) -> dict[str, Any] | None:
    return None if value is None else value.to_json()
