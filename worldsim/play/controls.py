"""Keys for an action space, and levels in -1 .. 1 as actions. Knows no page beyond the names of its keys.

A level of 0 is the idle action (0, or the nearest that the space holds), 1 the highest and -1 the lowest. Levels are
kept as whole numbers of 127ths, so that a permalink reproduces them exactly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from worldsim.envs.controls import ACTION_NAMES
from worldsim.spec import WorldSpec

LEVELS = 127
_ARENA = {
    "push_right": ("ArrowLeft", "ArrowRight", ""),
    "push_forward": ("ArrowDown", "ArrowUp", ""),
    "orbit": ("KeyA", "KeyD", ""),
    "tilt": ("KeyS", "KeyW", ""),
    "curtain": ("KeyQ", "KeyE", "Space"),
}
_OTHERS = (
    ("ArrowLeft", "ArrowRight", ""), ("ArrowDown", "ArrowUp", ""), ("KeyA", "KeyD", ""), ("KeyS", "KeyW", ""),
    ("KeyQ", "KeyE", ""), ("KeyG", "KeyT", ""), ("KeyJ", "KeyL", ""), ("KeyK", "KeyI", ""),
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Binding:
    """How one action is steered: keys (``KeyboardEvent.code``) for its lowest and highest value, and for there and back."""

    name: str
    low: str
    high: str
    toggle: str


def bindings(spec: WorldSpec) -> list[Binding]:
    """Return one binding per action of a world; actions beyond the eighth have no key and stay idle."""
    if spec.action_names == ACTION_NAMES:
        keys = [_ARENA[name] for name in ACTION_NAMES]
    else:
        keys = [_OTHERS[i] if i < len(_OTHERS) else ("", "", "") for i in range(spec.action_dim)]
    return [
        Binding(name=name, low=low, high=high, toggle=toggle)
        for name, (low, high, toggle) in zip(spec.action_names, keys, strict=True)
    ]


def _idle(spec: WorldSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    low, high = np.asarray(spec.action_low, np.float64), np.asarray(spec.action_high, np.float64)
    return low, np.clip(0.0, low, high), high


def action_of(spec: WorldSpec, levels: Sequence[int]) -> Float32[np.ndarray, " a"]:
    """Return the action that whole levels (-127 .. 127, one per action) stand for."""
    low, idle, high = _idle(spec)
    share = np.asarray(levels, np.float64) / LEVELS
    action = np.where(share >= 0, idle + share * (high - idle), idle - share * (low - idle))
    return np.clip(action.astype(np.float32), spec.action_low, spec.action_high).astype(np.float32)


def levels_of(spec: WorldSpec, action: Float32[np.ndarray, " a"]) -> tuple[int, ...]:
    """Return the whole levels closest to an action."""
    low, idle, high = _idle(spec)
    up, down = np.maximum(high - idle, 1e-9), np.maximum(idle - low, 1e-9)
    share = np.where(action >= idle, (action - idle) / up, (action - idle) / down)
    return rounded(np.clip(share, -1, 1).tolist())


def rounded(levels: Sequence[float | int]) -> tuple[int, ...]:
    """Return levels in -1 .. 1 as whole ones."""
    return tuple(round(LEVELS * level) for level in levels)
