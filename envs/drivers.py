"""Drivers: who acts while an environment is recorded. Chance, a function of the user's, or a policy that was learnt.

Drivers are asked in the world's own terms, its observation and its own kind of action; what they do is kept as rows.
Knows no file of a recording and no frame.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import zipfile
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float32

from worldsim.envs.actions import FlatActions
from worldsim.errors import UsageError

Actor = Callable[[Any], Any]
"""Takes an observation and returns an action, both as the environment's spaces have them."""

HOLD_STEPS = ((1, 3), (3, 12))
"""Random actions are held at least and at most this long, in one half of the episodes or the other."""
EPSILON = 0.1
"""Chance, at each step of a learnt policy, that a random action takes over for a while."""
_ALLOWED = "random, MODULE:FUNCTION, or sb3:FILE.zip"
_MARKS = {"PPO": "clip_range", "DQN": "exploration_rate", "TD3": "policy_delay", "SAC": "target_entropy"}
"""What only that algorithm of Stable-Baselines3 saves."""


@dataclasses.dataclass(frozen=True)
class LearntActor:
    """A policy of Stable-Baselines3, without its noise."""

    model: Any

    def __call__(self, observation: Any) -> Any:
        """Return the policy's action."""
        return self.model.predict(observation, deterministic=True)[0]

    @classmethod
    def of(cls, file: str) -> LearntActor:
        """Load a saved policy; the algorithm is told by what it saved. UsageError where that cannot be done."""
        try:
            import stable_baselines3
        except ImportError as error:
            fix = "pip install 'worldsim[agents]'"
            raise UsageError("policy", got="no stable_baselines3", allowed="the agents extra", fix=fix) from error
        try:
            with zipfile.ZipFile(file) as archive:
                saved = json.loads(archive.read("data"))
        except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
            fix = f"{error}; give the path that the policy was saved under, with .zip"
            raise UsageError("policy", got=f"sb3:{file}", allowed="a file of Stable-Baselines3", fix=fix) from error
        algorithm = next((name for name, mark in _MARKS.items() if mark in saved), "A2C")
        return cls(getattr(stable_baselines3, algorithm).load(file, device="cpu"))


@dataclasses.dataclass(kw_only=True)
class Driver:
    """Acts through one episode: random rows, each held for a while, or an actor's, with random ones among a learnt one's.

    A world that only ever shows what one policy does teaches a model to guess the action from the frame instead of to heed
    it. Functions of the user's own are played as they are.
    """

    rule: FlatActions
    space: gym.Space[Any]
    """The environment's own action space, for what the actor returns."""
    rng: np.random.Generator
    actor: Actor | None = None

    def __post_init__(self) -> None:
        self._holds = HOLD_STEPS[int(self.rng.integers(len(HOLD_STEPS)))]
        self._epsilon = EPSILON if isinstance(self.actor, LearntActor) else float(self.actor is None)
        self._row, self._held = np.zeros(len(self.rule.names), np.float32), 0

    def row(self, observation: Any) -> Float32[np.ndarray, " a"]:
        """Return the next action as a row; UsageError where the actor's is none of the environment's."""
        if self._held == 0 and self.rng.random() < self._epsilon:
            self._row = self.rule.draw(self.rng)
            self._held = int(self.rng.integers(self._holds[0], self._holds[1] + 1))
        if self._held > 0:
            self._held -= 1
            return self._row
        assert self.actor is not None
        action = np.asarray(self.actor(observation), self.space.dtype)
        if action.shape != (self.space.shape or ()):
            raise UsageError(
                "policy",
                got=f"an action of shape {action.shape}",
                allowed=f"one of {self.space}",
                fix="return the next action for one observation",
            )
        return np.clip(self.rule.rows(action[None], "the policy")[0], self.rule.low, self.rule.high).astype(np.float32)


def load_actor(policy: str) -> Actor | None:
    """Return what acts under the name ``policy``: None for "random", else a function; UsageError if there is none such.

    "MODULE:FUNCTION" names a function of an observation; "sb3:FILE.zip" a policy saved by Stable-Baselines3, whose file
    holds pickled Python: load none that you did not make or do not trust.
    """
    if policy == "random":
        return None
    first, _, rest = policy.partition(":")
    if first == "sb3":
        return LearntActor.of(rest)
    try:
        actor = getattr(importlib.import_module(first), rest)
    except (ImportError, AttributeError, ValueError) as error:
        fix = f"{error}; run from the folder that holds the module, or install it"
        raise UsageError("policy", got=repr(policy), allowed=_ALLOWED, fix=fix) from error
    if not callable(actor):
        raise UsageError("policy", got=f"{policy}, a {type(actor).__name__}", allowed=_ALLOWED, fix="name a function")
    return actor
