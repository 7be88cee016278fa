"""Draws the scripts of permanence scenes: what stands where, as the camera sees it, and what is done. Plays nothing.

Places are laid out along the camera's right and forward axes and given to the Arena as reset options. A draw that does
not fit on the floor, or would need a held-out curtain angle, returns None, and the next seed is tried.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from worldsim.envs.camera import TILT_STOP, ground_axes
from worldsim.envs.controls import ACTION_NAMES, CONTEXT_STEPS, CONTROL_DT_S, CURTAIN_STEP, TILT_STEP
from worldsim.envs.factors import FACTORS
from worldsim.envs.pushes import folded, travelled
from worldsim.envs.scene import COLOURS, HALF_FLOOR
from worldsim.eval.trials import Script

Draw = Callable[[np.random.Generator, int], Script | None]

RADIUS = 0.09
LEAD_IN_S = CONTEXT_STEPS * CONTROL_DT_S
GRAVITY = 9.81
CURTAIN_FORWARD = -0.09
"""Where the curtain stands, in m forward of the floor's middle as the camera sees it: nearer than the middle."""
RISE_STEPS = round(1 / CURTAIN_STEP)
LOOK_STEPS = round(TILT_STOP / TILT_STEP)
_ROOM = HALF_FLOOR - 0.115
"""How far from the floor's middle along x or y a body may start."""


