"""`worldsim probe`: physics probes of any predictor against the true world. So far: object permanence (P1).

For every family of scenes the model and all rows beside it (the truth, trivial predictors, the model without its
actions, an untrained one) are asked the same questions, read by the same read-out and scored alike. Writes
``results.json``, ``report.md`` and film strips chosen by rule.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import joblib
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from worldsim.envs.arena import arena_spec
from worldsim.envs.painter import Painter
from worldsim.errors import UsageError, suggestion
from worldsim.eval.parts import Parts, weights_hash
from worldsim.eval.permanence import FAMILIES, PROTOCOL, SPLITS, Family, occlusion, permanence_tale
from worldsim.eval.permanence_scores import Recall, errors, read_row, recall
from worldsim.eval.pixels import constant_frame, mean_frame
from worldsim.eval.predictors import OthersActions, Predictor, ask, load_predictor
from worldsim.eval.probe_report import markdown
from worldsim.eval.rows import climatology, oracle, trivial_rows
from worldsim.eval.skill import SceneCosts, skill
from worldsim.eval.statistics import Estimate, estimate, ratio
from worldsim.eval.strips import film_strip, save_strip, scenes_by_rule
from worldsim.eval.tales import Tale, question_of, tell
from worldsim.eval.trials import ARENA_ID
from worldsim.provenance import provenance, write_json
from worldsim.spec import WorldSpec
from worldsim.world_model import WorldModel, untrained

SCENES = {"smoke": 8, "standard": 64, "full": 512}
"""Scenes of every family by tier."""
CONTROL_SCENES = 32
"""Scenes of the rows that are known to fail: wrong actions, no training."""
STRIP_ROWS = {"oracle": "truth", "model": "model", "copy last": "copy last", "constant velocity": "const. veloc."}
"""Rows that strips show, and what they are called there."""
STRIP_FRAMES = 12
PROBE_SEED = 5_000_000
_REFERENCES = {"P1a": ("constant velocity",)}
"""Trivial rows that are right by construction, and so no baseline, in a family."""


def probe(
    predictor: str | os.PathLike[str] = "arena-small",
    out: str | os.PathLike[str] = "runs/probe",
    tier: str = "smoke",
    family: Sequence[str] | None = None,
    *,
    split: str = "dev",
    workers: int | None = None,
) -> dict[str, Any]:
    """Probe what a predictor knows of the physics of the Arena, and write the report into the folder ``out``.

    Args:
        predictor: an embedded name, a checkpoint or run folder, or ``package.module:Class`` (`worldsim.eval.predictors`).
        out: folder for ``results.json``, ``report.md`` and ``strip_*.png``; files of these names are replaced.
        tier: how many scenes: smoke 8, standard 64, full 512 of each family.
        family: which families of scenes; None for all.
        split: "dev" while anything is still being chosen; "test" once, for a finished model.
        workers: processes for the true world; None for one per core.

    Finished parts are kept in a hidden folder inside ``out`` until the report is written: run the same command again
    after an interruption and it goes on where it stopped.

    Returns what is written to ``results.json``; UsageError for unknown tiers, families or splits, and for predictors
    that answer wrongly.

    """
    started = time.perf_counter()
    families = [_known("family", name, FAMILIES) for name in (family or FAMILIES)]
    scenes = int(_known("tier", tier, SCENES))
    _known("split", split, {name: name for name in SPLITS})
    asked = load_predictor(str(predictor))
    origin = provenance(seed=PROBE_SEED)
    key = {"predictor": _fingerprint(asked, str(predictor)), "scenes": scenes, "split": split, "protocol": PROTOCOL}
    parts = Parts(Path(out), {**key, "code": [origin["commit"], origin["dirty"], origin["versions"]]})
    lab = _Lab(asked, scenes, split, workers or joblib.cpu_count(), parts)
    tables: dict[str, Any] = {}
    with tqdm(total=2 * len(families), desc="probe", unit="part") as bar:
        for one in families:
            tables[one.code] = lab.measure(one, Path(out), bar)
    results = {
        "command": "probe",
        "predictor": str(predictor),
        "protocol": PROTOCOL,
        "tier": tier,
        "split": split,
        **origin,
        "n": scenes,
        "families": tables,
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_json(Path(out) / "results.json", results)
    (Path(out) / "report.md").write_text(markdown(results), encoding="utf-8")
    parts.clear()
    return results


def _known(argument: str, name: str, table: Mapping[str, Any]) -> Any:
    """Return the entry of a table; UsageError with the closest name."""
    if name not in table:
        allowed = f"one of {len(table)}"
        raise UsageError(argument, got=repr(name), allowed=allowed, fix=suggestion(name, tuple(table)))
    return table[name]


def _fingerprint(predictor: Predictor, name: str) -> str:
    """Return what tells predictors apart: the weights of ours, the name of others'."""
    return weights_hash(predictor) if isinstance(predictor, WorldModel) else name


def arena_world() -> WorldSpec:
    """Return the spec of the Arena as it is made without arguments."""
    env = gym.make(ARENA_ID, disable_env_checker=True)
    try:
        return arena_spec(env)
    finally:
        env.close()


