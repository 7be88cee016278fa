"""From scores to a probe's table: measures with intervals, skill, what may be claimed. Measures and draws nothing.

A number is claimed only if all rows are there, the probe has passed its self-test on this code and is not void, the gate
is passed, and the conclusion is the same by every read-out. Everything else prints as what it is: not tested, void, gated,
or dependent on the read-out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from worldsim.errors import UsageError
from worldsim.eval.families import Family, Scores
from worldsim.eval.reading import APART, MAIN
from worldsim.eval.registry import SCENES
from worldsim.eval.rows import LIMITED, MODEL, NOT_TRIVIAL, ORACLE, OTHERS, UNTRAINED
from worldsim.eval.selftest_record import objection
from worldsim.eval.skill import LEAST_FLOORS, Skill, measured, skill
from worldsim.eval.statistics import Estimate, estimate, quotient

REQUIRED = (ORACLE, LIMITED, MODEL, OTHERS, UNTRAINED, "copy last", "mean frame")
HORIZON_CM = 9.0
"""A body's radius: where physics begun from what can be read is farther off, places say nothing any more."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Everything that was scored of one family, by read-out and row."""

    family: str
    by_reader: Mapping[str, Mapping[str, Scores]]

    @property
    def scores(self) -> Mapping[str, Scores]:
        """Scores by row, by the main read-out."""
        return self.by_reader[MAIN]


def family_table(family: Family, results: Measured) -> dict[str, Any]:
    """Return the numbers of a family, a row for each predictor, and what they allow to be said.

    Raises UsageError if a row is missing that every table must have.
    """
    table = results.scores
    missing = [name for name in REQUIRED if name not in table]
    if missing:
        fix = "a row that every table must have was not made; nothing is claimed without it"
        raise UsageError(f"probe {family.code}", got=f"no row {missing}", allowed=f"{REQUIRED}", fix=fix)
    trivial = [name for name in table if name not in (*NOT_TRIVIAL, *family.references)]
    rows = {name: _row(family, table, name, trivial) for name in table}
    gate = _gate(family, rows[MODEL])
    agreement = _agreement(family, results, trivial)
    said: dict[str, Any] = {
        "title": family.title,
        "claim": family.claim,
        "error": {"name": family.error.name, "unit": family.error.unit, "meaning": family.error.meaning},
        "measures": {
            m.name: {"unit": m.unit, "perfect": m.perfect, "meaning": m.meaning, "gated": m.gated}
            for m in family.measures
        },
        "headline": family.headline,
        "references": list(family.references),
        "trivial": trivial,
        "floors": {reader: scores[ORACLE].floor for reader, scores in results.by_reader.items()},
        "horizon": _horizon(table[LIMITED]),
        "gate": gate,
        "objection": objection(family.code) or too_few(len(table[MODEL].frame_cost)),
        "readers": agreement,
        "futures": _futures(table),
        "rows": rows,
        "curves": {name: _curve(scores) for name, scores in table.items()},
    }
    return {**said, **verdict(said)}


def too_few(scenes: int) -> str | None:
    """Say why nothing is claimed from fewer scenes than the smallest tier has: resampled, two that agree seem certain."""
    least = min(SCENES.values())
    return f"{scenes} scenes, where the smallest tier has {least}" if scenes < least else None


