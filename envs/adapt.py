"""Adapt: any Gymnasium environment as a source of RGB frames and flat float32 actions. Knows no Arena and no file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import gymnasium.error
import numpy as np
from gymnasium.spaces import Box
from jaxtyping import UInt8
from PIL import Image

from worldsim.envs.actions import FlatActionWrapper
from worldsim.envs.gl import choose_backend
from worldsim.errors import UsageError

RENDER_HEIGHT = 64  # rendered frames of other environments are brought to this height, ...
WIDTH_UNIT = 16  # ... and to the multiple of this width that keeps the aspect ratio best


def make_environment(env_id: str, env_kwargs: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """Make an environment that gives RGB frames and takes flat float32 actions; UsageError where that cannot be.

    ``render_mode`` "rgb_array" is set where the observation is no image. Choices, switches and amounts of other shapes
    and types are wrapped in a `FlatActionWrapper`.
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
    if _observes_rgb(env) or env.render_mode == "rgb_array":
        return env
    env.close()
    if "rgb_array" not in env.metadata.get("render_modes", []):
        fix = 'choose an environment whose metadata["render_modes"] names rgb_array'
        raise UsageError("environment", got=f"{env_id} without RGB", allowed="RGB frames, seen or rendered", fix=fix)
    return _make(env_id, {**env_kwargs, "render_mode": "rgb_array"})


def _make(env_id: str, env_kwargs: Mapping[str, Any]) -> gym.Env[Any, Any]:
    choose_backend()  # Gymnasium's own MuJoCo worlds read MUJOCO_GL too
    try:
        return gym.make(env_id, disable_env_checker=True, **env_kwargs)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise _missing_package(env_id, error) from error
    except (gymnasium.error.Error, TypeError) as error:
        fix = "check id and arguments; for an environment of your own write MODULE:ID, so that its module is imported"
        raise UsageError("environment", got=f"{env_id!r} ({error})", allowed="a Gymnasium id", fix=fix) from error


def _missing_package(what: str, error: Exception) -> UsageError:
    fix = (
        "install the missing package (for Gymnasium's MuJoCo worlds: pip install imageio), or check MODULE in MODULE:ID"
    )
    return UsageError(what, got=str(error), allowed="an environment whose packages are installed", fix=fix)


def _observes_rgb(env: gym.Env[Any, Any]) -> bool:
    space = env.observation_space
    return isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[2] == 3


def frame_of(env: gym.Env[Any, Any], observation: Any) -> UInt8[np.ndarray, "h w 3"]:
    """Return the RGB frame of the present moment: the observation if it is one, else the rendering made smaller.

    Renderings are averaged down to `RENDER_HEIGHT` rows and a width that is a multiple of `WIDTH_UNIT`.
    """
    if _observes_rgb(env):
        return np.array(observation)
    try:
        rendered = env.render()
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise _missing_package("environment's render()", error) from error
    if not isinstance(rendered, np.ndarray) or rendered.dtype != np.uint8 or rendered.shape[2:] != (3,):
        got = getattr(rendered, "shape", type(rendered).__name__)
        fix = 'let its render() return the frame that render_mode="rgb_array" promises'
        raise UsageError("environment's render()", got=got, allowed="a uint8 array (height, width, 3)", fix=fix)
    height, width = rendered.shape[:2]
    small_width = max(1, round(RENDER_HEIGHT * width / height / WIDTH_UNIT)) * WIDTH_UNIT
    return np.asarray(Image.fromarray(rendered).resize((small_width, RENDER_HEIGHT), Image.Resampling.BOX))
