"""Agents that see worlds only through the Gymnasium contract. Import name: ``worldsim.agents``.

Knows no simulator, no world model and no checkpoint: a policy is given observations and returns actions, so the very
same policy acts in the true world and in a dream of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from gymnasium.spaces import Box
from jaxtyping import Float32

from worldsim.errors import UsageError

Context = Mapping[str, np.ndarray]
"""What was seen before an episode begins: "frames" and "actions", as `info["context"]` of a reset has them."""


@runtime_checkable
class Policy(Protocol):
    """Anything that acts on what it sees. One policy object plays one episode at a time."""

    def reset(self, seed: int, context: Context | None = None) -> None:
        """Begin an episode: forget the last one, and take all randomness from ``seed``.

        ``context`` is what was to be seen before: "frames" (k+1, h, w, 3), of which the last is the first observation,
        and "actions" (k, a) between them.
        """

    def act(self, observation: np.ndarray) -> Float32[np.ndarray, " a"]:
        """Return the next action, within the bounds of the environment's action space.

        Observations are frames uint8 (h, w, 3), or the readout that the policy asks for by an attribute ``observes``.
        """
        ...


class RandomPolicy:
    """Actions drawn uniformly from a bounded ``action_space``, each held for ``hold_steps`` steps."""

    def __init__(self, action_space: Box, hold_steps: int = 1) -> None:
        if hold_steps < 1:
            raise UsageError("hold_steps", got=hold_steps, allowed="1 or more", fix="1 draws anew at every step")
        self.action_space = action_space
        self.hold_steps = hold_steps
        self.reset(0)

    def reset(self, seed: int, context: Context | None = None) -> None:
        """Begin an episode whose actions depend on ``seed`` alone."""
        self._rng = np.random.default_rng(seed)
        self._steps = 0
        self._action = np.zeros(self.action_space.shape, np.float32)

    def act(self, observation: np.ndarray) -> Float32[np.ndarray, " a"]:
        """Return the next action; the observation is not looked at."""
        if self._steps % self.hold_steps == 0:
            drawn = self._rng.uniform(self.action_space.low, self.action_space.high)
            self._action = drawn.astype(np.float32).clip(self.action_space.low, self.action_space.high)
        self._steps += 1
        return self._action.copy()


class ScriptedPolicy:
    """Plays the rows of ``actions`` (t, a) in order, the same in every episode."""

    def __init__(self, actions: Float32[np.ndarray, "t a"]) -> None:
        self.actions = actions.copy()
        self._steps = 0

    def reset(self, seed: int, context: Context | None = None) -> None:
        """Begin the script again; nothing in it is random."""
        self._steps = 0

    def act(self, observation: np.ndarray) -> Float32[np.ndarray, " a"]:
        """Return the next row; UsageError when the script is over."""
        if self._steps >= len(self.actions):
            raise UsageError(
                "script",
                got=f"step {self._steps + 1}",
                allowed=f"the script's {len(self.actions)} steps",
                fix="write a longer script, or reset the policy with the environment",
            )
        self._steps += 1
        return self.actions[self._steps - 1].copy()


__all__ = ["Policy", "RandomPolicy", "ScriptedPolicy"]
