"""Gradient ascent through a dream: the planner that only a differentiable imagination allows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from worldsim.agents.imagination import Imagined
from worldsim.agents.objectives import Return
from worldsim.agents.planner import Planner
from worldsim.errors import UsageError


class GradientPlanner(Planner):
    """Improves a few plans by Adam along the gradient of their score (as in Srinivas et al. 2018).

    Needs an environment with ``imagine(plans)`` (worldsim/Dream-v0), and an objective that has a gradient: a state, a
    picture, or the model's own reward (task=None). The costly part is the dream, run forward and back: take few
    ``candidates``, some 8, and more iterations.
    """

    def __init__(self, env: Any, *args: Any, rate: float = 0.2, spread: float = 0.5, **kwargs: Any) -> None:
        super().__init__(env, *args, **kwargs)
        if self.live or not hasattr(env.unwrapped, "imagine"):
            raise UsageError(
                "env",
                got=f"{type(env.unwrapped).__name__}, which has no gradient",
                allowed="a dream (worldsim/Dream-v0)",
                fix="CEMPlanner or another sampling planner",
            )
        if isinstance(self.objective, Return) and env.unwrapped.task is not None:
            raise UsageError(
                "objective",
                got=f"the return of task {env.unwrapped.task!r}, whose function has no gradient",
                allowed="StateGoal, GoalImage, or Return with task=None",
                fix='gym.make("worldsim:worldsim/Dream-v0", task=None)',
            )
        self.rate, self.spread = rate, spread
        self._dream: Any = env.unwrapped

    def begin(self, mean: Float[np.ndarray, "k f"]) -> None:
        """Scatter the plans around the warm start, which is one of them."""
        scatter = self.rng.standard_normal((self.settings.candidates, *mean.shape))
        scatter[0] = 0
        start = np.clip(mean + self.spread * scatter, -0.95, 0.95)
        self._plans = torch.nn.Parameter(torch.tensor(start, dtype=torch.float32))
        self._optimizer = torch.optim.Adam([self._plans], lr=self.rate)

    def propose(self, iteration: int) -> Float[np.ndarray, "n k f"]:
        """Return the plans as they are now."""
        return self._plans.detach().numpy().astype(np.float64)

    def evaluate(self, knots: Float[np.ndarray, "n k f"]) -> Float[np.ndarray, " n"]:
        """Return the scores of the plans as they are now, and keep their gradient."""
        values = dict(self._dream.imagine(self._traced_actions()))
        imagined = Imagined(
            frames=(values.pop("frames") + 1) / 2,
            rewards=values.pop("reward", torch.zeros(self._plans.shape[0], self.settings.horizon)),
            terminated=values.pop("terminated", torch.zeros(self._plans.shape[0], self.settings.horizon)),
            readouts=values,
        )
        scores = self.objective.score(imagined)
        self._optimizer.zero_grad()
        (-scores.sum()).backward()
        return scores.detach().double().cpu().numpy()

    def learn(self, knots: Float[np.ndarray, "n k f"], scores: Float[np.ndarray, " n"]) -> None:
        """Take a step along the gradient, within the bounds."""
        self._optimizer.step()
        with torch.no_grad():
            self._plans.clamp_(-1, 1)

    def _traced_actions(self) -> torch.Tensor:
        """Return the actions that the plans stand for, with their gradient."""
        idle = torch.from_numpy(self.actions_of(np.zeros((len(self._plans), *self._plans.shape[1:]))))
        held = self._plans.repeat_interleave(self.settings.hold, dim=1)[:, : self.settings.horizon]
        low, high = (torch.from_numpy(bound[self.free]) for bound in (self.space.low, self.space.high))
        return idle.index_copy(2, torch.tensor(self.free), low + (held + 1) / 2 * (high - low))