@dataclasses.dataclass(frozen=True)
class _View:
    """The floor as a camera sees it."""

    azimuth: float
    axes: Float64[np.ndarray, "2 2"]
    side: float
    """Which side things come from: 1 right, -1 left."""

    @classmethod
    def draw(cls, rng: np.random.Generator) -> _View:
        azimuth = float(FACTORS["camera_azimuth"].draw(rng))
        return cls(azimuth, ground_axes(azimuth), 1.0 if rng.random() < 0.5 else -1.0)

    @property
    def curtain_angle(self) -> float | None:
        """Angle of a curtain across the line of sight, or None where that is held out."""
        angle = self.azimuth % 180.0 - 90.0
        return None if any(span.holds(angle) for span in FACTORS["curtain_angle"].held_out) else angle

    def place(self, right: float, forward: float) -> Float64[np.ndarray, " xy=2"]:
        """Return the place (m) so far right and forward of the floor's middle."""
        return right * self.axes[0] + forward * self.axes[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Motion:
    """How a body moves."""

    speed: float
    damping: float = 0.0
    friction: float = 0.0

    @property
    def lead_in(self) -> float:
        """Way (m) that it makes before the predictor is asked."""
        return travelled(LEAD_IN_S, self.damping) * self.speed - self.friction * GRAVITY * LEAD_IN_S**2 / 2


def _mover(view: _View, lateral: float, forward: float, side: float, motion: _Motion) -> dict[str, Any] | None:
    """Return a body that is at ``lateral`` when the context ends, and moves to the other side from there."""
    along, turned = folded(np.array([lateral + side * motion.lead_in, 0.0]), HALF_FLOOR - RADIUS)
    place, heading = view.place(float(along[0]), forward), -side * float(turned[0]) * view.axes[0]
    if np.abs(place).max() > _ROOM or np.abs(lateral * view.axes[0]).max() > HALF_FLOOR - 0.1:
        return None
    direction = math.degrees(math.atan2(heading[1], heading[0])) % 360
    return {"speed": motion.speed, "direction": direction, "x": float(place[0]), "y": float(place[1]), "radius": RADIUS}


def _rester(view: _View, right: float, forward: float) -> dict[str, Any] | None:
    """Return a body at rest."""
    x, y = view.place(right, forward)
    return None if max(abs(x), abs(y)) > _ROOM else {"speed": 0.0, "x": float(x), "y": float(y), "radius": RADIUS}


def _overlap(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Tell whether two bodies would touch where they start, if both were boxes (which stand along the floor's axes)."""
    return max(abs(first["x"] - second["x"]), abs(first["y"] - second["y"])) < 2 * RADIUS


def _script(
    rng: np.random.Generator,
    seed: int,
    view: _View,
    bodies: list[dict[str, Any] | None],
    *,
    targets: int,
    options: Mapping[str, Any],
    actions: Float32[np.ndarray, "t a"],
) -> Script | None:
    """Colour the bodies and put the pusher out of the way; None where one of them does not fit, or two would touch."""
    placed = [body for body in bodies if body is not None]
    if len(placed) < len(bodies) or any(_overlap(*pair) for pair in itertools.combinations(placed, 2)):
        return None
    colours = [COLOURS[slot] for slot in rng.permutation(len(COLOURS))[: len(bodies)]]
    named = [{**body, "colour": colour} for body, colour in zip(placed, colours, strict=True)]
    corner = np.clip(view.place(view.side * 0.5, -0.5), -0.6, 0.6)
    scene = {"damping": 0.0, "friction": 0.0, "posts": [], **options}
    scene |= {"camera_azimuth": view.azimuth, "pusher_x": float(corner[0]), "pusher_y": float(corner[1])}
    label = "+".join(colours[:targets])
    return Script(seed=seed, options={**scene, "bodies": named}, actions=actions, azimuth_deg=view.azimuth, label=label)


def _curtain(view: _View, middle: float, half_width: float) -> dict[str, Any] | None:
    """Return the options of a curtain across the line of sight, or None where its angle is held out."""
    x, y = view.place(middle, CURTAIN_FORWARD)
    if view.curtain_angle is None:
        return None
    return {
        "curtain_angle": view.curtain_angle, "curtain_half_width": half_width,
        "curtain_x": float(x), "curtain_y": float(y),
    }  # fmt: skip


def _curtain_actions(steps: int, falls_at: int | None = None) -> Float32[np.ndarray, "t a"]:
    """Raise the curtain at once; lower it again from step ``falls_at`` on, or never."""
    actions = np.zeros((steps, len(ACTION_NAMES)), np.float32)
    actions[:RISE_STEPS, ACTION_NAMES.index("curtain")] = 1.0
    if falls_at is not None:
        actions[falls_at : falls_at + RISE_STEPS, ACTION_NAMES.index("curtain")] = -1.0
    return actions


def _bystander(rng: np.random.Generator, view: _View) -> dict[str, Any] | None:
    """Return a body at rest in front of the curtain."""
    return _rester(view, -view.side * float(rng.uniform(0.0, 0.3)), -float(rng.uniform(0.35, 0.45)))


def _behind(
    steps: int,
    *,
    damping: float = 0.0,
    friction: tuple[float, float] = (0.0, 0.0),
    speed: tuple[float, float] = (0.2, 0.3),
    post: bool = False,
    falls_at: int | None = None,
) -> Draw:
    """One body goes behind the curtain."""

    def draw(rng: np.random.Generator, seed: int) -> Script | None:
        view = _View.draw(rng)
        half_width = float(rng.choice([0.2, 0.3, 0.42], p=[0.4, 0.4, 0.2]))
        middle, depth = float(rng.uniform(-0.12, 0.12)), float(rng.uniform(0.08, 0.22))
        motion = _Motion(speed=float(rng.uniform(*speed)), damping=damping, friction=float(rng.uniform(*friction)))
        lateral = middle + view.side * (half_width + RADIUS + float(rng.uniform(0.02, 0.06)))
        target = _mover(view, lateral, CURTAIN_FORWARD + depth, view.side, motion)
        curtain = _curtain(view, middle, half_width)
        if curtain is None:
            return None
        x, y = view.place(middle, CURTAIN_FORWARD + depth)
        posts = [{"shape": "cylinder", "x": float(x), "y": float(y), "half_x": 0.06}] if post else []
        options = {**curtain, "damping": damping, "friction": motion.friction, "posts": posts}
        bodies = [target, _bystander(rng, view)]
        return _script(rng, seed, view, bodies, targets=1, options=options, actions=_curtain_actions(steps, falls_at))

    return draw


def passing(steps: int, *, damping: float = 0.0, speed: tuple[float, float] = (0.2, 0.3), post: bool = False) -> Draw:
    """One body passes behind the curtain, or comes back from a ``post`` behind it."""
    return _behind(steps, damping=damping, speed=speed, post=post)


def stopping(steps: int, *, falls_at: int | None = None) -> Draw:
    """One body comes to rest behind the curtain, which falls at a step or stays."""
    return _behind(steps, friction=(0.018, 0.02), speed=(0.5, 0.6), falls_at=falls_at)


def crossing(steps: int) -> Draw:
    """Two bodies of two colours come from two sides and pass each other behind the curtain."""

    def draw(rng: np.random.Generator, seed: int) -> Script | None:
        view = _View.draw(rng)
        half_width = float(rng.choice([0.2, 0.3]))
        near, gap = CURTAIN_FORWARD + float(rng.uniform(0.11, 0.15)), 2 * RADIUS + float(rng.uniform(0.02, 0.04))
        movers = []
        for side, forward in ((view.side, near), (-view.side, near + gap)):
            lateral = side * (half_width + RADIUS + float(rng.uniform(0.02, 0.06)))
            motion = _Motion(speed=float(rng.uniform(0.24, 0.3)))
            movers.append(_mover(view, lateral, forward, side, motion))
        curtain = _curtain(view, 0.0, half_width)
        if curtain is None:
            return None
        low = FACTORS["camera_elevation"].train[0]  # from higher up, the farther one would be seen over the curtain
        options = {**curtain, "camera_elevation": float(rng.uniform(low.low, low.high))}
        return _script(rng, seed, view, movers, targets=2, options=options, actions=_curtain_actions(steps))

    return draw


def covered(steps: int) -> Draw:
    """Three bodies at rest are covered and uncovered by the curtain."""

    def draw(rng: np.random.Generator, seed: int) -> Script | None:
        view = _View.draw(rng)
        forward = CURTAIN_FORWARD + rng.uniform(0.11, 0.24, size=3)
        rights = np.array([-0.32, -0.11, 0.1]) + np.sort(rng.uniform(0, 0.22, size=3))  # far enough apart, and no habit
        bodies = [_rester(view, float(r), float(f)) for r, f in zip(rights, forward, strict=True)]
        curtain = _curtain(view, 0.0, 0.42)
        if curtain is None:
            return None
        actions = _curtain_actions(steps, falls_at=int(rng.integers(RISE_STEPS + 2, steps - 2 * RISE_STEPS)))
        return _script(rng, seed, view, bodies, targets=3, options=curtain, actions=actions)

    return draw


def unwatched(steps: int) -> Draw:
    """A body moves, or rests, while the camera looks up for some steps and down again."""

    def draw(rng: np.random.Generator, seed: int) -> Script | None:
        view = _View.draw(rng)
        moves, away = rng.random() < 0.5, int(rng.integers(2, 10))
        motion = _Motion(speed=float(rng.uniform(0.2, 0.3)) if moves else 0.0)
        target = _mover(
            view, view.side * float(rng.uniform(0.2, 0.4)), float(rng.uniform(-0.15, 0.3)), view.side, motion
        )
        actions = np.zeros((steps, len(ACTION_NAMES)), np.float32)
        tilt, start = ACTION_NAMES.index("tilt"), int(rng.integers(1, 4))
        back = start + LOOK_STEPS + away
        actions[start : start + LOOK_STEPS, tilt] = 1.0
        actions[back : back + LOOK_STEPS, tilt] = -1.0
        bodies = [target, _bystander(rng, view)]
        return _script(rng, seed, view, bodies, targets=1, options={}, actions=actions)

    return draw