def verdict(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outcome of a family's table in one fixed word and a sentence."""
    row = table["rows"][MODEL]
    if table["headline"] is None and row["skill"] is None:
        gap = row["gap_in_floors"]
        reason = "are as good as the truth" if gap is None else f"come within {gap:.1f} floors of the truth"
        sentence = f"void: trivial rows ({row['best_trivial']}) {reason}; nothing is claimed"
        return {"outcome": "void", "verdict": sentence}
    if table["objection"] is not None:
        return {"outcome": "not tested", "verdict": f"not tested: {table['objection']}"}
    if table["headline"] is not None:
        return _without_skill(table)
    value = row["skill"]
    number = f"skill {value['value']:.2f} [{_end(value['low'])}, {_end(value['high'])}]"
    doubtful = [reader for reader, other in table["readers"].items() if not _agree(value, other)]
    if doubtful:
        return {"outcome": "read-out dependent", "verdict": f"{number}, but not by the read-out {', '.join(doubtful)}"}
    outcome = {1: "better than trivial", -1: "worse than trivial", 0: "not told from trivial"}[_sign(value)]
    return {"outcome": outcome, "verdict": f"{number}: {outcome} ({row['best_trivial']})"}


def _agree(main: Mapping[str, Any], other: Mapping[str, Any] | None) -> bool:
    """Return whether what is said by the main read-out also holds by another: intervals overlap, and signs are the same."""
    if other is None:  # by the other one, trivial rows are as good as the truth
        return False
    below = any(
        a["high"] is not None and b["low"] is not None and a["high"] < b["low"]
        for a, b in ((main, other), (other, main))
    )
    return not below and (_sign(main) == 0 or main["value"] * other["value"] > 0)


def _without_skill(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a family says that has no skill by design: the model's headline measure beside the truth's."""
    name = table["headline"]
    model, truth = (table["rows"][row]["measures"][name] for row in (MODEL, ORACLE))
    if model is None or truth is None:
        return {"outcome": "void", "verdict": f"void: {name} is not defined"}
    ends = [one["low"] is not None and one["high"] is not None for one in (model, truth)]
    told = all(ends) and (model["low"] > truth["high"] or model["high"] < truth["low"])
    perfect = table["measures"][name]["perfect"]
    worse = told and abs(model["value"] - perfect) > abs(truth["value"] - perfect)
    unit = table["measures"][name]["unit"]
    numbers = f"{name} {model['value']:.2f} {unit} [{_end(model['low'])}, {_end(model['high'])}], of the truth {truth['value']:.2f}"
    return {"outcome": "worse than the truth" if worse else "not told from the truth", "verdict": numbers}


def _end(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.2f}"


def _sign(value: Mapping[str, Any] | None) -> int:
    """Return whether an interval lies above (1) or below (-1) nothing, or neither (0)."""
    if value is None or value["low"] is None or value["high"] is None:
        return 0
    return 1 if value["low"] > 0 else -1 if value["high"] < 0 else 0


def _row(family: Family, table: Mapping[str, Scores], name: str, trivial: list[str]) -> dict[str, Any]:
    reckoned = skill(table, name, family.error, trivial)
    limited = skill(table, name, family.error, trivial, one=LIMITED)
    return {
        "n": len(table[name].frame_cost),
        "error": _json(measured(table[name], family.error)),
        **reckoned.to_json(),
        "skill_to_perception": None if reckoned.void or limited.value is None else limited.value.to_json(),
        "measures": {measure.name: _json(measured(table[name], measure)) for measure in family.measures},
    }


def _gate(family: Family, row: Mapping[str, Any]) -> dict[str, Any] | None:
    if family.gate is None:
        return None
    name, low, high = family.gate
    value = row["measures"][name]
    passed = value is not None and low <= value["value"] <= high
    return {"measure": name, "low": low, "high": high, "passed": passed}


def _agreement(family: Family, results: Measured, trivial: list[str]) -> dict[str, Any]:
    """Return the model's skill by every read-out; whether a probe is void is for the main one, with its floor, to say."""
    by_reader: dict[str, Skill] = {
        reader: skill(table, MODEL, family.error, trivial, least_floors=LEAST_FLOORS if reader == MAIN else 0.0)
        for reader, table in results.by_reader.items()
    }
    return {reader: None if value.value is None else value.value.to_json() for reader, value in by_reader.items()}


def _futures(table: Mapping[str, Scores]) -> dict[str, Any] | None:
    """Return how well the model's several futures of a scene are spread; None where one was asked for.

    The fair energy score (Gneiting and Raftery 2007), mean |x_i - y| - mean |x_i - x_j| / 2, in the unit of the error,
    and the futures' spread over that of physics begun from what can be read: 1 is ideal, less is too sure of itself.
    """
    model, limited = table[MODEL], table[LIMITED]
    if APART not in model.columns or APART not in limited.columns:
        return None
    columns = np.stack([model.columns[name] for name in ("cost", APART, "scored")] + [limited.columns[APART]], axis=1)
    return {
        "energy_score": _json(
            estimate(columns, lambda means: 100 * (means[..., 0] - means[..., 1] / 2) / means[..., 2])
        ),
        "spread_ratio": _json(estimate(columns, lambda means: quotient(means[..., [1, 3]]))),
    }


def _horizon(limited: Scores) -> int | None:
    """Return the first frame (from 1) in which places begun from what can be read are off by a radius; None if never."""
    beyond = np.flatnonzero(limited.frame_cost.mean(axis=0) > HORIZON_CM)
    return int(beyond[0]) + 1 if len(beyond) else None


def _curve(scores: Scores) -> list[float]:
    return [round(float(cost), 2) for cost in scores.frame_cost.mean(axis=0)]


def _json(value: Estimate | None) -> dict[str, Any] | None:
    return None if value is None else value.to_json()
