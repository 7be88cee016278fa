"""`worldsim selftest`: the probes probed. Corrupted oracles x families, without any model.

Every family scores the truth, its trivial rows, and truths with one thing wrong. A probe may be believed if the truth
has skill 1, if harmless changes hardly lower it, if every corruption that it is meant to notice lowers it much, and if
nothing else moves it. What each corruption targets, and what it may also move, is registered beforehand (`REGISTERED`).
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
from tqdm import tqdm

from worldsim.envs.painter import Painter
from worldsim.envs.workers import in_processes
from worldsim.eval.cause_corruptions import corrupted as wrong_effects
from worldsim.eval.corruptions import CORRUPTIONS, corrupted
from worldsim.eval.families import PROTOCOL, Scene, films
from worldsim.eval.figures import heat_map
from worldsim.eval.lab import arena_world
from worldsim.eval.places import read_places
from worldsim.eval.registry import FAMILIES, SCENES, chosen
from worldsim.eval.skill import skill
from worldsim.eval.truths import Truths, code_hash
from worldsim.provenance import provenance, write_json

CHECKED = ("P1c", "P1d", "P1e", "P1h", "P2b", "P3-I1", "P3-I4", "P6-orbit")
"""Families of the matrix: one or more of each claim whose skill is reckoned from what is read."""
NUISANCES = ("noise .03", "blur", "gamma 1.2")
LEAST_NUISANCE, MOST_TARGETED, MOST_SIDE_EFFECT = 0.95, 0.60, 0.05


@dataclasses.dataclass(frozen=True)
class Registered:
    """What a corruption is meant for: the probes that must notice it, and those that it may also move."""

    targets: tuple[str, ...]
    may_move: tuple[str, ...] = ()


_EFFECTS = "wrong effects"
_HIDING = ("P1c", "P1d", "P1e", "P1h")
_EVERY = CHECKED
REGISTERED: Mapping[str, Registered] = {
    "deleted behind": Registered(_HIDING),
    "freeze": Registered(("P1c", "P1e"), ("P1d", "P1h")),
    "colour swap": Registered(_HIDING, ("P2b", "P3-I1", "P3-I4", "P6-orbit")),
    "shape swap": Registered((), _EVERY),
    "early 4": Registered((), _EVERY),
    "late 4": Registered((), _EVERY),
    "teleport 15 cm": Registered(("P1c",), ("P1d", "P1e", "P1h", "P2b", "P3-I1", "P3-I4", "P6-orbit")),
    "always redrawn": Registered(("P1c", "P1d", "P1e"), ("P6-orbit",)),
    "mirrored": Registered(("P1c", "P1d", "P1e", "P1h", "P2b", "P3-I4"), ("P3-I1", "P6-orbit")),
    "camera lags 1": Registered(("P6-orbit",), ("P1h", "P2b")),
    "camera gain .8": Registered(("P2b",), ("P1h", "P6-orbit")),
    "wrong lens": Registered(("P2b",), _EVERY),
    "bystander jiggles": Registered((), _EVERY),
    "ghost": Registered((), ("P1c", "P1d", "P1e", "P1h", "P2b", "P6-orbit")),
    "action ignored": Registered(_EVERY),
    "noise .03": Registered(()),
    "noise .08": Registered((), _EVERY),
    "blur": Registered(()),
    "gamma 1.2": Registered(()),
    "flicker": Registered((), ("P6-orbit",)),
    "other scene": Registered(_EVERY),
    "mean frame": Registered(_EVERY),
    "effect x 0.5": Registered(("P3-I1", "P3-I4")),
    "effect x 1.5": Registered(("P3-I1", "P3-I4")),
    "effect 4 late": Registered(("P3-I1", "P3-I4")),
    "effect 4 early": Registered(("P3-I1", "P3-I4")),
    "mirrored effect": Registered(("P3-I4",), ("P3-I1",)),
    "contacts off": Registered(("P3-I1", "P3-I4")),
}


def selftest(
    out: str | os.PathLike[str] = "runs/selftest",
    tier: str = "smoke",
    family: Sequence[str] | None = None,
    *,
    truth: str | os.PathLike[str] = "runs/probe-truth",
    workers: int | None = None,
) -> dict[str, Any]:
    """Score corrupted truths with every probe, and write the matrix into the folder ``out``.

    Args:
        out: folder for ``results.json`` and the heat map ``matrix.png``; files of these names are replaced.
        tier: how many scenes of each family: smoke 8, standard 64, full 512.
        family: which families; None for all that are registered.
        truth: folder that keeps the true scenes.
        workers: processes; None for one per core.

    Returns what is written to ``results.json``; UsageError for unknown tiers and families.

    """
    started = time.perf_counter()
    families = chosen(family or CHECKED, tier)
    count = workers or joblib.cpu_count()
    truths = Truths(Path(truth), arena_world(), "dev", count)
    matrix: dict[str, Any] = {}
    with tqdm(total=len(families), desc="selftest", unit="probe") as bar:
        for one in families:
            bar.set_postfix_str(one.code)
            scenes = truths.scenes(one, SCENES[tier])
            matrix[one.code] = check(one.code, scenes, count)
            bar.update()
    failures = {code: broken for code, column in matrix.items() if (broken := broken_bands(code, column))}
    results = {
        "command": "selftest", "protocol": PROTOCOL, "scenes_hash": code_hash(), "tier": tier, **provenance(),
        "bands": {"nuisance at least": LEAST_NUISANCE, "targeted at most": MOST_TARGETED, "side effect": MOST_SIDE_EFFECT},
        "matrix": matrix, "failures": failures, "seconds": round(time.perf_counter() - started, 1),
    }  # fmt: skip
    write_json(Path(out) / "results.json", results)
    names = [name for name in REGISTERED if any(name in column["skill"] for column in matrix.values())]
    cells = [[column["skill"].get(name) for column in matrix.values()] for name in names]
    marks = [[_mark(name, code) for code in matrix] for name in names]
    (Path(out) / "matrix.png").write_bytes(heat_map(cells, names, list(matrix), marks))
    return results


def check(code: str, scenes: Sequence[Scene], workers: int = 1) -> dict[str, Any]:
    """Return the skill of every corruption by one family, and how far trivial rows are from the truth in floors."""
    family = FAMILIES[code]
    causal = family.claim == "cause and effect"
    names = [name for name in REGISTERED if causal or name in CORRUPTIONS]
    jobs = ["oracle", "trivial", *CORRUPTIONS, *([_EFFECTS] if causal else [])]
    tasks = [joblib.delayed(_score)(code, scenes, job) for job in jobs]
    table = {name: scores for part in in_processes(tasks, workers) for name, scores in part.items()}
    trivial = [name for name in table if name not in ("oracle", *names, *family.references)]
    reckoned = {name: skill(table, name, family.error, trivial) for name in ("oracle", *names)}
    values = {name: None if one.value is None else round(one.value.value, 4) for name, one in reckoned.items()}
    return {"skill": values, "gap_in_floors": reckoned["oracle"].gap_in_floors, "n": len(scenes)}


def _score(code: str, scenes: Sequence[Scene], name: str) -> dict[str, Any]:
    """Return the scores of the truth, of all trivial rows, of one corruption or of all wrong effects."""
    family = FAMILIES[code]
    painter = Painter(height=scenes[0][0].frames.shape[1], width=scenes[0][0].frames.shape[2], shadows=True)
    try:
        if name == "oracle":
            made = {name: films(scenes)}
        elif name == "trivial":
            made = dict(family.trivial(scenes, painter))
        elif name == _EFFECTS:
            made = wrong_effects(scenes, painter)
        else:
            made = {name: corrupted(name, scenes, painter)}
    finally:
        painter.close()
    return {row: family.score(scenes, frames, read_places) for row, frames in made.items()}


def broken_bands(code: str, column: Mapping[str, Any]) -> list[str]:
    """Return, in words, what is wrong with a family's column of the matrix; nothing if it may be believed."""
    values, broken = column["skill"], []
    if values["oracle"] is None:
        return ["void: trivial rows are too near to the truth"]
    if abs(values["oracle"] - 1) > 0.02:
        broken.append(f"the truth has skill {values['oracle']:.2f}")
    for name, value in values.items():
        if name == "oracle":
            continue
        if name in NUISANCES and value < LEAST_NUISANCE:
            broken.append(f"{name}: {value:.2f}, harmless, yet below {LEAST_NUISANCE}")
        elif code in REGISTERED[name].targets and value > MOST_TARGETED:
            broken.append(f"{name}: {value:.2f}, to be noticed, yet above {MOST_TARGETED}")
        elif _mark(name, code) == "" and name not in NUISANCES and abs(value - 1) > MOST_SIDE_EFFECT:
            broken.append(f"{name}: {value:.2f}, none of this probe's business, yet not within {MOST_SIDE_EFFECT} of 1")
    return broken


def _mark(name: str, code: str) -> str:
    """Return the registered role of a corruption in a probe: targeted, may move, or nothing."""
    registered = REGISTERED[name]
    return "target" if code in registered.targets else "may" if code in registered.may_move else ""
