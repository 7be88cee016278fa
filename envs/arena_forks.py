"""Copies of one moment of the Arena, stepped side by side by the true physics: what a planner on the truth steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Float32, Float64, UInt8

from worldsim.envs.painter import Painter
from worldsim.envs.simulation import Simulation
from worldsim.envs.tasks import Task
from worldsim.errors import UsageError


class ArenaForks(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """``num_envs`` futures of one moment of the true world. The moment itself is left as it is.

    Spaces, rewards and termination are those of the Arena; `info` holds "state" (n, 90) and "is_success" (n,) with
    Gymnasium's masks. Rows that ended go on when stepped (autoreset is disabled); ``reset`` leads back to the moment.
    Without a ``painter`` observations are black: planners that look at rewards or states need no picture, and drawing
    takes most of the time.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 - Gymnasium's own type

    def __init__(
        self,
        simulation: Simulation,
        moment: Float64[np.ndarray, " p"],
        task: Task,
        spaces: tuple[Space[Any], Space[Any]],
        num_envs: int,
        painter: Painter | None,
    ) -> None:
        if num_envs < 1:
            raise UsageError("num_envs", got=num_envs, allowed="1 or more", fix="count from one")
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = spaces
        self.observation_space, self.action_space = (batch_space(space, num_envs) for space in spaces)
        self._simulation, self._moment, self._task, self._painter = simulation, moment, task, painter
        self._snapshots = [moment] * num_envs

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[UInt8[np.ndarray, "n h w 3"], dict[str, Any]]:
        """Lead all rows back to the moment they were forked from. Nothing is random, so ``seed`` changes nothing."""
        if options:
            raise UsageError(
                "reset options", got=sorted(options), allowed="none", fix="reset the Arena itself, and fork it again"
            )
        self._snapshots = [self._moment] * self.num_envs
        frames, states = zip(*(self._look(snapshot) for snapshot in self._snapshots), strict=True)
        return np.stack(frames), self._info(np.stack(states))

    def step(
        self, actions: Float32[np.ndarray, "n a"]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Play one control step in every row."""
        actions = np.asarray(actions, np.float32)
        if actions.shape != self.action_space.shape or not np.isfinite(actions).all():
            raise UsageError(
                "actions", got=f"shape {actions.shape}", allowed=f"finite numbers {self.action_space.shape}",
                fix="stack one action per row",
            )  # fmt: skip
        frames, states = [], []
        for row, action in enumerate(actions):
            self._simulation.restore(self._snapshots[row])
            self._simulation.advance(action)
            self._snapshots[row] = self._simulation.snapshot()
            frame, state = self._look(None)
            frames.append(frame)
            states.append(state)
        state = np.stack(states)
        info = self._info(state)
        rewards = self._task.reward(state).astype(np.float64)
        return np.stack(frames), rewards, info["is_success"].copy(), np.zeros(self.num_envs, np.bool_), info

    def _look(self, snapshot: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return frame and state at a snapshot, or of the simulation as it is."""
        if snapshot is not None:
            self._simulation.restore(snapshot)
        black = np.zeros(self.single_observation_space.shape or (), np.uint8)
        frame = black if self._painter is None else self._painter.frame(self._simulation)
        return frame, self._simulation.state()

    def _info(self, state: np.ndarray) -> dict[str, Any]:
        info: dict[str, Any] = {"state": state, "is_success": np.asarray(self._task.terminated(state))}
        return info | {f"_{name}": np.ones(self.num_envs, np.bool_) for name in info}