class _Lab:
    """Plays, asks, reads and scores one family after the other."""

    def __init__(self, predictor: Predictor, scenes: int, split: str, workers: int, parts: Parts) -> None:
        self.predictor, self.scenes, self.split, self.workers, self.parts = predictor, scenes, split, workers, parts
        self.spec = predictor.spec if isinstance(predictor, WorldModel) else arena_world()

    def measure(self, family: Family, out: Path, bar: tqdm[Any]) -> dict[str, Any]:
        """Return the table of a family and save its strips."""
        make = functools.partial(_make, family, self.split)
        tales = self.parts.get(f"{family.code}_truth", lambda: tell(self.spec, self.scenes, make, self.workers))
        bar.update()
        scored, shown = self.parts.get(f"{family.code}_scores", lambda: self.judge(tales, family))
        strips = _save_strips(out, family, tales, shown, scored.costs)
        bar.update()
        return {**_table(family, scored), "strips": strips}

    def judge(self, tales: Sequence[Tale], family: Family) -> tuple[_Scored, dict[str, np.ndarray]]:
        """Return the scores of every row, and the frames of those that strips show."""
        rows = self.rows(tales)
        return _score(tales, family, rows), {name: rows[name][0] for name in STRIP_ROWS}

    def rows(self, tales: Sequence[Tale]) -> dict[str, list[UInt8[np.ndarray, "n t h w 3"]]]:
        """Return the frames of every row; some rows are several predictions, or of the first scenes only."""
        height, width, _ = self.spec.frame_shape
        painter = Painter(height=height, width=width, shadows=bool(self.spec.env_kwargs.get("shadows", True)))
        question, seeds = question_of(tales), [PROBE_SEED + i for i in range(len(tales))]
        few = slice(0, min(CONTROL_SCENES, len(tales)))
        frames = oracle(tales)
        rows = {"model": [ask(self.predictor, question, seeds=seeds)[:, 0]], "oracle": [frames]}
        try:
            rows |= {name: [row] for name, row in trivial_rows(tales, painter).items()}
        finally:
            painter.close()
        rows["mean frame"] = [constant_frame(mean_frame(frames), *frames.shape[:2])]
        rows["climatology"] = climatology(tales, np.random.default_rng([PROBE_SEED, 1]))
        controls = {"model, others' actions": OthersActions(self.predictor), "untrained": untrained(self.spec)}
        for name, control in controls.items():
            rows[name] = [ask(control, question.rows(few), seeds=seeds[few])[:, 0]]
        return rows


def _make(family: Family, split: str, env: gym.Env[Any, Any], index: int) -> Tale:
    return permanence_tale(env, family, split, index)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Scored:
    costs: SceneCosts
    recalls: dict[str, Recall]


def _score(tales: Sequence[Tale], family: Family, rows: Mapping[str, Sequence[np.ndarray]]) -> _Scored:
    """Read and score every row; rows of several predictions are averaged, scene by scene."""
    costs, recalls = {}, {}
    scored, floor = np.zeros(len(tales)), np.nan
    for name, predictions in rows.items():
        part = tales[: len(predictions[0])]
        reads = [read_row(part, frames) for frames in predictions]
        tracked = [errors(part, read) for read in reads]
        by_scene = np.mean([error.by_scene() for error in tracked], axis=0)
        recalls[name] = recall(part, family, reads[0])
        costs[name] = by_scene[:, 0]
        if name == "oracle":
            scored, floor = by_scene[:, 1], tracked[0].floor
    return _Scored(costs=SceneCosts(costs=costs, scored=scored, floor=floor), recalls=recalls)


def _table(family: Family, scored: _Scored) -> dict[str, Any]:
    """Return the numbers of a family: a row for each predictor."""
    references = _REFERENCES.get(family.code, ())
    names = ("copy last", "constant velocity", "freeze", "deleted", "mean frame", "climatology")
    trivial = tuple(name for name in names if name not in references)
    table = {name: _row(name, scored, trivial) for name in scored.costs.costs}
    floor = round(100 * scored.costs.floor, 3)
    return {"title": family.title, "rows": table, "references": list(references), "floor_cm": floor}


def _row(name: str, scored: _Scored, trivial: tuple[str, ...]) -> dict[str, Any]:
    count = len(scored.costs.costs[name])
    costs = SceneCosts(
        costs={row: cost[:count] for row, cost in scored.costs.costs.items() if len(cost) >= count},
        scored=scored.costs.scored[:count],
        floor=scored.costs.floor,
    )
    got = scored.recalls[name]
    recalled = estimate(got.recalled.astype(np.float64)[:, None], lambda means: means[..., 0])
    return {
        "n": count,
        "tracking_error_cm": _centimetres(costs.mean(name)),
        **skill(costs, name, trivial).to_json(),
        "recall": recalled.to_json(),
        "shown_while_hidden": float(got.shown_hidden.mean()),
        "went_on": _json(ratio(got.moved[:, 0], got.moved[:, 1])),
    }


def _json(value: Estimate | None) -> dict[str, Any] | None:
    return None if value is None else value.to_json()


def _centimetres(value: Estimate) -> dict[str, Any]:
    scaled = Estimate(value=100 * value.value, low=100 * value.low, high=100 * value.high, n=value.n)
    return scaled.to_json()


def _save_strips(
    folder: Path, family: Family, tales: Sequence[Tale], frames: Mapping[str, np.ndarray], costs: SceneCosts
) -> dict[str, str]:
    """Save strips of the scenes where the model costs least, the median and most, and of the first scene."""
    times = np.unique(np.linspace(1, family.steps, STRIP_FRAMES).astype(int))
    names = {}
    for rule, scene in scenes_by_rule(costs.costs["model"]).items():
        tale, last = tales[scene], tales[scene].context_frames[-1:]
        shown = {STRIP_ROWS[name]: np.concatenate([last, row[scene, times - 1]]) for name, row in frames.items()}
        event = occlusion(tale, family)
        hidden = (
            "" if event is None else f", {tale.script.label} hidden in {event.hidden_from + 1}-{event.hidden_until}"
        )
        strip = film_strip(shown, (0, *times.tolist()), f"{family.code} {rule}: {family.title}{hidden}")
        names[rule] = save_strip(folder / f"strip_{family.code}_{rule}.png", strip).name
    return names
