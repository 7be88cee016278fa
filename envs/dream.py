"""DreamEnv: one imagined world, a batch of one over `DreamVectorEnv`. Knows no training."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from jaxtyping import Float32, UInt8
from torch import Tensor

from worldsim.envs.dream_vector import Checkpoint, DreamVectorEnv, without_batch
from worldsim.gradients import imagine
from worldsim.state import WorldState
from worldsim.world_model import WorldModel

__all__ = ["DreamEnv", "DreamVectorEnv"]


class DreamEnv(gym.Env[np.ndarray, np.ndarray]):
    """One imagined world: a batch of one over `DreamVectorEnv`, where spaces, rewards and options are described.

    Differs from the batch in what Gymnasium differs in: no leading axis, no info masks, no autoreset, Python scalars.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Gymnasium's own type

    def __init__(
        self,
        checkpoint: Checkpoint = "arena-small",
        task: str | None = None,
        num_steps: int | None = None,
        horizon: int | None = None,
        device: str = "cpu",
        render_mode: str | None = None,
    ) -> None:
        self._batch = DreamVectorEnv(
            1, checkpoint, task, num_steps, horizon, device, render_mode, autoreset_mode=AutoresetMode.DISABLED
        )
        self.task = task
        self.render_mode = render_mode
        self.metadata = {**type(self).metadata, "render_fps": self._batch.world.frame_rate_hz}
        self.observation_space = self._batch.single_observation_space
        self.action_space = self._batch.single_action_space

    @property
    def model(self) -> WorldModel:
        """The world model that dreams."""
        return self._batch.model

    @property
    def window(self) -> int:
        """Frames that a dream remembers, the present one included: no plan should be longer."""
        return self.model.config.window

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[UInt8[np.ndarray, "h w 3"], dict[str, Any]]:
        """Begin a new dream; the options are those of `DreamVectorEnv`."""
        super().reset(seed=seed)
        self._batch.generators[0] = self.np_random  # one generator, known by both
        frames, infos = self._batch.restart([0], [seed], options)
        return frames[0], without_batch(infos)

    def step(
        self, action: Float32[np.ndarray, " a"]
    ) -> tuple[UInt8[np.ndarray, "h w 3"], float, bool, bool, dict[str, Any]]:
        """Imagine one step. Stepping on after the end is allowed: the dream goes on."""
        frames, rewards, terminated, truncated, infos = self._batch.step(np.asarray(action)[None])
        return frames[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), without_batch(infos)

    def render(self) -> UInt8[np.ndarray, "h w 3"] | None:
        """Return the frame now shown in render mode "rgb_array"."""
        frames = self._batch.render()
        return None if frames is None else frames[0]

    def save_state(self) -> WorldState:
        """Return the present as a value for ``reset(options={"state": ...})`` or `WorldState.save`."""
        return self._batch.save_state()

    def fork(self) -> DreamEnv:
        """Return an independent twin at the same moment, which shares the weights and will dream the same noise."""
        twin = copy.copy(self)
        twin._batch = self._batch.fork()
        twin._np_random = twin._batch.generators[0]
        return twin

    def fork_batch(self, num_envs: int, seed: int | None = None) -> DreamVectorEnv:
        """Return ``num_envs`` dreams that all go on from the present, without autoreset: what a planner steps.

        They dream the same noise (common random numbers), or with ``seed`` the noise of seed + i.
        """
        return self._batch.fork([0] * num_envs, seed)

    def imagine(self, plans: Float32[Tensor, "n t a"]) -> dict[str, Tensor]:
        """Dream ``plans`` from the present with gradients: "frames" (n, t, h, w, 3; -1 .. 1) and all readouts (n, t, ...).

        "reward" and "terminated" are the model's heads, and only there when the dream has no task: a task's function
        has no gradient. All plans dream the same noise.
        """
        state = self._batch.save_state().select([0] * len(plans))
        values = imagine(self._batch.rollout, state, plans)
        return values if self.task is None else {k: v for k, v in values.items() if k not in ("reward", "terminated")}

    def close(self) -> None:
        """Release the true world that simulated lead-ins."""
        self._batch.close()
