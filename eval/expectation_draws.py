"""Draws the scripts of expectation quadruplets: two or four that differ in one thing, hidden for a while. Plays nothing.

A curtain across the line of sight rises early in the lead-in, after what stands behind it has been seen; a body then
passes behind it, and what differs between the two scripts is hidden at the same time in both. Places are given in the
curtain's own frame: *lateral* from its middle along it, *depth* behind it. Whatever is not fixed is drawn by the Arena
from the common seed, and so alike in all. A draw that does not fit on the floor returns None, and the next is tried.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from worldsim.envs.camera import TILT_STOP, ground_axes
from worldsim.envs.controls import ACTION_NAMES, CONTEXT_STEPS, CONTROL_DT_S, CURTAIN_STEP, ORBIT_STEP, TILT_STEP
from worldsim.envs.factors import FACTORS, HELD_OUT_WEDGE, is_held_out_pair, motion_of
from worldsim.envs.scene import COLOURS, HALF_FLOOR, SHAPES
from worldsim.eval.trials import Script

Draw = Callable[[np.random.Generator, int], tuple[Script, ...] | None]
Look = tuple[str, str]
"""Colour and shape."""

STEPS = 16
"""Frames after the context."""
RADIUS = 0.09
MASS = 0.5
DISCS = ("sphere", "cylinder")
"""Shapes that collide as discs, and so leave a head-on collision along the line they came."""
CURTAIN_FORWARD = -0.09
RISE_FROM, RISE_STEPS = 2, round(1 / CURTAIN_STEP)
"""Step of the lead-in at which the curtain begins to rise, and how long it takes."""
LOOK_STEPS = round(TILT_STOP / TILT_STEP)
LOOK_AWAY = 3
"""Steps for which the camera, once up, stays there."""
_ROOM = HALF_FLOOR - RADIUS - 0.01  # how far from the floor's middle along x or y a body may start
_SLOW, _FAST = (0.24, 0.3), (0.5, 0.6)  # m/s, within the speeds of recordings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """The floor as a camera sees it, with a curtain across the line of sight."""

    azimuth: float
    axes: Float64[np.ndarray, "2 2"]
    side: float
    """Where lateral places are positive: 1 right, -1 left."""
    middle: float
    half_width: float
    forward: float
    """How far in front of the floor's middle a bystander stands."""

    @classmethod
    def draw(cls, rng: np.random.Generator, half_width: float) -> Stage | None:
        """Return a stage; None where its curtain's angle would be one that recordings do not show."""
        azimuth = float(FACTORS["camera_azimuth"].draw(rng))
        side, middle = (1.0 if rng.random() < 0.5 else -1.0), float(rng.uniform(-0.04, 0.04))
        forward = float(rng.uniform(0.35, 0.45))
        held_out = any(span.holds(_curtain_angle(azimuth)) for span in FACTORS["curtain_angle"].held_out)
        axes = ground_axes(azimuth)
        made = cls(azimuth=azimuth, axes=axes, side=side, middle=middle, half_width=half_width, forward=forward)
        return None if held_out else made

    def place(self, lateral: float, depth: float) -> tuple[float, float]:
        """Return x and y (m) of a place in the curtain's frame."""
        x, y = (self.middle + self.side * lateral) * self.axes[0] + (CURTAIN_FORWARD + depth) * self.axes[1]
        return float(x), float(y)

    def body(self, look: Look, lateral: float, depth: float, speed: float = 0.0) -> dict[str, Any]:
        """Return a body that starts there and moves along the curtain towards its middle."""
        heading = -math.copysign(self.side, lateral) * self.axes[0]
        x, y = self.place(lateral, depth)
        return {
            "colour": look[0], "shape": look[1], "radius": RADIUS, "mass": MASS, "x": x, "y": y, "speed": speed,
            "direction": math.degrees(math.atan2(heading[1], heading[0])) % 360,
        }  # fmt: skip

    def script(
        self, seed: int, bodies: Sequence[Mapping[str, Any]], bystander: Look, posts: Sequence[Mapping[str, Any]] = ()
    ) -> Script | None:
        """Return the script of a scene with these bodies and one at rest before the curtain; None if it does not fit."""
        if any(max(abs(body["x"]), abs(body["y"])) > _ROOM for body in bodies):
            return None
        corner = np.clip(0.5 * self.side * self.axes[0] - 0.5 * self.axes[1], -0.6, 0.6)
        x, y = self.place(0.0, 0.0)
        beside = self.body(bystander, 0.1, -self.forward - CURTAIN_FORWARD)
        options = {
            "damping": 0.0, "friction": 0.0, "posts": list(posts), "camera_azimuth": self.azimuth,
            "pusher_x": float(corner[0]), "pusher_y": float(corner[1]),
            "curtain_x": x, "curtain_y": y, "curtain_half_width": self.half_width,
            "curtain_angle": _curtain_angle(self.azimuth),
            "bodies": [beside, *bodies], "lead_in": _lead_in(),
        }  # fmt: skip
        return Script(seed=seed, options=options, actions=_still(STEPS), azimuth_deg=self.azimuth)


