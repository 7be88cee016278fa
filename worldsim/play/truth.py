"""True worlds beside a dream: the Arena, or any other recorded Gymnasium environment. Knows no model.

MuJoCo's renderers belong to the thread that opened them: one thread makes, steps and closes a true world.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from worldsim.envs.adapt import frame_of, make_environment
from worldsim.envs.arena import ArenaEnv
from worldsim.envs.dream_context import Context, check_frames
from worldsim.envs.painter import Painter
from worldsim.envs.scene import ENTITY_NAMES, PALETTE, SceneSpec
from worldsim.envs.tasks import TASKS
from worldsim.errors import UsageError, suggestion
from worldsim.spec import WorldSpec

ARENA = "worldsim/Arena-v0"
_NEAR_M, _FAR_M = 2.0, 4.5  # distances from the Arena's camera that depth is drawn white and black at
_LONGEST_EPISODE = 10_000
"""Steps after which an endless episode of another environment is ended: all of them are kept, to go back."""
VIEWS = ("frame", "depth", "segmentation")
_GREYS = {"sky": 235, "floor": 200, "pusher": 20, "curtain": 60, "post_0": 110, "post_1": 110}
_WALL_GREY = 150


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moment:
    """What a true world shows and tells at one time."""

    frame: UInt8[np.ndarray, "h w 3"]
    reward: float
    success: bool
    state: Float32[np.ndarray, " s"] | None
    """The named state, where the world has one."""


class ArenaTruth:
    """The Arena. Going back is exact to the bit."""

    def __init__(self, spec: WorldSpec) -> None:
        self.env = ArenaEnv(**dict(spec.env_kwargs))
        self._task = self.env.task
        height, width, _ = spec.frame_shape
        self._painter = Painter(height=height, width=width, shadows=False)

    def reset(self, seed: int, task: str | None, factors: Mapping[str, Any]) -> Context:
        """Begin a scene; ``factors`` are reset options of the Arena."""
        if task is not None and task not in TASKS:
            raise UsageError("task", got=repr(task), allowed=f"{len(TASKS)} tasks", fix=suggestion(task, tuple(TASKS)))
        before, self.env.task = self.env.task, self._task if task is None else TASKS[task]
        try:
            frame, info = self.env.reset(seed=seed, options=dict(factors))
        except UsageError:
            self.env.task = before
            raise
        self._look(frame, info)
        return Context(frames=info["context"]["frames"].copy(), actions=info["context"]["actions"].copy())

    def step(self, action: Float32[np.ndarray, " a"]) -> None:
        """Play one control step."""
        frame, _, _, _, info = self.env.step(action)
        self._look(frame, info)

    def save(self) -> Any:
        """Return the scene, its last steps and its task."""
        return self.env.save_state(), self.env.task

    def restore(self, saved: Any) -> None:
        """Go back to a saved time."""
        state, self.env.task = saved
        frame, info = self.env.reset(options={"state": state})
        self._look(frame, info)

    def view(self, name: str) -> UInt8[np.ndarray, "h w 3"]:
        """Draw the present; depth from white (near) to black, segmentation in the colours of the things."""
        if name == "frame":
            return self.now.frame
        if name not in VIEWS:
            raise UsageError("view", got=repr(name), allowed=", ".join(VIEWS), fix=suggestion(name, VIEWS))
        saved = self.env.save_state()
        simulation = self._painter.simulate(SceneSpec.from_json(saved["scene"]))
        simulation.restore(saved["history"][-1])
        if name == "depth":
            share = (_FAR_M - self._painter.depth(simulation)) / (_FAR_M - _NEAR_M)
            return np.repeat((np.clip(share, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=-1)
        return painted(self._painter.segmentation(simulation))

    def close(self) -> None:
        """Free both renderers."""
        self.env.close()
        self._painter.close()

    def _look(self, frame: np.ndarray, info: Mapping[str, Any]) -> None:
        state = info["state"]
        reward = float(self.env.task.reward(state))
        self.now = Moment(frame=frame, reward=reward, success=bool(info["is_success"]), state=state)


class GymTruth:
    """Any other environment. Going back plays the scene again from its seed, so it is as exact as the environment is.

    After the end of an episode the last frame stays until the next scene.
    """

    def __init__(self, spec: WorldSpec) -> None:
        self.spec = spec
        self.env = make_environment(spec.env_id, spec.env_kwargs)
        self._seed = 0
        self._actions: list[np.ndarray] = []
        self._ended = False

    def reset(self, seed: int, task: str | None, factors: Mapping[str, Any]) -> Context:
        """Begin the episode of a seed. Tasks and factors are the Arena's; UsageError if some are given."""
        if task is not None or factors:
            raise UsageError("task, factors", got=f"{task}, {sorted(factors)}", allowed="none here", fix="leave it out")
        self._seed, self._actions, self._ended = seed, [], False
        observation, info = self.env.reset(seed=seed)
        if "context" in info:
            context = Context(frames=info["context"]["frames"].copy(), actions=info["context"]["actions"].copy())
        else:
            nothing = np.zeros((0, self.spec.action_dim), np.float32)
            context = Context(frames=frame_of(self.env, observation)[None], actions=nothing)
        check_frames(context.frames, context.actions, self.spec, where=f"lead-in of {self.spec.env_id}")
        self.now = Moment(frame=context.frames[-1], reward=0.0, success=False, state=None)
        return context

    def step(self, action: Float32[np.ndarray, " a"]) -> None:
        """Play one step, unless the episode has ended."""
        if not self._ended:
            observation, reward = self._play(action)
            frame = frame_of(self.env, observation)
            self.now = Moment(frame=frame, reward=reward, success=False, state=None)
            self._actions.append(action)
            self._ended |= len(self._actions) >= _LONGEST_EPISODE

    def save(self) -> Any:
        """Return how many steps were played, and what was shown."""
        return len(self._actions), self.now

    def restore(self, saved: Any) -> None:
        """Play the scene again, up to a saved time."""
        count, now = saved
        played, self._ended = self._actions[:count], False
        self.env.reset(seed=self._seed)
        for action in played:
            if not self._ended:
                self._play(action)
        self._actions, self.now = played, now

    def view(self, name: str) -> UInt8[np.ndarray, "h w 3"]:
        """Return the frame: other worlds tell no depth and no segmentation."""
        if name != "frame":
            raise UsageError("view", got=name, allowed="frame", fix="depth and segmentation are the Arena's")
        return self.now.frame

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _play(self, action: np.ndarray) -> tuple[Any, float]:
        observation, reward, terminated, truncated, _ = self.env.step(action)
        self._ended = bool(terminated or truncated)
        return observation, float(reward)


Truth = ArenaTruth | GymTruth
"""A true world that can go back to what it was."""


def open_truth(spec: WorldSpec) -> Truth | UsageError:
    """Return the true world of a recording, or why it cannot be had here."""
    try:
        return ArenaTruth(spec) if spec.env_id == ARENA else GymTruth(spec)
    except UsageError as error:
        return error


def painted(entities: Int32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return a segmentation as a picture: bodies in their own colours, everything else in greys."""
    colours = []
    for name in ENTITY_NAMES:
        grey = _GREYS.get(name, _WALL_GREY)
        colours.append([round(255 * part) for part in PALETTE[name]] if name in PALETTE else [grey] * 3)
    return np.asarray(colours, np.uint8)[entities]
