"""Judges: what an imagined frame is worth and whether it ends the episode. Knows only what the model reads off it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from worldsim.errors import UsageError, suggestion
from worldsim.spec import WorldSpec

TERMINATION_THRESHOLD = 0.5
"""A dream ends when the model's probability of termination exceeds this."""

Judge = Callable[[Mapping[str, np.ndarray]], tuple[np.ndarray, np.ndarray]]
"""From what `Rollout.read` returns to rewards (b,) float and terminated (b,) bool."""


def make_judge(task: str | None, spec: WorldSpec) -> Judge:
    """Return the judge of a dream: the model's heads for None, else the task's functions on the predicted state.

    Raises UsageError for an unknown task, and when the world's "state" readout is not the one that tasks are about.
    """
    if task is None:
        return judge_by_heads
    from worldsim.envs.state import STATE_NAMES
    from worldsim.envs.tasks import TASKS

    if task not in TASKS:
        raise UsageError(
            "task",
            got=repr(task),
            allowed=f"None (the model's own heads), {', '.join(TASKS)}",
            fix=suggestion(task, tuple(TASKS)),
        )
    names = spec.readout("state").names
    if names != tuple(STATE_NAMES):
        raise UsageError(
            "task",
            got=f'{task!r} on a "state" readout of {len(names)} numbers',
            allowed=f"the {len(STATE_NAMES)} numbers of worldsim/Arena-v0's state",
            fix="use task=None, or a checkpoint trained on worldsim/Arena-v0",
        )
    chosen = TASKS[task]

    def judge_by_task(values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        state = values["state"]
        return np.asarray(chosen.reward(state)), np.asarray(chosen.terminated(state))

    return judge_by_task


def judge_by_heads(values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Take the model's own reward, and the end where its probability exceeds `TERMINATION_THRESHOLD`."""
    return values["reward"], values["terminated"] > TERMINATION_THRESHOLD
