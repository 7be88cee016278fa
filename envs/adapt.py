"""Adapt: any Gymnasium environment as a source of RGB frames and flat float32 actions. Knows no file and no model."""

# MuJoCo's bindings carry no type stubs:
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import gymnasium.error
import numpy as np
from gymnasium.spaces import Box
from jaxtyping import UInt8
from PIL import Image

from worldsim.envs.actions import FlatActionWrapper
from worldsim.envs.gl import choose_backend, mujoco
from worldsim.envs.observed import image_in, shows_frames, values_of
from worldsim.errors import UsageError

RENDER_HEIGHT = 64  # rendered frames of other environments are brought to this height, ...
WIDTH_UNIT = 16  # ... and to the multiple of this width that keeps the aspect ratio best
FRAME_SKIP = "frame_skip"


class FrameSkipWrapper(gym.Wrapper[Any, Any, Any, Any]):
    """Holds every action for some steps of the world and adds up their rewards; what is seen is the last of them.

    As ``frame_skip`` of Gymnasium's MuJoCo worlds. An episode that ends in between ends there.
    """

    def __init__(self, env: gym.Env[Any, Any], frame_skip: Any) -> None:
        super().__init__(env)
        if not isinstance(frame_skip, int) or frame_skip < 1:
            env.close()
            allowed = "a whole number, at least 1"
            raise UsageError(FRAME_SKIP, got=repr(frame_skip), allowed=allowed, fix=f'{{"{FRAME_SKIP}": 4}}')
        self.frame_skip = frame_skip
        self.metadata = {**env.metadata, "render_fps": env.metadata.get("render_fps", 30) / frame_skip}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the world until the action has been held for long enough, or the episode ends."""
        observation, total, terminated, truncated, info = self.env.step(action)
        for _ in range(self.frame_skip - 1):
            if terminated or truncated:
                break
            observation, reward, terminated, truncated, info = self.env.step(action)
            total = float(total) + float(reward)
        return observation, float(total), terminated, truncated, info


class FrameWrapper(gym.Wrapper[np.ndarray, Any, Any, Any]):
    """A world seen as its dreams are: frames are the observation, and info tells the named numbers that are learnt.

    Its lead-in is one frame. For agents that are to act in dream and truth alike.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        shape = frame_of(env, env.reset(seed=0)[0]).shape
        self.observation_space = Box(0, 255, shape, np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; `info["context"]` holds the first frame and no actions."""
        observation, info = self.env.reset(seed=seed, options=options)
        frame = frame_of(self.env, observation)
        nothing = np.zeros((0, *(self.action_space.shape or ())), np.float32)
        return frame, {
            **info,
            **values_of(self.env, observation),
            "context": {"frames": frame[None], "actions": nothing},
        }

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Step the world."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        info = {**info, **values_of(self.env, observation)}
        return frame_of(self.env, observation), float(reward), terminated, truncated, info


def make_environment(env_id: str, env_kwargs: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """Make an environment that gives RGB frames and takes flat float32 actions; UsageError where that cannot be.

    ``render_mode`` "rgb_array" is set where the observation holds no image. Choices, switches and amounts of other shapes
    and types are wrapped in a `FlatActionWrapper`. ``frame_skip`` in ``env_kwargs`` holds every action for that many steps
    also where the environment has no argument of this name.
    """
    env = _rendering(env_id, env_kwargs)
    space = env.action_space
    if isinstance(space, Box) and space.dtype == np.float32 and len(space.shape) == 1 and space.is_bounded():
        return env
    try:
        return FlatActionWrapper(env)
    except UsageError:
        env.close()
        raise


def _rendering(env_id: str, env_kwargs: Mapping[str, Any]) -> gym.Env[Any, Any]:
    env = _make(env_id, env_kwargs)
    if shows_frames(env.observation_space) or env.render_mode == "rgb_array":
        return env
    env.close()
    if "rgb_array" not in env.metadata.get("render_modes", []):
        fix = 'choose an environment whose metadata["render_modes"] names rgb_array'
        raise UsageError("environment", got=f"{env_id} without RGB", allowed="RGB frames, seen or rendered", fix=fix)
    return _make(env_id, {**env_kwargs, "render_mode": "rgb_array"})


def _make(env_id: str, env_kwargs: Mapping[str, Any]) -> gym.Env[Any, Any]:
    choose_backend()  # Gymnasium's own MuJoCo worlds read MUJOCO_GL too
    # SDL, which draws CartPole, would take TERM for a closed window and go on:
    os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")
    try:
        return gym.make(env_id, disable_env_checker=True, **env_kwargs)
    except TypeError as error:
        if f"argument '{FRAME_SKIP}'" not in str(error):
            raise _unusable(env_id, error) from error
        others = {name: value for name, value in env_kwargs.items() if name != FRAME_SKIP}
        return FrameSkipWrapper(_make(env_id, others), env_kwargs[FRAME_SKIP])
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise _missing_package(env_id, error) from error
    except gymnasium.error.Error as error:
        raise _unusable(env_id, error) from error


def _unusable(env_id: str, error: Exception) -> UsageError:
    fix = "check id and arguments; for an environment of your own write MODULE:ID, so that its module is imported"
    return UsageError("environment", got=f"{env_id!r} ({error})", allowed="a Gymnasium id", fix=fix)


def _missing_package(what: str, error: Exception) -> UsageError:
    fix = (
        "install the missing package (for Gymnasium's MuJoCo worlds: pip install imageio), or check MODULE in MODULE:ID"
    )
    return UsageError(what, got=str(error), allowed="an environment whose packages are installed", fix=fix)


def frame_of(env: gym.Env[Any, Any], observation: Any) -> UInt8[np.ndarray, "h w 3"]:
    """Return the RGB frame of the present moment: the one in the observation, else the rendering made smaller.

    Renderings are averaged down to `RENDER_HEIGHT` rows and a width that is a multiple of `WIDTH_UNIT`.
    """
    seen = image_in(env.observation_space, observation)
    if seen is not None:
        return seen
    try:
        rendered = _rendered(env)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise _missing_package("environment's render()", error) from error
    if not isinstance(rendered, np.ndarray) or rendered.dtype != np.uint8 or rendered.shape[2:] != (3,):
        got = getattr(rendered, "shape", type(rendered).__name__)
        fix = 'let its render() return the frame that render_mode="rgb_array" promises'
        raise UsageError("environment's render()", got=got, allowed="a uint8 array (height, width, 3)", fix=fix)
    height, width = rendered.shape[:2]
    small_width = max(1, round(RENDER_HEIGHT * width / height / WIDTH_UNIT)) * WIDTH_UNIT
    return np.asarray(Image.fromarray(rendered).resize((small_width, RENDER_HEIGHT), Image.Resampling.BOX))


def _rendered(env: gym.Env[Any, Any]) -> Any:
    """Return the rendering; of Gymnasium's own MuJoCo worlds one that hangs on nothing but their state.

    Left alone they draw where the last one of a process was made to draw, and look for ever where the middle of things
    happened to be at their first drawing: here it is the middle of the model's own pose.
    """
    world: Any = env.unwrapped
    renderer = getattr(world, "mujoco_renderer", None)
    if renderer is None:
        return env.render()
    if renderer.viewer is not None:
        renderer.viewer.make_context_current()
        return env.render()
    env.render()
    if "lookat" not in (renderer.default_cam_config or {}):
        pose = mujoco.MjData(world.model)
        mujoco.mj_forward(world.model, pose)
        renderer.viewer.cam.lookat[:] = np.median(pose.geom_xpos, axis=0)
    return env.render()
