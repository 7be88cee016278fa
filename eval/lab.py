"""Asks a predictor, and its controls, for the frames of the scenes of a probe. Scores and writes nothing.

The controls must fail: the model told other actions or none, and an untrained one. Rows that know no model are made in
`worldsim.eval.references`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import gymnasium as gym
import joblib
import numpy as np
from jaxtyping import Float32

from worldsim.envs.arena import arena_spec
from worldsim.envs.workers import in_processes
from worldsim.eval.families import Scene
from worldsim.eval.predictors import Predictor, Question, ask, load_predictor
from worldsim.eval.reading import Rows
from worldsim.eval.rows import MODEL, OTHERS, UNCONDITIONED, UNTRAINED
from worldsim.eval.tales import question_of
from worldsim.eval.trials import ARENA_ID, make_arena, recorded_scripts
from worldsim.spec import WorldSpec
from worldsim.world_model import WorldModel, untrained

PROBE_SEED = 5_000_000
CONTROL_SHARE, LEAST_CONTROLS = 0.25, 4
"""Share of the scenes that rows are asked about which are known to fail (wrong actions, no actions, no training), and how
many there are at least: they fail by far, and half of the scenes took a third of the time."""
BATCH = 8
"""Contexts that are asked about at once, whatever the number of processes: batches of other sizes round otherwise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lab:
    """Asks predictors about the scenes of families."""

    predictor: str
    """A checkpoint, or ``package.module:Class``: every process loads its own."""
    spec: WorldSpec
    workers: int
    samples: int = 1

    def rows(self, scenes: Sequence[Scene]) -> Rows:
        """Return the frames of the model and, of the first scenes, of it under other actions and under none."""
        few = _first(scenes)
        questions = {MODEL: _question(scenes), OTHERS: _question(few, self._other_actions(few))}
        if isinstance(_predictor(MODEL, self.predictor), WorldModel):
            questions[UNCONDITIONED] = _question(few)
        return self._answers(questions, len(scenes[0]))

    def untrained(self, scenes: Sequence[Scene]) -> Rows:
        """Return the frames of an untrained network of the first scenes: the same whatever the predictor."""
        return self._answers({UNTRAINED: _question(_first(scenes))}, len(scenes[0]))

    def _answers(self, questions: Mapping[str, Question], members: int) -> Rows:
        """Ask every row its question in processes, a batch of contexts at once; ``members`` are the tales of a scene."""
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


def _first(scenes: Sequence[Scene]) -> Sequence[Scene]:
    return scenes[: max(LEAST_CONTROLS, math.ceil(CONTROL_SHARE * len(scenes)))]


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
