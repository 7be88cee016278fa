"""What plans lead to: plans stepped side by side in forks of one present. Knows Gymnasium's contract and `fork_batch`.

An environment can be planned in when ``env.unwrapped.fork_batch(n)`` returns a `VectorEnv` of n futures of its present.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import VectorEnv
from jaxtyping import Float, Float32, Shaped
from torch import Tensor

from worldsim.errors import UsageError

Array = np.ndarray | Tensor
Fork = Callable[[int], VectorEnv[Any, Any, Any]]
"""Returns so many futures of the present."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imagined:
    """What n plans of T actions led to; index t is what action t yielded (arrays; tensors where gradients are asked for)."""

    rewards: Float[Array, "n t"]
    terminated: Shaped[Array, "n t"]
    frames: Shaped[Array, "n t h w 3"]
    """uint8; as tensors float, 0 .. 1."""
    readouts: Mapping[str, Float[Array, "n t _"]]
    """Named numbers that the environment tells in its info, for example "state"."""


def imagine(fork: Fork, plans: Float32[np.ndarray, "n t a"]) -> Imagined:
    """Step one future per plan. UsageError if a reward is not finite: no plan could be preferred."""
    futures = fork(len(plans))
    steps = [futures.step(np.ascontiguousarray(plans[:, t])) for t in range(plans.shape[1])]
    frames, rewards, terminated, _, infos = zip(*steps, strict=True)
    worth = np.stack(rewards, axis=1)
    if not np.isfinite(worth).all():
        raise UsageError(
            "rewards",
            got=f"NaN or infinity in {int((~np.isfinite(worth)).sum())} of {worth.size} imagined steps",
            allowed="finite numbers",
            fix="check the environment's reward function, or plan for a state or a picture instead",
        )
    names = [name for name, value in infos[0].items() if is_readout(name, value, len(plans))]
    return Imagined(
        rewards=worth,
        terminated=np.stack(terminated, axis=1),
        frames=np.stack(frames, axis=1),
        readouts={name: np.stack([info[name] for info in infos], axis=1) for name in names},
    )


def is_readout(name: str, value: Any, rows: int) -> bool:
    """Tell whether an entry of info holds a row of real numbers for every environment."""
    real = isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating)
    return real and value.ndim == 2 and len(value) == rows and not name.startswith("_")


def fork_of(env: gym.Env[Any, Any], frames: bool = True) -> Fork:
    """Return what forks the present of ``env``, without frames if it can save their drawing; UsageError if it cannot."""
    fork = getattr(env.unwrapped, "fork_batch", None)
    if fork is None:
        raise UsageError(
            "env",
            got=f"{type(env.unwrapped).__name__}, which cannot be forked",
            allowed="an environment with fork_batch(n), such as worldsim/Dream-v0 or worldsim/Arena-v0",
            fix="train a world model of it (worldsim record, worldsim train) and plan in its dream",
        )
    if not frames and "frames" in inspect.signature(fork).parameters:
        return functools.partial(fork, frames=False)
    return fork


def bounded_box(space: gym.Space[Any], name: str = "action_space") -> Box:
    """Return an action space that plans can be drawn in: a flat bounded Box; UsageError for any other."""
    if not isinstance(space, Box) or len(space.shape) != 1 or not space.is_bounded():
        raise UsageError(
            name, got=space, allowed="a flat Box with finite bounds", fix="wrap the environment (RescaleAction)"
        )
    return space
