"""What a world tells beside its pictures, as named numbers: MuJoCo's true positions and speeds, and observation vectors.

They are recorded, learnt by the readout head, and found in a dream's info: frames plus proprioception, and goals in the
world's own terms. Knows no file, no Arena and no model.
"""

# MuJoCo's bindings carry no type stubs:
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict
from jaxtyping import Float32, UInt8

from worldsim.envs.gl import mujoco
from worldsim.episode import Readout
from worldsim.errors import UsageError

POSITIONS, VELOCITIES, OBSERVATION = "qpos", "qvel", "observation"
MAX_NUMBERS = 512
"""Longer rows are not recorded: they are no proprioception any more."""
_UNITS = {
    mujoco.mjtJoint.mjJNT_FREE: (["m"] * 3 + ["1"] * 4, ["m/s"] * 3 + ["rad/s"] * 3),
    mujoco.mjtJoint.mjJNT_BALL: (["1"] * 4, ["rad/s"] * 3),
    mujoco.mjtJoint.mjJNT_SLIDE: (["m"], ["m/s"]),
    mujoco.mjtJoint.mjJNT_HINGE: (["rad"], ["rad/s"]),
}
"""Units of a joint's numbers among the positions, and among the velocities."""


def is_image(space: gym.Space[Any]) -> bool:
    """Return whether values of a space are RGB frames."""
    return isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[2] == 3


def image_in(space: gym.Space[Any], observation: Any) -> UInt8[np.ndarray, "h w 3"] | None:
    """Return the frame in an observation: itself, or the only image of a Dict; None where there is none or several."""
    if is_image(space):
        return np.array(observation)
    keys = [key for key, part in space.spaces.items() if is_image(part)] if isinstance(space, Dict) else []
    return np.array(observation[keys[0]]) if len(keys) == 1 else None


def shows_frames(space: gym.Space[Any]) -> bool:
    """Return whether `image_in` finds a frame in observations of a space."""
    return is_image(space) or (isinstance(space, Dict) and sum(map(is_image, space.spaces.values())) == 1)


def readouts_of(env: gym.Env[Any, Any]) -> tuple[Readout, ...]:
    """Return the columns that `values_of` gives of this environment.

    Of a MuJoCo world "qpos" and "qvel", named by their joints; of any other "observation", where it is a vector of numbers
    or, of a Dict, its vectors one after the other.
    """
    model = _mujoco(env)
    if model is not None:
        named = [list(_joint_numbers(model, which)) for which in range(2)]
        found = [
            Readout(name=name, names=tuple(n for n, _ in rows), units=tuple(unit for _, unit in rows))
            for name, rows in zip((POSITIONS, VELOCITIES), named, strict=True)
        ]
    else:
        names = tuple(
            f"{key}_{k}"
            for key, part in _vectors(env.observation_space).items()
            for k in range(int(np.prod(part.shape)))
        )
        found = [Readout(name=OBSERVATION, names=names, units=("1",) * len(names))]
    return tuple(one for one in found if 0 < len(one.names) <= MAX_NUMBERS)


def values_of(env: gym.Env[Any, Any], observation: Any) -> dict[str, Float32[np.ndarray, " n"]]:
    """Return the present row of every column of `readouts_of`; UsageError where one is not finite."""
    data = getattr(env.unwrapped, "data", None)
    if _mujoco(env) is not None:
        rows = {POSITIONS: np.array(data.qpos), VELOCITIES: np.array(data.qvel)}  # type: ignore[union-attr]
    else:
        space = env.observation_space
        parts = [np.ravel(observation[key] if isinstance(space, Dict) else observation) for key in _vectors(space)]
        rows = {OBSERVATION: np.concatenate(parts)} if parts else {}
    for name, row in rows.items():
        if not np.isfinite(row).all():
            fix = "mend the environment, or leave the numbers out of its observation"
            raise UsageError(f"environment's {name}", got=row, allowed="finite numbers", fix=fix)
    return {name: row.astype(np.float32) for name, row in rows.items() if 0 < len(row) <= MAX_NUMBERS}


def _mujoco(env: gym.Env[Any, Any]) -> mujoco.MjModel | None:
    """Return the model of a MuJoCo world that shows it and its state as Gymnasium's own do, else None."""
    model, data = (getattr(env.unwrapped, name, None) for name in ("model", "data"))
    return model if isinstance(model, mujoco.MjModel) and isinstance(data, mujoco.MjData) else None


def _vectors(space: gym.Space[Any]) -> dict[str, Box]:
    """Return the parts of an observation that are rows of floats, by their names."""
    parts = space.spaces if isinstance(space, Dict) else {"observation": space}
    return {
        key: part
        for key, part in parts.items()
        if isinstance(part, Box) and len(part.shape) == 1 and part.dtype is not None and part.dtype.kind == "f"
    }


def _joint_numbers(model: mujoco.MjModel, which: int) -> Iterator[tuple[str, str]]:
    """Return name and unit of every number of the positions (0) or velocities (1)."""
    for joint in range(model.njnt):
        kind = mujoco.mjtJoint(model.jnt_type[joint])
        units, name = _UNITS[kind][which], model.joint(joint).name or f"joint{joint}"
        for k, unit in enumerate(units):
            yield (name if len(units) == 1 else f"{name}_{k}"), unit
