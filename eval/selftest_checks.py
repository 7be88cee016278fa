"""Scores corrupted truths by one family, and says which registered bands do not hold. Writes nothing; knows no model.

Every number is 1 for the truth and 0 for who is wrong altogether: the skill of a family, or, where that has none by
design, 1 minus the error by its own measure over what is at stake (`BY_MEASURE`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import joblib
import numpy as np

from worldsim.envs.painter import Painter
from worldsim.envs.workers import in_processes
from worldsim.eval.cause_corruptions import corrupted as wrong_effects
from worldsim.eval.corruptions import CORRUPTIONS, corrupted
from worldsim.eval.families import Family, Scene, Scores, films
from worldsim.eval.places import read_places
from worldsim.eval.registry import FAMILIES
from worldsim.eval.selftest_register import (
    BY_MEASURE,
    LEAST_NUISANCE,
    MOST_SIDE_EFFECT,
    MOST_TARGETED,
    NUISANCES,
    REGISTERED,
    ByMeasure,
)
from worldsim.eval.skill import skill
from worldsim.eval.statistics import Estimate, estimate

ORACLE = "oracle"
_EFFECTS = "wrong effects"


def check(code: str, scenes: Sequence[Scene], workers: int = 1) -> dict[str, Any]:
    """Return a family's column of the matrix: a number for the truth and for every corruption, 1 being right.

    ``skill`` holds the numbers, ``high`` the upper ends of their intervals (None where unbounded), ``measure`` what they
    are reckoned from (None for skill) and ``gap_in_floors`` how far trivial rows are from the truth. The numbers of a
    void probe are None.
    """
    family = FAMILIES[code]
    causal = family.claim == "cause and effect"
    names = [name for name in REGISTERED if causal or name in CORRUPTIONS]
    by_measure = BY_MEASURE.get(code)
    jobs = [ORACLE, *([] if by_measure else ["trivial"]), *CORRUPTIONS, *([_EFFECTS] if causal else [])]
    shares = min(len(jobs), 1 if workers == 1 else 4 * workers)
    tasks = [joblib.delayed(_scored)(code, scenes, jobs[first::shares]) for first in range(shares)]
    table = {name: scores for part in in_processes(tasks, workers) for name, scores in part.items()}
    if by_measure is None:
        trivial = [name for name in table if name not in (ORACLE, *names, *family.references)]
        reckoned = {name: skill(table, name, family.error, trivial) for name in (ORACLE, *names)}
        values, gap = {name: one.value for name, one in reckoned.items()}, reckoned[ORACLE].gap_in_floors
    else:
        values, gap = {name: _worth(table, name, family, by_measure) for name in (ORACLE, *names)}, None
    return {
        "measure": by_measure and by_measure.measure,
        "skill": {name: None if value is None else round(value.value, 4) for name, value in values.items()},
        "high": {name: None if value is None else value.to_json()["high"] for name, value in values.items()},
        "gap_in_floors": gap,
        "n": len(scenes),
    }


def _scored(code: str, scenes: Sequence[Scene], jobs: Sequence[str]) -> dict[str, Scores]:
    """Return the scores, by row, of some jobs: the truth, all trivial rows, one corruption, or all wrong effects."""
    family, made = FAMILIES[code], {}
    painter = Painter(height=scenes[0][0].frames.shape[1], width=scenes[0][0].frames.shape[2], shadows=True)
    try:
        for job in jobs:
            rows = _drawn(family, scenes, job, painter)
            made |= {row: family.score(scenes, frames, read_places) for row, frames in rows.items()}
    finally:
        painter.close()
    return made


def _drawn(family: Family, scenes: Sequence[Scene], job: str, painter: Painter) -> Mapping[str, np.ndarray]:
    if job == ORACLE:
        return {job: films(scenes)}
    if job == "trivial":
        return family.trivial(scenes, painter)
    return wrong_effects(scenes, painter) if job == _EFFECTS else {job: corrupted(job, scenes, painter)}


def _worth(table: Mapping[str, Scores], name: str, family: Family, checked: ByMeasure) -> Estimate:
    """Return 1 minus how much farther a row is from perfect than the truth is, over what is at stake."""
    measure = next(one for one in family.measures if one.name == checked.measure)
    columns = np.stack([table[row].columns[column] for row in (name, ORACLE) for column in measure.columns], axis=1)

    def statistic(means: np.ndarray) -> np.ndarray:
        parts = means.reshape(*means.shape[:-1], 2, len(measure.columns))
        off = np.abs(measure.statistic(parts) - measure.perfect)
        return np.asarray(1 - (off[..., 0] - off[..., 1]) / checked.at_stake)

    return estimate(columns, statistic)


def broken_bands(code: str, column: Mapping[str, Any]) -> list[str]:
    """Return, in words, what is wrong with a family's column of the matrix; nothing if it may be believed."""
    values, broken = column["skill"], []
    if values[ORACLE] is None:
        return ["void: trivial rows are too near to the truth"]
    if abs(values[ORACLE] - 1) > 0.02:
        broken.append(f"the truth has skill {values[ORACLE]:.2f}")
    for name, value in values.items():
        if name == ORACLE:
            continue
        if name in NUISANCES and value < LEAST_NUISANCE:
            broken.append(f"{name}: {value:.2f}, harmless, yet below {LEAST_NUISANCE}")
        elif role(name, code) == "target" and value > MOST_TARGETED:
            broken.append(f"{name}: {value:.2f}, to be noticed, yet above {MOST_TARGETED}")
        elif role(name, code) == "target" and (column["high"][name] is None or column["high"][name] >= 1):
            broken.append(f"{name}: {value:.2f}, to be noticed, yet not told from the truth")
        elif role(name, code) == "" and name not in NUISANCES and abs(value - 1) > MOST_SIDE_EFFECT:
            broken.append(f"{name}: {value:.2f}, none of this probe's business, yet not within {MOST_SIDE_EFFECT} of 1")
    return broken


def role(name: str, code: str) -> str:
    """Return the registered role of a corruption in a probe: "target", "may" (it may move it), or nothing."""
    registered = REGISTERED[name]
    return "target" if code in registered.targets else "may" if code in registered.may_move else ""
