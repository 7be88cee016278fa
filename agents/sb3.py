"""Gymnasium's vector environments for Stable-Baselines3, so that its algorithms train in a dream as in the true world.

Needs the extra ``agents``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Space
from gymnasium.vector import AutoresetMode, VectorEnv
from jaxtyping import Float32
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from worldsim.errors import UsageError

FRAMES = "frames"
"""What policies see unless they are given the name of a readout."""

Starts = Callable[[np.random.Generator, int], Mapping[str, Any]]
"""Draws the reset options of so many episodes: where short dreams branch off, for example from recorded moments."""


class GymVecEnv(VecEnv):
    """A Gymnasium `VectorEnv` as a Stable-Baselines3 `VecEnv`. Ended rows begin anew before the step returns.

    ``envs`` must have autoreset switched off (``autoreset_mode="Disabled"``). ``observe`` is "frames" (the environment's
    observations) or the name of a readout in info, such as "state": a dream predicts it, the true world tells the truth.
    ``starts`` draws reset options for the rows that begin; None leaves the beginning to the environment.

    ``staying`` (steps of an episode, discount) makes an end pay what staying there for the rest of the episode would: for
    tasks that end at their goal and pay positive rewards on the way, where an early end would be a loss.
    """

    def __init__(
        self,
        envs: VectorEnv[Any, Any, Any],
        observe: str = FRAMES,
        starts: Starts | None = None,
        seed: int = 0,
        staying: tuple[int, float] | None = None,
    ) -> None:
        if envs.metadata.get("autoreset_mode") != AutoresetMode.DISABLED:
            raise UsageError(
                "autoreset_mode",
                got=envs.metadata.get("autoreset_mode"),
                allowed="Disabled: Stable-Baselines3 resets by itself",
                fix='gym.make_vec("worldsim:worldsim/Dream-v0", autoreset_mode="Disabled")',
            )
        self.envs, self.observe, self.starts, self.staying = envs, observe, starts, staying
        self._elapsed = np.zeros(envs.num_envs, np.int64)
        self.rng = np.random.default_rng(seed)
        self._actions = np.zeros(0, np.float32)
        super().__init__(envs.num_envs, self._observation_space(), envs.single_action_space)
        self._seeds = [seed + row for row in range(envs.num_envs)]

    def reset(self) -> np.ndarray:
        """Begin an episode in every row."""
        options = None if self.starts is None else dict(self.starts(self.rng, self.num_envs))
        seeds: Any = None if self._seeds[0] is None else self._seeds
        frames, infos = self.envs.reset(seed=seeds, options=options)
        self._reset_seeds()
        self._elapsed[:] = 0
        return self._seen(frames, infos)

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions of the coming step."""
        self._actions = np.asarray(actions, np.float32)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step all rows; those that ended show the beginning of their next episode, and their end in "terminal_observation"."""
        frames, rewards, terminated, truncated, infos = self.envs.step(self._actions)
        seen, done = self._seen(frames, infos), terminated | truncated
        self._elapsed += 1
        if self.staying is not None:
            steps, discount = self.staying
            left = np.maximum(steps - self._elapsed, 0)
            rewards = rewards + terminated * rewards * [sum(discount**i for i in range(1, n + 1)) for n in left]
        told: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if done.any():
            rows = np.flatnonzero(done)
            success = infos.get("is_success", np.zeros(self.num_envs, np.bool_))
            for row in rows:
                told[row] = {
                    "terminal_observation": seen[row].copy(),
                    "TimeLimit.truncated": bool(truncated[row] and not terminated[row]),
                    "is_success": bool(success[row]),
                }
            options = {} if self.starts is None else dict(self.starts(self.rng, len(rows)))
            frames, infos = self.envs.reset(options={**options, "reset_mask": done})
            seen[rows] = self._seen(frames, infos)[rows]
            self._elapsed[rows] = 0
        return seen, rewards.astype(np.float32), done, told

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of the vector environment, the same for every row."""
        return [getattr(self.envs, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refuse: rows share one environment."""
        raise NotImplementedError("rows of one vector environment have no attributes of their own")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Refuse: rows share one environment."""
        raise NotImplementedError("rows of one vector environment have no methods of their own")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Return False for every row: wrappers are around all of them, if anywhere."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return what is now shown in every row."""
        shown: Any = self.envs.render()
        return list(shown or [None] * self.num_envs)

    def _observation_space(self) -> Space[Any]:
        space = self.envs.single_observation_space
        if self.observe == FRAMES:
            return space
        frames, infos = self.envs.reset(seed=0)
        size = self._seen(frames, infos).shape[1]
        return Box(-np.inf, np.inf, (size,), np.float32)

    def _seen(self, frames: np.ndarray, infos: Mapping[str, Any]) -> np.ndarray:
        """Return what policies see of a step."""
        if self.observe == FRAMES:
            return np.array(frames)
        if self.observe not in infos:
            names = [name for name, value in infos.items() if isinstance(value, np.ndarray) and value.ndim == 2]
            raise UsageError(
                "observe",
                got=repr(self.observe),
                allowed=", ".join([FRAMES, *names]),
                fix="name a readout of the recording, or see frames",
            )
        return np.array(infos[self.observe], np.float32)


class LearnedPolicy:
    """A trained Stable-Baselines3 algorithm as a `worldsim.agents.Policy`: acts on what it was trained to see."""

    def __init__(self, algorithm: BaseAlgorithm, observes: str = FRAMES) -> None:
        self.algorithm, self.observes = algorithm, observes

    def reset(self, seed: int, context: Mapping[str, np.ndarray] | None = None) -> None:
        """Begin an episode; the policy remembers nothing."""

    def act(self, observation: np.ndarray) -> Float32[np.ndarray, " a"]:
        """Return the action that the policy holds for best."""
        action, _ = self.algorithm.predict(observation, deterministic=True)
        return np.asarray(action, np.float32)


def recorded_starts(dataset: str, episodes: Sequence[int], last_start: int) -> Starts:
    """Return starts at moments of a recording: short dreams that branch off what was recorded (as in MBPO, Janner 2019).

    ``last_start`` is the last frame of an episode at which a context can begin.
    """

    def draw(rng: np.random.Generator, count: int) -> dict[str, Any]:
        return {
            "dataset": dataset,
            "episode": [int(one) for one in rng.choice(np.asarray(episodes), count)],
            "start": [int(one) for one in rng.integers(0, last_start + 1, count)],
        }

    return draw