def _curtain_angle(azimuth: float) -> float:
    return azimuth % 180.0 - 90.0


def _still(steps: int) -> Float32[np.ndarray, "t a"]:
    return np.zeros((steps, len(ACTION_NAMES)), np.float32)


def _lead_in() -> Float32[np.ndarray, "k a"]:
    actions = _still(CONTEXT_STEPS)
    actions[RISE_FROM : RISE_FROM + RISE_STEPS, ACTION_NAMES.index("curtain")] = 1.0
    return actions


def _looks(
    rng: np.random.Generator, speed: float, count: int, shapes: Sequence[str], avoid: Sequence[str] = ()
) -> list[Look]:
    """Return looks of one shape and ``count`` colours, none of which recordings hold out at this speed."""
    motion = motion_of(speed)
    colours = {
        shape: [c for c in COLOURS if c not in avoid and not is_held_out_pair(c, shape, motion)] for shape in shapes
    }
    shape = str(rng.choice([shape for shape in shapes if len(colours[shape]) >= count]))
    return [(str(colour), shape) for colour in rng.permutation(colours[shape])[:count]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Passage:
    """A stage, and the motion of a body that reaches the curtain's middle soon after the context."""

    stage: Stage
    speed: float
    start: float
    """Lateral place where it starts (m)."""
    depth: float
    looks: tuple[Look, Look]
    """How the body looks, and how else it might."""
    bystander: Look

    @classmethod
    def draw(cls, rng: np.random.Generator, *, wide: bool = False, shapes: Sequence[str] = SHAPES) -> _Passage | None:
        """Return a passage, fast wherever the curtain is ``wide``."""
        fast = wide or bool(rng.random() < 0.5)
        stage = Stage.draw(rng, float(rng.choice([0.2, 0.3])) if fast and not wide else 0.3 if wide else 0.2)
        speed = float(rng.uniform(*(_FAST if fast else _SLOW)))
        steps, depth = float(rng.uniform(9.5, 11) if fast else rng.uniform(11, 13)), float(rng.uniform(0.12, 0.18))
        first, other = _looks(rng, speed, 2, shapes)
        (bystander,) = _looks(rng, 0.0, 1, SHAPES, avoid=(first[0], other[0]))
        if stage is None:
            return None
        start = speed * CONTROL_DT_S * steps
        return cls(stage=stage, speed=speed, start=start, depth=depth, looks=(first, other), bystander=bystander)

    def mover(self, look: int = 0, *, mirrored: bool = False, deeper: float = 0.0) -> dict[str, Any]:
        """Return the body."""
        start = -self.start if mirrored else self.start
        return self.stage.body(self.looks[look], start, self.depth + deeper, self.speed)

    def scripts(
        self,
        seed: int,
        scenes: Sequence[Sequence[Mapping[str, Any]]],
        posts: Sequence[Sequence[Mapping[str, Any]]] = (),
    ) -> tuple[Script, ...] | None:
        """Return one script a list of bodies (and of posts), or None where one of them does not fit."""
        posts = posts or [()] * len(scenes)
        made = [self.stage.script(seed, row, self.bystander, grey) for row, grey in zip(scenes, posts, strict=True)]
        fitting = [script for script in made if script is not None]
        return tuple(fitting) if len(fitting) == len(made) else None


def presence(rng: np.random.Generator, seed: int) -> tuple[Script, ...] | None:
    """A body passes behind the curtain; there is none."""
    passage = _Passage.draw(rng)
    return passage and passage.scripts(seed, [[passage.mover()], []])


def colour(rng: np.random.Generator, seed: int) -> tuple[Script, ...] | None:
    """A body of one colour passes; the same in another colour."""
    passage = _Passage.draw(rng)
    return passage and passage.scripts(seed, [[passage.mover(0)], [passage.mover(1)]])


def lane(rng: np.random.Generator, seed: int) -> tuple[Script, ...] | None:
    """A body passes near behind the curtain; the same passes farther behind it at the same time."""
    passage, deeper = _Passage.draw(rng), float(rng.uniform(0.22, 0.26))
    return passage and passage.scripts(seed, [[passage.mover()], [passage.mover(deeper=deeper)]])


def heading(rng: np.random.Generator, seed: int) -> tuple[Script, ...] | None:
    """A body passes from one side; the same from the other side, so that both are behind the middle together."""
    passage = _Passage.draw(rng)
    return passage and passage.scripts(seed, [[passage.mover()], [passage.mover(mirrored=True)]])


def obstacle(rng: np.random.Generator, seed: int) -> tuple[Script, ...] | None:
    """A body passes behind the curtain; it meets a post there, which was seen before, and comes back."""
    passage = _Passage.draw(rng, wide=True, shapes=DISCS)
    if passage is None:
        return None
    x, y = passage.stage.place(-0.1, passage.depth)
    post = {"shape": "cylinder", "x": x, "y": y, "half_x": 0.06}
    return passage.scripts(seed, [[passage.mover()]] * 2, [(), (post,)])


def strike(rng: np.random.Generator, seed: int) -> tuple[Script, ...] | None:
    """A body strikes another one at rest behind the curtain, which comes out; nothing strikes it, and it stays."""
    passage = _Passage.draw(rng, wide=True, shapes=DISCS)
    if passage is None:
        return None
    striker, taken = passage.mover(), (passage.looks[0][0], passage.bystander[0])
    (look,) = _looks(rng, 0.0, 1, DISCS, avoid=taken)
    target = passage.stage.body(look, -0.06, passage.depth)
    return passage.scripts(seed, [[target, striker], [target]])


def viewpoint(rng: np.random.Generator, seed: int) -> tuple[Script, ...] | None:
    """The camera looks up at the sky and down again; the same from elsewhere: in quarter turns, the sky is the same."""
    azimuth = float(FACTORS["camera_azimuth"].draw(rng))
    other = (azimuth + float(rng.choice([90.0, 180.0, 270.0]))) % 360
    actions, tilt = _still(STEPS), ACTION_NAMES.index("tilt")
    actions[:LOOK_STEPS, tilt] = 1.0
    actions[LOOK_STEPS + LOOK_AWAY : 2 * LOOK_STEPS + LOOK_AWAY, tilt] = -1.0
    if _in_wedge(np.array([other])):
        return None
    return tuple(
        Script(seed=seed, options={"camera_azimuth": view}, actions=actions, azimuth_deg=view)
        for view in (azimuth, other)
    )


def pushing(rng: np.random.Generator, seed: int) -> tuple[Script, ...] | None:
    """The pusher is sent some way; the opposite way."""
    actions = _still(STEPS)
    starts = (0, 5, 10)
    for start, angle in zip(starts, np.cumsum(rng.uniform(-1.2, 1.2, 3)) + rng.uniform(0, 2 * math.pi), strict=True):
        actions[start:, :2] = float(rng.uniform(0.5, 1.0)) * np.array([math.cos(angle), math.sin(angle)])
    return _opposite(seed, float(FACTORS["camera_azimuth"].draw(rng)), actions)


def orbiting(rng: np.random.Generator, seed: int) -> tuple[Script, ...] | None:
    """The camera goes round the floor for some steps; as far the other way."""
    actions, azimuth = _still(STEPS), float(FACTORS["camera_azimuth"].draw(rng))
    start, steps, rate = int(rng.integers(0, 5)), int(rng.integers(5, 10)), float(rng.uniform(0.3, 0.7))
    actions[start : start + steps, ACTION_NAMES.index("orbit")] = rate if rng.random() < 0.5 else -rate
    way = ORBIT_STEP * rate * np.arange(-steps, steps + 1)
    return None if _in_wedge(azimuth + way) else _opposite(seed, azimuth, actions)


def recoloured(rng: np.random.Generator, seed: int) -> tuple[Script, ...] | None:
    """A body passes from one side, from the other; the same two in another colour from the first frame on."""
    passage = _Passage.draw(rng)
    if passage is None:
        return None
    movers = [[passage.mover(look, mirrored=back)] for look in (0, 1) for back in (False, True)]
    return passage.scripts(seed, movers)


def _in_wedge(azimuths: np.ndarray) -> bool:
    """Return whether the camera would come into the wedge that no recording has entered."""
    return bool(((azimuths % 360 > HELD_OUT_WEDGE[0]) & (azimuths % 360 < HELD_OUT_WEDGE[1])).any())


def _opposite(seed: int, azimuth: float, actions: np.ndarray) -> tuple[Script, Script]:
    one = Script(seed=seed, options={"camera_azimuth": azimuth}, actions=actions, azimuth_deg=azimuth)
    return one, dataclasses.replace(one, actions=-actions)
