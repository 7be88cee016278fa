"""How the error of each kind of network falls with compute (H6), from trainings of several sizes and lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from worldsim.eval.comparison_plan import LADDER_RIVAL, Plan, Trial
from worldsim.eval.comparison_scores import between
from worldsim.eval.comparison_trainings import mean_error
from worldsim.eval.hypotheses import FASTER, Contrast, outcome
from worldsim.eval.scaling import LEAST_POINTS, fit, front, resampled
from worldsim.eval.statistics import RESAMPLES, Estimate

Records = Mapping[str, Mapping[str, Any]]


def scaling(
    plan: Plan, ladder: Mapping[str, Sequence[Trial]], records: Records, mflop: Mapping[str, float]
) -> dict[str, Any] | None:
    """Return the law of both kinds, what each says of the largest training, and whether the transformer's falls faster.

    ``records`` are those of all trainings by name, ``mflop`` the operations a training frame by preset. None without a ladder, or
    where too few trainings are worth their compute to fit a law.
    """
    tops = {end: [records[f"{plan.base}{end}-seed{seed}"] for seed in range(plan.seeds)] for end in ladder}
    spread = _spread(tops)
    kinds, exponents = {}, {}
    for end, trials in ladder.items():
        compute = np.array([_tflop(plan, trial.preset, trial.steps, mflop) for trial in trials])
        error = np.array([mean_error(records[trial.name]) for trial in trials])
        kept = front(compute, error)
        if len(kept) < LEAST_POINTS:
            return None
        law = fit(compute[kept], error[kept])
        others = resampled(compute, error, spread, RESAMPLES, np.random.default_rng(2))
        exponents[end] = np.array([other.b for other in others])
        next_one = _tflop(plan, plan.base + end, plan.steps, mflop)
        low, high, _ = between(np.array([float(other(next_one)) for other in others]))
        kinds[end.removeprefix("-") or "dit"] = {
            "points": [
                {"preset": trial.preset, "steps": trial.steps, "tflop": round(float(c), 2), "error": e, "on_front": row in kept}
                for row, (trial, c, e) in enumerate(zip(trials, compute, error.tolist(), strict=True))
            ],
            "law": {"a": law.a, "b": law.b, "c": law.c}, "exponent": between(exponents[end])[:2],
            "next": {
                "tflop": round(next_one, 2), "foretold": float(law(next_one)), "low": low, "high": high,
                "measured": float(np.mean([mean_error(record) for record in tops[end]])),
            },
        }  # fmt: skip
    return {"kinds": kinds, "spread": spread, **_faster(plan, kinds, exponents)} if kinds else None


def _tflop(plan: Plan, preset: str, steps: int, mflop: Mapping[str, float]) -> float:
    """Return the operations of a training, in millions of millions."""
    return steps * plan.train.frames_per_step * mflop[preset] / 1e6


def _spread(tops: Mapping[str, Sequence[Mapping[str, Any]]]) -> float:
    """Return the relative standard deviation of the error over seeds, both kinds pooled; 0 of one seed."""
    errors = [np.array([mean_error(record) for record in records]) for records in tops.values()]
    if not errors or min(map(len, errors)) < 2:
        return 0.0
    return float(np.sqrt(np.mean([each.var(ddof=1) / each.mean() ** 2 for each in errors])))


def _faster(plan: Plan, kinds: Mapping[str, Any], exponents: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return by how much the transformer's exponent is the larger, and the word for it."""
    gaps = exponents[""] - exponents[f"-{LADDER_RIVAL}"]
    low, high, p = between(gaps)
    value = kinds["dit"]["law"]["b"] - kinds[LADDER_RIVAL]["law"]["b"]
    difference = Estimate(value=value, low=low, high=high, n=len(kinds["dit"]["points"]))
    found = Contrast(difference=difference, p=p, trainings=plan.seeds, method="errors as other seeds might have them")
    return {"difference": difference.to_json(), "p": p, "outcome": outcome(FASTER, [found], p)}
