"""DreamVectorEnv: a batch of imagined worlds, stepped with one model call. Knows no training.

No simulator is stepped underneath: the true world only simulates the lead-in of a reset
(see `worldsim.envs.dream_context`).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, Float32, UInt8

from worldsim import checkpoint as checkpoints
from worldsim.envs.dream_context import (
    Context,
    TrueWorld,
    check_actions,
    dataset_contexts,
    given_contexts,
    per_row,
    split_options,
)
from worldsim.envs.dream_judge import make_judge
from worldsim.errors import UsageError
from worldsim.spec import WorldSpec
from worldsim.state import WorldState
from worldsim.world_model import WorldModel, load

_SEEDS = 2**31
"""Seeds of episodes that nobody seeded are drawn below this."""
Checkpoint = str | os.PathLike[str] | WorldModel


class DreamVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """A batch of imagined worlds, stepped together; each row is an episode of its own.

    ## Spaces
    Those of the recorded world: observations uint8 (num_envs, H, W, 3), actions float32 (num_envs, A). Where these are
    choices, the greatest number of each group is taken (`WorldSpec.action_choices`); `worldsim.envs.actions` has wrappers
    for both sides.

    ## Rewards and episode end
    ``task=None``: reward and termination are the model's heads (termination where its probability exceeds one
    half). ``task="push"`` etc.: the task's own functions on the predicted "state" readout.
    Truncation after ``horizon`` steps (None: never); ``max_episode_steps``, as `gym.make_vec` passes it, is the same.

    ## Info
    At every reset and step: each named readout (num_envs, n), "is_success" (num_envs,), each with its Gymnasium mask
    "_name". At a reset that has a context also "context": {"frames", "actions"}.

    ## Reset
    ``seed``: an integer (row i takes seed + i) or one per row. A row's seed gives both its true scene and its noise;
    without one, it is drawn from the row's own generator, so that batch mates never change an episode. ``options``:

    - {"frames", "actions"}: a context of k+1 frames and k actions, for all rows or with a leading axis of rows
    - {"dataset", "episode", "start"}: a context cut from a recording
    - {"state"}: a `WorldState` (one row for all, or one per row) or a file of one; it goes on with its own noise, or
      with other noise when ``seed`` is given too
    - {"scene"}: seed of the true scene when it shall differ from the noise seed (one, or one per row)
    - anything else is passed to the true world's reset (factors of variation, or its own {"state": mapping})
    - {"reset_mask"} beside any of these: boolean (num_envs,), reset only those rows

    ## Autoreset
    ``metadata["autoreset_mode"]``: NEXT_STEP (default), SAME_STEP ("final_obs" and "final_info" in info) or DISABLED.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium's own type
        "render_modes": ["rgb_array"],
        "render_fps": 10,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        checkpoint: Checkpoint = "arena-small",
        task: str | None = None,
        num_steps: int | None = None,
        horizon: int | None = None,
        device: str = "cpu",
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        **limits: int | None,
    ) -> None:
        max_episode_steps = limits.pop("max_episode_steps", None)
        if limits:
            raise TypeError(f"DreamVectorEnv has no argument {', '.join(map(repr, limits))}")
        counts = {"num_envs": num_envs, "horizon": horizon, "max_episode_steps": max_episode_steps}
        for name, value in counts.items():
            if value is not None and value < 1:
                raise UsageError(name, got=value, allowed="1 or more", fix="leave it out, or count from one")
        if render_mode not in (None, "rgb_array"):
            raise UsageError("render_mode", got=render_mode, allowed="None or rgb_array", fix='render_mode="rgb_array"')
        modes = [mode.value for mode in AutoresetMode]
        if not isinstance(autoreset_mode, AutoresetMode) and autoreset_mode not in modes:
            raise UsageError("autoreset_mode", got=autoreset_mode, allowed=", ".join(modes), fix="NextStep is usual")
        folder = None
        if not isinstance(checkpoint, WorldModel):
            folder = checkpoints.resolve(checkpoint)
            checkpoint = load(folder, device=device)
        self.model = checkpoint
        self.world: WorldSpec = checkpoint.spec
        self.num_envs, self.render_mode = num_envs, render_mode
        self.horizon = min((h for h in (horizon, max_episode_steps) if h is not None), default=None)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {
            **type(self).metadata,
            "render_fps": self.world.frame_rate_hz,
            "autoreset_mode": self.autoreset_mode,
        }
        self.single_observation_space, self.single_action_space = spaces_of(self.world)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.rollout = self.model.rollout(num_steps)
        self._judge = make_judge(task, self.world)
        self._true = TrueWorld(self.world, task, folder)
        self._state: WorldState | None = None
        self.generators = [seeding.np_random()[0] for _ in range(num_envs)]
        self._elapsed = np.zeros(num_envs, dtype=np.int64)
        self._ended = np.zeros(num_envs, dtype=np.bool_)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[UInt8[np.ndarray, "n h w 3"], dict[str, Any]]:
        """Begin new dreams in all rows (or those of ``options["reset_mask"]``); see the class for all options."""
        options = dict(options or {})
        rows = self._masked_rows(options.pop("reset_mask", None))
        if seed is None or isinstance(seed, (int, np.integer)):
            super().reset(seed=None if seed is None else int(seed))
            seeds: list[int | None] = [None if seed is None else int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = list(seed)
        if len(seeds) != self.num_envs:
            raise UsageError("seed", got=f"{len(seeds)} seeds", allowed=f"one, or {self.num_envs}", fix="one per row")
        for row in rows:
            if seeds[row] is not None:
                self.generators[row], _ = seeding.np_random(seeds[row])
        return self.restart(rows, [seeds[row] for row in rows], options)

    def step(
        self, actions: Float32[np.ndarray, "n a"]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Imagine one step in every row; rows that ended are begun anew as the autoreset mode says."""
        actions = self._checked(actions)
        stale = self._ended & (self.autoreset_mode is AutoresetMode.NEXT_STEP)
        context: list[Context] = []
        if not stale.all():
            self._state = self.rollout.step(self._live(), actions).state
            self._elapsed += 1
        if stale.any():
            context = self._begin(np.flatnonzero(stale))
        values = self.rollout.read(self._live())
        reward, terminated = self._judge(values)
        rewards = np.where(stale, 0.0, reward).astype(np.float64)
        terminated = terminated & ~stale
        limit = np.inf if self.horizon is None else self.horizon
        truncated = (self._elapsed >= limit) & ~stale
        self._ended = done = terminated | truncated
        if self.autoreset_mode is AutoresetMode.SAME_STEP and done.any():
            final = self._finals(values, done)
            frames, infos = self.restart(np.flatnonzero(done))
            return frames, rewards, terminated, truncated, {**infos, **final}
        return self._frames(), rewards, terminated, truncated, self._infos(values, np.flatnonzero(stale), context)

    def render(self) -> tuple[UInt8[np.ndarray, "h w 3"], ...] | None:
        """Return the frames now shown, one per row, in render mode "rgb_array"."""
        return tuple(self._frames()) if self.render_mode == "rgb_array" else None

    def save_state(self) -> WorldState:
        """Return the present of all rows as a value for ``reset(options={"state": ...})`` or `WorldState.save`."""
        return self._live().fork()

    def fork(self, rows: Sequence[int] | None = None, seed: int | None = None) -> DreamVectorEnv:
        """Return an independent batch of dreams that go on from the present of ``rows`` and share the weights.

        ``rows`` (default: all) may name a row more than once. Copies dream the same noise as the original, or with
        ``seed`` the noise of seed + i.
        """
        chosen = list(range(self.num_envs) if rows is None else rows)
        twin = copy.copy(self)
        twin.num_envs = len(chosen)
        twin.observation_space = batch_space(self.single_observation_space, twin.num_envs)
        twin.action_space = batch_space(self.single_action_space, twin.num_envs)
        twin._np_random = copy.deepcopy(self._np_random)
        twin.generators = [copy.deepcopy(self.generators[row]) for row in chosen]
        twin._elapsed, twin._ended = self._elapsed[chosen], self._ended[chosen]
        twin._true = self._true.twin()
        state = self._live().select(chosen)
        twin._state = state if seed is None else state.reseed([seed + i for i in range(len(chosen))])
        return twin

    def close_extras(self, **kwargs: Any) -> None:
        """Release the true world that simulated lead-ins."""
        self._true.close()

    def restart(
        self,
        rows: Sequence[int] | np.ndarray,
        seeds: Sequence[int | None] = (),
        options: Mapping[str, Any] | None = None,
    ) -> tuple[UInt8[np.ndarray, "n h w 3"], dict[str, Any]]:
        """Begin new dreams in ``rows``: what reset and autoreset share. Returns observations and info of all rows."""
        context = self._begin(rows, seeds, options)
        return self._frames(), self._infos(self.rollout.read(self._live()), rows, context)

    def _live(self) -> WorldState:
        if self._state is None:
            raise gym.error.ResetNeeded("Call reset() before step(), render() or save_state().")
        return self._state

    def _frames(self) -> UInt8[np.ndarray, "n h w 3"]:
        return self._live().frames.copy()

    def _masked_rows(self, mask: Any) -> list[int]:
        if mask is None:
            return list(range(self.num_envs))
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any() or self._state is None:
            raise UsageError(
                'options["reset_mask"]',
                got=f"{mask.dtype} of shape {mask.shape}",
                allowed=f"booleans ({self.num_envs},), at least one of them true, after a first full reset",
                fix="np.logical_or(terminated, truncated)",
            )
        return [int(row) for row in np.flatnonzero(mask)]

    def _checked(self, actions: Any) -> Float32[np.ndarray, "n a"]:
        array = np.asarray(actions, dtype=np.float32)
        if array.shape != self.action_space.shape:
            raise UsageError(
                "actions",
                got=f"shape {array.shape}",
                allowed=f"{self.action_space.shape}: {', '.join(self.world.action_names)} for every row",
                fix="stack one action per row",
            )
        check_actions(array, self.world, where="actions")
        return self.world.decided(array)

    def _begin(
        self,
        rows: Sequence[int] | np.ndarray,
        seeds: Sequence[int | None] = (),
        options: Mapping[str, Any] | None = None,
    ) -> list[Context]:
        """Start new dreams in ``rows`` and return their contexts (none when restored from a state)."""
        rows = [int(row) for row in rows]
        asked = list(seeds) or [None] * len(rows)
        source, own, passed = split_options(options or {})
        contexts: list[Context] = []
        if source == "state":
            fresh = self._restored(own["state"], asked)
        else:
            drawn = [
                int(self.generators[row].integers(_SEEDS)) if seed is None else seed
                for row, seed in zip(rows, asked, strict=True)
            ]
            if source == "frames":
                contexts = given_contexts(own, len(rows), self.world)
            elif source == "dataset":
                contexts = dataset_contexts(own, len(rows), self.world)
            else:
                contexts = self._lead_ins(drawn, passed)
            frames = np.stack([context.frames for context in contexts])
            actions = np.stack([context.actions for context in contexts])
            fresh = self.rollout.start(frames, actions, np.asarray(drawn, dtype=np.int64))
        self._state = fresh if len(rows) == self.num_envs else self._live().put(rows, fresh)
        self._elapsed[rows] = 0
        self._ended[rows] = False
        return contexts

    def _lead_ins(self, seeds: Sequence[int], passed: dict[str, Any]) -> list[Context]:
        scene = passed.get("scene")
        if isinstance(scene, (int, np.integer, list, tuple, np.ndarray)):
            passed = {key: value for key, value in passed.items() if key != "scene"}
            seeds = per_row(scene, len(seeds), "scene")
        return [self._true.lead_in(seed, passed) for seed in seeds]

    def _restored(self, state: Any, seeds: Sequence[int | None]) -> WorldState:
        """Return a copy of a given state with one row per seed, with other noise where all seeds are given."""
        if isinstance(state, (str, os.PathLike)):
            state = WorldState.load(state)
        if not isinstance(state, WorldState):
            raise UsageError(
                'options["state"]',
                got=type(state).__name__,
                allowed="a WorldState or the path of a saved one",
                fix="take it from env.unwrapped.save_state()",
            )
        state = state.to(self.rollout.device, self.rollout.network.dtype)
        self.rollout.check_state(state)
        shape = self.single_observation_space.shape
        if state.frames.shape[1:] != shape or state.batch_size not in (1, len(seeds)):
            raise UsageError(
                'options["state"]',
                got=f"{state.batch_size} rows of frames {state.frames.shape[1:]}",
                allowed=f"1 or {len(seeds)} rows of frames {shape}",
                fix="state.select([...]) takes the rows you want",
            )
        restored = state.select([0] * len(seeds)) if state.batch_size == 1 else state.fork()
        given = [seed for seed in seeds if seed is not None]
        return restored.reseed(given) if len(given) == len(seeds) else restored

    def _infos(
        self, values: Mapping[str, np.ndarray], rows: Sequence[int] | np.ndarray, contexts: Sequence[Context]
    ) -> dict[str, Any]:
        """Return the info of all rows from what was read, with the contexts of those ``rows`` that have just begun."""
        infos: dict[str, Any] = {"is_success": self._judge(values)[1]}
        infos |= {readout.name: values[readout.name].copy() for readout in self.world.readouts}
        infos |= {f"_{name}": np.ones(self.num_envs, dtype=np.bool_) for name in infos}
        if contexts:
            began = np.zeros(self.num_envs, dtype=np.bool_)
            began[rows] = True
            batched: dict[str, Any] = {}
            for name in ("frames", "actions"):
                parts = np.stack([getattr(context, name) for context in contexts])
                batched[name] = np.zeros((self.num_envs, *parts.shape[1:]), dtype=parts.dtype)
                batched[name][rows] = parts
                batched[f"_{name}"] = began.copy()
            infos |= {"context": batched, "_context": began}
        return infos

    def _finals(self, values: Mapping[str, np.ndarray], done: Bool[np.ndarray, " n"]) -> dict[str, Any]:
        """Return "final_obs" and "final_info" of the rows that ended, laid out as Gymnasium's SyncVectorEnv does."""
        frames = self._frames()
        final_obs = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(done):
            final_obs[row] = frames[row]
        infos = self._infos(values, (), ())
        for array in infos.values():
            array[~done] = 0
        return {"final_obs": final_obs, "_final_obs": done.copy(), "final_info": infos, "_final_info": done.copy()}


def spaces_of(spec: WorldSpec) -> tuple[Box, Box]:
    """Return the observation and the action space of one row of the recorded world."""
    observation = Box(0, 255, spec.frame_shape, np.uint8)
    return observation, Box(np.asarray(spec.action_low, np.float32), np.asarray(spec.action_high, np.float32))


def without_batch(infos: Mapping[str, Any]) -> dict[str, Any]:
    """Return the info of the only row, without Gymnasium's masks."""
    single: dict[str, Any] = {}
    for name, values in infos.items():
        if isinstance(values, dict):
            single[name] = without_batch(values)
        elif not name.startswith("_"):
            single[name] = values[0].item() if values.ndim == 1 else values[0]
    return single
