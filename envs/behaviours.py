"""Behaviours: the scripted, exogenous ways in which the Arena is recorded, and their mixture: one table.

A behaviour draws the scene's options and then the whole action sequence, before the first scripted step. It may know
the scene as it is after the lead-in, never what comes later, so causes are random and effects are the world's own.
Options take values that recordings may show and leave colours, shapes and sizes to the Arena, which keeps held-out
values out. Knows no renderer, no physics engine and no file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float32

from worldsim.envs.camera import ground_axes
from worldsim.envs.controls import ORBIT_STEP
from worldsim.envs.factors import FACTORS
from worldsim.envs.pushes import PushTrack, aimed, fidgeting, folded, rest, travelled, wander
from worldsim.envs.scene import HALF_FLOOR
from worldsim.envs.tracks import (
    Facts,
    Track,
    curtain_fidget,
    curtain_partly,
    curtain_twitch,
    curtain_up_and_down,
    drift,
    fidget,
    glance,
    look_away,
    mostly_down,
    none,
    orbit_constant,
    orbit_there_and_back,
    outside_wedge,
    tilt_fidget,
)

BEHAVIOURS_VERSION = 5  # raise it whenever the same seed would give other episodes
SceneRule = Callable[[np.random.Generator], dict[str, Any]]

_BODY_REACH = HALF_FLOOR - 0.115  # m; bodies of every size start within
_POST_RADIUS = 0.06  # m
_CLEAR = 0.27  # m between the middles of two things that surely do not touch
_MEETING_S = (1.3, 3.2)  # s after the lead-in's start: when bodies on a collision course meet
_HIDING_S = (1.6, 3.4)  # s after the lead-in's start: when a body meant to be hidden is behind the curtain


def any_scene(rng: np.random.Generator) -> dict[str, Any]:
    """Leave the scene to the Arena."""
    del rng
    return {}


def gliding(rng: np.random.Generator) -> dict[str, Any]:
    """Let bodies move and glide on, so that something happens when nobody pushes."""
    count = int(rng.integers(1, 4))
    moving = [{"speed": _moving_speed(rng)} if k == 0 or rng.random() < 0.7 else {} for k in range(count)]
    return {"damping": _low_damping(rng), "bodies": moving}


def collision_course(rng: np.random.Generator) -> dict[str, Any]:
    """Send a body to meet another, which moves too or rests, shortly after the lead-in; a third may stand about."""
    damping = _low_damping(rng)
    seconds = float(rng.uniform(*_MEETING_S))
    for _ in range(100):
        place = rng.uniform(-0.42, 0.42, 2)
        speeds = [_moving_speed(rng), _moving_speed(rng) if rng.random() < 0.65 else 0.0]
        turns = rng.uniform(-math.pi, math.pi, 2)
        bodies = [
            _body_arriving(place + rng.uniform(-0.05, 0.05, 2), speed, turn, travelled(seconds, damping))
            for speed, turn in zip(speeds, turns, strict=True)
        ]
        if math.hypot(bodies[0]["x"] - bodies[1]["x"], bodies[0]["y"] - bodies[1]["y"]) > _CLEAR:
            break
    else:
        return gliding(rng)
    third: list[dict[str, Any]] = [{}] if rng.random() < 0.4 else []
    return {"damping": damping, "bodies": bodies + third, "posts": int(rng.integers(0, 2))}


def _body_arriving(place: np.ndarray, speed: float, turn: float, way: float) -> dict[str, Any]:
    """Return a body that arrives at ``place`` with direction ``turn`` (rad) after sliding ``way`` m per unit of speed."""
    heading = np.array([math.cos(turn), math.sin(turn)])
    start, sign = folded(place - way * speed * heading, _BODY_REACH)
    direction = math.degrees(math.atan2(sign[1] * heading[1], sign[0] * heading[0])) % 360.0
    return {"x": float(start[0]), "y": float(start[1]), "speed": speed, "direction": direction}


def behind_curtain(rng: np.random.Generator) -> dict[str, Any]:
    """Set the curtain across the view, and a body on a line that passes behind it while it will be up (or rests there).

    In a third of the scenes the line ends at a post behind the curtain: the bounce is hidden.
    """
    options, azimuth = _curtain_across_view(rng)
    right, forward = ground_axes(azimuth)
    along = options["curtain_half_width"] * rng.uniform(-0.7, 0.7)
    middle = np.array([options["curtain_x"], options["curtain_y"]])
    place = np.clip(middle + along * right + rng.uniform(0.14, 0.36) * forward, -0.44, 0.44)
    damping = _low_damping(rng)
    way = travelled(float(rng.uniform(*_HIDING_S)), damping)
    speed = _moving_speed(rng) if rng.random() < 0.85 else 0.0
    turn = math.radians(azimuth + 90.0) + rng.uniform(-0.6, 0.6) + (math.pi if rng.random() < 0.5 else 0.0)
    body = _body_arriving(place, speed, turn, way)
    posts: list[dict[str, Any]] = []
    if speed > 0 and rng.random() < 0.33:
        post = np.clip(place + 0.17 * np.array([math.cos(turn), math.sin(turn)]), -0.5, 0.5)
        if math.hypot(post[0] - body["x"], post[1] - body["y"]) > _CLEAR:
            posts = [{"shape": "cylinder", "x": float(post[0]), "y": float(post[1]), "half_x": _POST_RADIUS}]
    others: list[dict[str, Any]] = [{} for _ in range(int(rng.integers(0, 3)))]
    return {**options, "damping": damping, "bodies": [body, *others], "posts": posts}


def _curtain_across_view(rng: np.random.Generator) -> tuple[dict[str, Any], float]:
    """Draw a camera and a curtain that faces it to within 25 degrees, from the values recordings may show."""
    azimuth = FACTORS["camera_azimuth"].draw(rng)
    held_out = FACTORS["curtain_angle"].held_out
    angles = [(azimuth + turn) % 180.0 - 90.0 for turn in rng.uniform(-25, 25, 30).tolist()]
    seen = [angle for angle in angles if not any(span.holds(angle) for span in held_out if not isinstance(span, str))]
    if not seen:
        return _curtain_across_view(rng)
    options = {
        "camera_azimuth": azimuth,
        "curtain_angle": seen[0],
        "curtain_half_width": float(rng.choice([0.2, 0.3, 0.42], p=[0.15, 0.4, 0.45])),
        "curtain_x": float(rng.uniform(-0.25, 0.25)),
        "curtain_y": float(rng.uniform(-0.25, 0.25)),
    }
    return options, azimuth


def _low_damping(rng: np.random.Generator) -> float:
    return float(rng.choice([0.0, 0.35, 1.4], p=[0.5, 0.4, 0.1]))


def _moving_speed(rng: np.random.Generator) -> float:
    return float(rng.uniform(0.2, 0.3) if rng.random() < 0.5 else rng.uniform(0.5, 0.6))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Behaviour:
    """One way of acting: for scene and each control the alternatives, of which an episode draws one (equally likely).

    ``weight`` is the share of recorded episodes.
    """

    name: str
    weight: float
    scenes: tuple[SceneRule, ...] = (any_scene,)
    pushes: tuple[PushTrack, ...] = (rest,)
    orbits: tuple[Track, ...] = (none,)
    tilts: tuple[Track, ...] = (none,)
    curtains: tuple[Track, ...] = (none,)

    def scene(self, rng: np.random.Generator) -> dict[str, Any]:
        """Return reset options for the Arena."""
        return self.scenes[int(rng.integers(len(self.scenes)))](rng)

    def plan(self, rng: np.random.Generator, facts: Facts, steps: int) -> Float32[np.ndarray, "steps 5"]:
        """Return all actions of the scripted part, decided now. The camera never enters the held-out wedge."""
        orbit = outside_wedge(self.orbits[int(rng.integers(len(self.orbits)))](rng, steps), facts.azimuth_deg)
        azimuths = facts.azimuth_deg + ORBIT_STEP * (np.cumsum(orbit) - orbit)  # before each step
        push = self.pushes[int(rng.integers(len(self.pushes)))](rng, facts, azimuths)
        tilt = self.tilts[int(rng.integers(len(self.tilts)))](rng, steps)
        curtain = self.curtains[int(rng.integers(len(self.curtains)))](rng, steps)
        return np.column_stack([push, orbit, tilt, curtain]).astype(np.float32)


_ORBITS = (orbit_constant, orbit_there_and_back, drift)
_SOME_GLANCES = (none, none, glance)
# Half of the episodes change their actions every few steps: where actions are held for long, the frames before tell
# nearly all of what comes, whatever is done (causal confusion, de Haan et al. 2019, arXiv 1905.11979).
BEHAVIOURS = (
    Behaviour(name="push_wander", weight=0.055, pushes=(wander,), tilts=_SOME_GLANCES),
    Behaviour(name="push_aimed", weight=0.08, pushes=(aimed,), tilts=_SOME_GLANCES),
    Behaviour(
        name="orbit", weight=0.04, scenes=(any_scene, gliding, collision_course), orbits=_ORBITS, tilts=(none, glance)
    ),
    Behaviour(name="orbit_push", weight=0.075, pushes=(aimed, wander), orbits=_ORBITS, tilts=_SOME_GLANCES),
    Behaviour(
        name="hide",
        weight=0.12,
        scenes=(behind_curtain,),
        orbits=(none, none, none, drift, orbit_there_and_back),
        curtains=(curtain_up_and_down, curtain_up_and_down, curtain_partly),
    ),
    Behaviour(
        name="hide_push",
        weight=0.07,
        scenes=(any_scene, behind_curtain),
        pushes=(aimed, wander),
        curtains=(curtain_up_and_down, curtain_partly),
    ),
    Behaviour(
        name="look_away",
        weight=0.025,
        scenes=(any_scene, gliding, collision_course),
        orbits=(none, drift),
        tilts=(look_away,),
    ),
    Behaviour(name="look_away_push", weight=0.025, pushes=(aimed, wander), tilts=(look_away, glance)),
    Behaviour(name="still", weight=0.035, scenes=(gliding, collision_course, collision_course)),
    Behaviour(
        name="everything",
        weight=0.03,
        scenes=(any_scene, gliding, behind_curtain),
        pushes=(aimed, wander),
        orbits=_ORBITS,
        tilts=(glance, look_away),
        curtains=(curtain_up_and_down, curtain_partly),
    ),
    Behaviour(
        name="twitch",
        weight=0.1,
        scenes=(any_scene, gliding, behind_curtain),
        orbits=(none, none, fidget),
        curtains=(curtain_twitch,),
    ),
    Behaviour(name="fidget_push", weight=0.075, pushes=(fidgeting,)),
    Behaviour(
        name="fidget",
        weight=0.12,
        scenes=(any_scene, any_scene, gliding, behind_curtain),
        pushes=(fidgeting,),
        orbits=(none, fidget),
        tilts=(none, none, tilt_fidget),
        curtains=(none, curtain_fidget),
    ),
    # As whoever samples the action space: no control knows of its stops.
    Behaviour(
        name="sampled",
        weight=0.15,
        scenes=(any_scene, gliding, behind_curtain),
        pushes=(fidgeting,),
        orbits=(none, fidget),
        tilts=(mostly_down, mostly_down, fidget),
        curtains=(mostly_down, fidget),
    ),
)


def choose_behaviour(rng: np.random.Generator) -> Behaviour:
    """Draw a behaviour with the table's weights."""
    weights = np.array([behaviour.weight for behaviour in BEHAVIOURS])
    return BEHAVIOURS[int(rng.choice(len(BEHAVIOURS), p=weights / weights.sum()))]
