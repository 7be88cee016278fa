"""The named true state of the Arena: one flat vector whose every element has a name and a unit. Knows no MuJoCo.

Bodies are keyed by colour slot, not by order: element ``red/x`` is the red body's x in every scene, 0 where there is
no red body (``red/present`` says so). A dream predicts the same vector, so that one task function scores both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from worldsim.envs.scene import COLOURS
from worldsim.errors import UsageError, suggestion

_BODY = (
    ("present", "1"), ("x", "m"), ("y", "m"), ("vx", "m/s"), ("vy", "m/s"), ("radius", "m"),
    ("sphere", "1"), ("box", "1"), ("cylinder", "1"), ("visible", "1"),
)  # fmt: skip
_POST = (
    ("present", "1"), ("x", "m"), ("y", "m"), ("half_x", "m"), ("half_y", "m"), ("round", "1"),
    ("angle_sin", "1"), ("angle_cos", "1"),
)  # fmt: skip
_REST = (
    ("pusher/x", "m"), ("pusher/y", "m"), ("pusher/vx", "m/s"), ("pusher/vy", "m/s"),
    ("curtain/height", "1"), ("curtain/x", "m"), ("curtain/y", "m"), ("curtain/half_width", "m"),
    ("curtain/angle_sin", "1"), ("curtain/angle_cos", "1"),
    ("camera/azimuth_sin", "1"), ("camera/azimuth_cos", "1"), ("camera/elevation", "rad"), ("camera/tilt", "rad"),
)  # fmt: skip
NUM_POSTS = 2

_ELEMENTS = (
    *((f"{colour}/{name}", unit) for colour in COLOURS for name, unit in _BODY),
    *_REST,
    *((f"post_{index}/{name}", unit) for index in range(NUM_POSTS) for name, unit in _POST),
)
STATE_NAMES = tuple(name for name, _ in _ELEMENTS)
STATE_UNITS = tuple(unit for _, unit in _ELEMENTS)
STATE_SIZE = len(STATE_NAMES)
_INDEX = {name: index for index, name in enumerate(STATE_NAMES)}
_SLOT_SIZE = len(_BODY)


def pack_state(values: Mapping[str, Any]) -> Float32[np.ndarray, " s"]:
    """Return the vector with the given elements by name, all others 0."""
    state = np.zeros(STATE_SIZE, np.float32)
    for name, value in values.items():
        state[_INDEX[name]] = value
    return state


def state_index(name: str) -> int:
    """Return the place of a named element in the vector; UsageError with the closest name if there is none such."""
    if name not in _INDEX:
        raise UsageError("state element", got=repr(name), allowed="STATE_NAMES", fix=suggestion(name, STATE_NAMES))
    return _INDEX[name]


def element(state: Float[np.ndarray, "*rows s"], name: str) -> Float[np.ndarray, "*rows"]:
    """Return one named element of a state or of many, in the unit of `STATE_UNITS`."""
    return state[..., state_index(name)]


def body_slots(state: Float[np.ndarray, "*rows s"], name: str) -> Float[np.ndarray, "*rows 6"]:
    """Return an element of all colour slots, palette order, for example ``body_slots(state, "x")``."""
    first = state_index(f"{COLOURS[0]}/{name}")
    return state[..., first : first + _SLOT_SIZE * len(COLOURS) : _SLOT_SIZE]
