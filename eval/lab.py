"""The rows of a probe's table: what every predictor shows of the scenes of a family, and how it scores. Writes nothing.

Beside the model stand the truth (also in another light), physics begun from what can be read, the trivial predictors,
and controls that must fail: the model told other actions or none, and an untrained one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import joblib
import numpy as np
from jaxtyping import Float32, UInt8

from worldsim.envs.arena import arena_spec
from worldsim.envs.painter import Painter
from worldsim.envs.workers import in_processes
from worldsim.eval import rows
from worldsim.eval.families import Family, Scene, Scores, each_tale, films
from worldsim.eval.perception import perception_limited
from worldsim.eval.pixels import constant_frame, mean_frame
from worldsim.eval.places import read_places
from worldsim.eval.predictors import Predictor, Question, ask, load_predictor
from worldsim.eval.registry import FAMILIES
from worldsim.eval.tales import Tale, question_of
from worldsim.eval.trials import ARENA_ID, make_arena, recorded_scripts
from worldsim.spec import WorldSpec
from worldsim.world_model import WorldModel, untrained

PROBE_SEED = 5_000_000
CONTROL_SCENES = 32
"""Scenes of the rows that are known to fail: wrong actions, no actions, no training."""
BATCH = 8
"""Contexts that are asked about at once, whatever the number of processes: batches of other sizes round otherwise."""
ENSEMBLE = 2
"""Members of the perception-limited oracle that are drawn."""

ORACLE, LIMITED, RELIT = "oracle", "perception-limited oracle", "oracle without shadows"
MODEL, OTHERS, UNCONDITIONED, UNTRAINED = "model", "model, others' actions", "model, no actions", "untrained"
MEAN, CLIMATOLOGY = "mean frame", "climatology"
NOT_TRIVIAL = (ORACLE, LIMITED, RELIT, MODEL, OTHERS, UNCONDITIONED, UNTRAINED)

Frames = UInt8[np.ndarray, "n m t h w 3"]
Rows = dict[str, list[Frames]]
"""Predictions by row: several where a row is an ensemble or a draw; some rows are of the first scenes only."""
READERS = {"colour": read_places}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lab:
    """Asks predictors about the scenes of families."""

    predictor: str
    """A checkpoint, or ``package.module:Class``: every process loads its own."""
    spec: WorldSpec
    workers: int
    samples: int = 1

    def rows(self, family: Family, scenes: Sequence[Scene]) -> Rows:
        """Return the frames of every row of a family's table."""
        truth = films(scenes)
        made: Rows = {ORACLE: [truth], **self._drawn(family, scenes)}
        made[MEAN] = [constant_frame(mean_frame(_flat(truth)), len(truth) * truth.shape[1], truth.shape[2])]
        made[MEAN] = [row.reshape(truth.shape) for row in made[MEAN]]
        return made | self._asked(scenes)

    def _drawn(self, family: Family, scenes: Sequence[Scene]) -> Rows:
        """Return the rows that are the true scenes drawn again, in processes that share the scenes."""
        count = len(scenes)
        size = max(1, -(-count // self.workers))
        chunks = [slice(first, first + size) for first in range(0, count, size)]
        others = rows.other_scenes(count, np.random.default_rng([PROBE_SEED, 1]))
        courses = [[rows.courses(tale) for tale in scene] for scene in scenes]
        tasks = [
            joblib.delayed(_draw)(
                family.code, scenes[chunk], [[courses[scene] for scene in order[chunk]] for order in others], self.spec
            )
            for chunk in chunks
        ]
        parts = list(in_processes(tasks, min(self.workers, len(chunks))))
        return {
            name: [np.concatenate(members) for members in zip(*(part[name] for part in parts), strict=True)]
            for name in parts[0]
        }

    def _asked(self, scenes: Sequence[Scene]) -> Rows:
        """Return the rows of the model and of its controls, asked in processes, a batch of contexts at once."""
        few, members = scenes[:CONTROL_SCENES], len(scenes[0])
        questions = {
            MODEL: _question(scenes),
            OTHERS: _question(few, self._other_actions(few)),
            UNTRAINED: _question(few),
        }
        if isinstance(_predictor(MODEL, self.predictor), WorldModel):
            questions[UNCONDITIONED] = _question(few)
        chunks = [
            (row, slice(first, first + BATCH))
            for row, question in questions.items()
            for first in range(0, len(question.actions), BATCH)
        ]
        tasks = [
            joblib.delayed(_ask)(
                row,
                self.predictor,
                questions[row].rows(chunk),
                (chunk.start, members),
                self.samples if row == MODEL else 1,
            )
            for row, chunk in chunks
        ]
        answers: dict[str, list[np.ndarray]] = {}
        for (row, _), answer in zip(chunks, in_processes(tasks, self.workers), strict=True):
            answers.setdefault(row, []).append(answer)
        made: Rows = {}
        for row, parts in answers.items():
            film = np.concatenate(parts)
            film = film.reshape(-1, members, *film.shape[1:])  # (scenes, members, samples, t, h, w, 3)
            made[row] = [np.ascontiguousarray(film[:, :, sample]) for sample in range(film.shape[2])]
        return made

    def _other_actions(self, scenes: Sequence[Scene]) -> Float32[np.ndarray, "n t a"]:
        """Return what is done in other episodes of a recording: scenes of one family are all driven alike."""
        env = make_arena(self.spec)
        try:
            steps = len(scenes[0][0].script.actions)
            scripts = recorded_scripts(env, [PROBE_SEED + index for index in range(len(scenes))], steps)
        finally:
            env.close()
        return np.stack([script.actions for script in scripts])


def _draw(code: str, scenes: Sequence[Scene], others: Sequence[Any], spec: WorldSpec) -> dict[str, list[np.ndarray]]:
    """Draw some scenes again in every way; ``others`` holds the courses of other scenes, several times over."""
    height, width, _ = spec.frame_shape
    shadows = bool(spec.env_kwargs.get("shadows", True))
    painter = Painter(height=height, width=width, shadows=shadows)
    dim = Painter(height=height, width=width, shadows=not shadows)

    def drawn(draw: Callable[[Sequence[Tale]], np.ndarray]) -> np.ndarray:
        return each_tale(scenes, lambda tales: {"row": draw(tales)})["row"]

    try:
        made = {
            LIMITED: [drawn(lambda tales, k=k: perception_limited(tales, painter, k)) for k in range(ENSEMBLE)],
            RELIT: [drawn(lambda tales: np.stack([tale.redraw(dim, lambda *_: None) for tale in tales]))],
            CLIMATOLOGY: [
                drawn(lambda tales, c=courses: rows.climatology(tales, [x for scene in c for x in scene], painter))
                for courses in others
            ],
        }
        trivial = FAMILIES[code].trivial(scenes, painter)
    finally:
        painter.close()
        dim.close()
    return {**{name: row for name, row in made.items() if row}, **{name: [row] for name, row in trivial.items()}}


def _question(scenes: Sequence[Scene], actions: Float32[np.ndarray, "n t a"] | None = None) -> Question:
    """Ask about every tale of every scene; ``actions`` replace those of a scene."""
    question = question_of([tale for scene in scenes for tale in scene])
    if actions is None:
        return question
    return dataclasses.replace(question, actions=np.repeat(actions, len(scenes[0]), axis=0))


@functools.lru_cache(maxsize=4)
def _predictor(row: str, name: str) -> Predictor:
    """Load what answers a row: the predictor itself, it without actions, or an untrained one of its world."""
    asked = load_predictor(name)
    if row == UNCONDITIONED and isinstance(asked, WorldModel):
        return asked.unconditioned()
    if row == UNTRAINED:
        return untrained(world_of(asked))
    return asked


def _ask(row: str, name: str, question: Question, place: tuple[int, int], samples: int) -> np.ndarray:
    """Ask one batch; ``place`` is its first context and the number of tales of a scene, which share their noise."""
    first, members = place
    seeds = [PROBE_SEED + (first + index) // members for index in range(len(question.actions))]
    return ask(_predictor(row, name), question, seeds=seeds, num_samples=samples, batch=BATCH)


def world_of(predictor: Predictor) -> WorldSpec:
    """Return the world a predictor was trained on: ours say; of others the Arena as it is made without arguments."""
    return predictor.spec if isinstance(predictor, WorldModel) else arena_world()


def arena_world() -> WorldSpec:
    """Return the spec of the Arena as it is made without arguments."""
    env = gym.make(ARENA_ID, disable_env_checker=True)
    try:
        return arena_spec(env)
    finally:
        env.close()


def _flat(frames: np.ndarray) -> np.ndarray:
    return frames.reshape(-1, *frames.shape[2:])


def score_rows(
    family: Family, scenes: Sequence[Scene], made: Mapping[str, Sequence[Frames]], reader: str, workers: int
) -> dict[str, Scores]:
    """Read and score every row, in processes; rows of several predictions are averaged, scene by scene."""
    jobs = [(name, frames) for name, predictions in made.items() for frames in predictions]
    tasks = [joblib.delayed(_score)(family.code, scenes[: len(frames)], frames, reader) for _, frames in jobs]
    by_row: dict[str, list[Scores]] = {}
    for (name, _), scores in zip(jobs, in_processes(tasks, workers), strict=True):
        by_row.setdefault(name, []).append(scores)
    return {name: _mean(parts) for name, parts in by_row.items()}


def _score(code: str, scenes: Sequence[Scene], frames: np.ndarray, reader: str) -> Scores:
    return FAMILIES[code].score(scenes, frames, READERS[reader])


def _mean(parts: Sequence[Scores]) -> Scores:
    columns: Mapping[str, Any] = {
        name: np.mean([part.columns[name] for part in parts], axis=0) for name in parts[0].columns
    }
    frame_cost = np.mean([part.frame_cost for part in parts], axis=0)
    return Scores(columns=columns, frame_cost=frame_cost, floor=parts[0].floor)
