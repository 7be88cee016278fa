"""Draws the scripts of cause-and-effect pairs: what stands where, what comes how, and what differs. Plays nothing.

The target rests near the floor's middle. An agent comes along a *lane* that hits it off-centre by at most 1.2 of its
radius, or passes it clearly. What recordings never show together is not drawn. A draw that does not fit on the floor
returns None, and it is drawn again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from worldsim.envs.camera import ground_axes
from worldsim.envs.controls import ACTION_NAMES, CONTEXT_STEPS, CONTROL_DT_S, PUSH_SPEED
from worldsim.envs.factors import FACTORS, is_held_out_pair, motion_of
from worldsim.envs.pushes import travelled
from worldsim.envs.scene import COLOURS, HALF_FLOOR, PUSHER_RADIUS
from worldsim.eval.trials import Script

Pair = tuple[Script, Script]
"""The scripts of the cause and of the reference."""
Place = Float64[np.ndarray, " xy=2"]

STEPS = 24
LEVELS = (0.4, 0.55, 0.7, 0.85, 1.0)
"""Rates of the push in the dose family: .24 to .60 m/s."""
DELAYS = 6
MOST_OFFSET = 1.2
"""Largest impact parameter of a hit, in radii of the target: farther out hits graze, and cannot be foretold."""
LEAD_IN_S = CONTEXT_STEPS * CONTROL_DT_S
_DISCS = ("sphere", "cylinder")  # they collide as discs, so that a lane decides what they do
_ROOM = HALF_FLOOR - 0.115  # how far from the floor's middle along x or y things may start
_CLEAR = 0.27  # m between the middles of two things that surely do not touch
_BARRIER = {"half_x": 0.12, "half_y": 0.03}
_POST_RADIUS = 0.055
_LAG_STEPS = 0.25  # the pusher needs so long to get going


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lane:
    """A straight way to the target or past it."""

    target: Place
    heading: Place
    meeting: Place
    """Where the agent's middle is when it touches the target, or is beside it."""

    @property
    def across(self) -> Place:
        """Return the unit vector to the left of the heading."""
        return np.array([-self.heading[1], self.heading[0]])

    def before(self, way: float) -> Place:
        """Return where the agent is so far (m) before the meeting."""
        return self.meeting - way * self.heading

    def onward(self, way: float) -> Place:
        """Return where a target that is hit has gone after some way (m)."""
        normal = self.target - self.meeting
        return self.target + way * normal / float(np.linalg.norm(normal))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drive:
    """The pusher driven straight on for some steps."""

    place: Place
    heading: Place
    rate: float
    first: int = 0
    steps: int

    @property
    def end(self) -> Place:
        """Return where it comes to if nothing stops it."""
        return self.place + self.rate * PUSH_SPEED * CONTROL_DT_S * self.steps * self.heading

    def actions(self, azimuth: float) -> Float32[np.ndarray, "t a"]:
        """Return the actions, steered from a camera at ``azimuth`` degrees."""
        result = np.zeros((STEPS, len(ACTION_NAMES)), np.float32)
        result[self.first : self.first + self.steps, :2] = self.rate * ground_axes(azimuth) @ self.heading
        return result


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """What every pair begins with: a camera, a target at rest, and looks for two more bodies."""

    rng: np.random.Generator
    seed: int
    index: int
    effective: bool
    azimuth: float
    target: dict[str, Any]
    bystander: dict[str, Any]
    striker: dict[str, Any]

    @classmethod
    def draw(cls, rng: np.random.Generator, seed: int, index: int, effective: bool) -> Stage:
        """Draw the stage of pair ``index``, whose cause is to have an effect or none."""
        azimuth = float(FACTORS["camera_azimuth"].draw(rng))
        looks: list[dict[str, Any]] = []
        for speed in (float(rng.uniform(0.5, 0.6)), 0.0, 0.0):  # the striker first: few looks go with speed
            looks.append(_look(rng, speed, [look["colour"] for look in looks]))
        x, y = rng.uniform(-0.35, 0.35, size=2).tolist()
        return cls(
            rng=rng, seed=seed, index=index, effective=effective, azimuth=azimuth,
            target={**looks[1], "x": x, "y": y}, bystander=looks[2], striker=looks[0],
        )  # fmt: skip

    def lane(self, radius: float, *, hits: bool, turned: float | None = None) -> Lane:
        """Draw a lane for an agent of that radius; ``turned`` is its heading in rad, None for any."""
        angle = float(self.rng.uniform(-math.pi, math.pi)) if turned is None else turned
        heading, reach = np.array([math.cos(angle), math.sin(angle)]), radius + self.target["radius"]
        offset = float(self.rng.uniform(0.0, MOST_OFFSET * self.target["radius"]))
        if not hits:
            offset = reach + float(self.rng.uniform(0.04, 0.1))
        offset *= -1.0 if self.rng.random() < 0.5 else 1.0
        place = np.array([self.target["x"], self.target["y"]])
        across = np.array([-heading[1], heading[0]])
        back = math.sqrt(max(reach**2 - offset**2, 0.0))
        return Lane(target=place, heading=heading, meeting=place + offset * across - back * heading)

    def drive(self, lane: Lane, rate: float, meets_at: int) -> Drive:
        """Return the pusher driven along a lane so that it is at the meeting in step ``meets_at``, and on for some."""
        way = PUSH_SPEED * CONTROL_DT_S * rate * (meets_at + 0.5 - _LAG_STEPS)
        steps = meets_at + int(self.rng.integers(3, 6))
        return Drive(place=lane.before(way), heading=lane.heading, rate=rate, steps=steps)

    def slide(self, lane: Lane, damping: float, meets_at: int) -> dict[str, Any]:
        """Return the striker sliding along a lane so that it is at the meeting in step ``meets_at``."""
        seconds = LEAD_IN_S + (meets_at + 0.5) * CONTROL_DT_S
        start = lane.before(self.striker["speed"] * travelled(seconds, damping))
        direction = math.degrees(math.atan2(lane.heading[1], lane.heading[0])) % 360
        return {**self.striker, "direction": direction, "x": float(start[0]), "y": float(start[1])}

    def aside(self, *lines: Sequence[Place], within: float = _ROOM) -> Place | None:
        """Return a place clear of some lines (from point to point), or None where there is hardly any."""
        for _ in range(40):
            place = self.rng.uniform(-within, within, size=2)
            if all(_distance(place, line) > _CLEAR for line in lines):
                return place
        return None

    def script(
        self,
        pusher: Place,
        damping: float,
        bodies: Sequence[dict[str, Any]],
        drive: Drive | None = None,
        *,
        by: str,
        **options: Any,
    ) -> Script:
        """Return the script with the target, other ``bodies`` and the pusher; ``by`` names the agents, joined by +."""
        scene = {"camera_azimuth": self.azimuth, "damping": damping, "friction": 0.0, "posts": [], **options}
        scene |= {"pusher_x": float(pusher[0]), "pusher_y": float(pusher[1]), "bodies": [self.target, *bodies]}
        actions = np.zeros((STEPS, len(ACTION_NAMES)), np.float32) if drive is None else drive.actions(self.azimuth)
        label = f"{self.target['colour']} by {by}"
        return Script(seed=self.seed, options=scene, actions=actions, azimuth_deg=self.azimuth, label=label)


def push(stage: Stage) -> Pair | None:
    """The pusher is driven into the target, past it or away from it; or left alone."""
    return _pushed(stage, float(stage.rng.uniform(0.6, 1.0)), lambda drive: (drive, None))


def dose(stage: Stage) -> Pair | None:
    """The same at one of five rates."""
    return _pushed(stage, LEVELS[stage.index // 2 % len(LEVELS)], lambda drive: (drive, None))


def deflection(stage: Stage) -> Pair | None:
    """The pusher is driven to the left of the target's middle, or as much to the right."""
    target = np.array([stage.target["x"], stage.target["y"]])

    def members(drive: Drive) -> tuple[Drive, Drive]:
        axis = (target - drive.place) / np.linalg.norm(target - drive.place)
        left = axis[0] * drive.heading[1] > axis[1] * drive.heading[0]
        mirrored = dataclasses.replace(drive, heading=2 * float(drive.heading @ axis) * axis - drive.heading)
        return (drive, mirrored) if left else (mirrored, drive)

    return _pushed(stage, float(stage.rng.uniform(0.6, 1.0)), members)


def delay(stage: Stage) -> Pair | None:
    """The same push comes 1 to `DELAYS` steps later, or at once."""
    later = 1 + stage.index // 2 % DELAYS
    return _pushed(
        stage, float(stage.rng.uniform(0.6, 1.0)), lambda drive: (dataclasses.replace(drive, first=later), drive)
    )


def striker(stage: Stage) -> Pair | None:
    """The striker hits the target or passes it; or is not in the scene."""
    lane = stage.lane(stage.striker["radius"], hits=stage.effective)
    damping = _gliding(stage)
    comer = stage.slide(lane, damping, int(stage.rng.integers(2, 6)))
    ways = _ways(comer, lane)
    other, pusher = stage.aside(*ways), stage.aside(*ways)
    if other is None or pusher is None or _distance(pusher, (other, other)) < _CLEAR or not _fits(lane, comer):
        return None
    bystander, by = _at(stage.bystander, other), comer["colour"]
    return (
        stage.script(pusher, damping, [bystander, comer], by=by),
        stage.script(pusher, damping, [bystander], by=by),
    )


def block(stage: Stage) -> Pair | None:
    """A barrier stands in the way of the pusher or the striker, or beside it; or there is none."""
    driven, meets_at = stage.rng.random() < 0.5, int(stage.rng.integers(4, 7))
    radius = PUSHER_RADIUS if driven else stage.striker["radius"]
    lane, damping = stage.lane(radius, hits=True), _gliding(stage)
    drive = stage.drive(lane, float(stage.rng.uniform(0.7, 1.0)), meets_at) if driven else None
    comer = None if driven else stage.slide(lane, damping, meets_at)
    beside = 0.0 if stage.effective else (radius + _BARRIER["half_x"] + 0.05) * float(stage.rng.choice([-1.0, 1.0]))
    post = _barrier(stage, lane, beside)
    ways = [(lane.target, lane.onward(0.35)), (lane.before(0.4), lane.target), (_place(post), _place(post))]
    if comer is not None:
        ways += _ways(comer, lane)
    other, away = stage.aside(*ways), stage.aside(*ways)
    if other is None or away is None or _distance(away, (other, other)) < _CLEAR or not _fits(lane, comer, post, drive):
        return None
    pusher = away if drive is None else drive.place
    bodies = [_at(stage.bystander, other), *([] if comer is None else [comer])]
    by = "pusher" if comer is None else comer["colour"]
    return (
        stage.script(pusher, damping, bodies, drive, by=by, posts=[post]),
        stage.script(pusher, damping, bodies, drive, by=by),
    )


def pre_emption(stage: Stage) -> Pair | None:
    """Striker and pusher both come for the target; a post blocks the striker, or does not.

    Where that is to have an effect the striker is first, and its place is taken by the pusher; else it comes too late.
    """
    soon, late = int(stage.rng.integers(4, 6)), int(stage.rng.integers(2, 4))
    lane, damping = stage.lane(stage.striker["radius"], hits=True), _gliding(stage)
    turn = math.radians(float(stage.rng.uniform(50, 80))) * float(stage.rng.choice([-1.0, 1.0]))
    angle = math.atan2(lane.heading[1], lane.heading[0]) + turn
    other_lane = stage.lane(PUSHER_RADIUS, hits=True, turned=angle)
    comer = stage.slide(lane, damping, soon if stage.effective else soon + late)
    drive = stage.drive(other_lane, float(stage.rng.uniform(0.8, 1.0)), soon + late if stage.effective else soon)
    back = stage.target["radius"] + _POST_RADIUS + 0.025
    x, y = (
        lane.target + float((lane.meeting - lane.target) @ lane.across) * lane.across - back * lane.heading
    ).tolist()
    post = {"shape": "cylinder", "x": x, "y": y, "half_x": _POST_RADIUS}
    ways = [*_ways(comer, lane), (drive.place, drive.end), (lane.target, other_lane.onward(0.35))]
    other = stage.aside(*ways)
    if other is None or not _fits(lane, comer, post, drive) or not _fits(other_lane):
        return None
    names = (comer["colour"], "pusher") if stage.effective else ("pusher", comer["colour"])
    bodies = [_at(stage.bystander, other), comer]
    return (
        stage.script(drive.place, damping, bodies, drive, by="+".join(names), posts=[post]),
        stage.script(drive.place, damping, bodies, drive, by="+".join(names)),
    )


def irrelevant(stage: Stage) -> Pair | None:
    """The striker hits the target in both; the bystander has another colour, or is pushed, or the light is another."""
    rng, kind = stage.rng, stage.index % 3
    lane, damping = stage.lane(stage.striker["radius"], hits=True), _gliding(stage)
    comer = stage.slide(lane, damping, int(rng.integers(2, 6)))
    ways = _ways(comer, lane)
    other = stage.aside(*ways)
    if other is None or not _fits(lane, comer):
        return None
    angle = float(rng.uniform(-math.pi, math.pi))
    heading = np.array([math.cos(angle), math.sin(angle)])
    start = other - (stage.bystander["radius"] + PUSHER_RADIUS + float(rng.uniform(0.06, 0.15))) * heading
    drive = Drive(place=start, heading=heading, rate=float(rng.uniform(0.6, 1.0)), steps=7) if kind == 2 else None
    if min(_distance(start, way) for way in ways) < _CLEAR or np.abs(start).max() > _ROOM:
        return None
    reference: dict[str, Any] = {"light_azimuth": float(rng.uniform(0, 180)), "light_strength": 0.45}
    other_light: dict[str, Any] = {"light_azimuth": reference["light_azimuth"] + 150.0, "light_strength": 0.55}
    light = other_light if kind == 1 else reference
    bystander, by = _at(stage.bystander, other), comer["colour"]
    taken = [stage.target["colour"], by, bystander["colour"]]
    recoloured = bystander | {"colour": _look(rng, 0.0, taken, (bystander["shape"],))["colour"]}
    changed = recoloured if kind == 0 else bystander
    return (
        stage.script(start, damping, [changed, comer], drive, by=by, **light),
        stage.script(start, damping, [bystander, comer], by=by, **reference),
    )


def _pushed(stage: Stage, rate: float, members: Callable[[Drive], tuple[Drive | None, Drive | None]]) -> Pair | None:
    """Return the pair of what ``members`` makes of a push at that rate."""
    lane = stage.lane(PUSHER_RADIUS, hits=stage.effective)
    drive = stage.drive(lane, rate, int(stage.rng.integers(2, 6)))
    if not stage.effective and stage.rng.random() < 0.5:
        drive = dataclasses.replace(drive, heading=-drive.heading)
    damping = float(FACTORS["damping"].draw(stage.rng))
    pair = members(drive)
    ways = [(drive.place, lane.target), (lane.target, lane.onward(0.35))]
    ways += [(one.place, one.end) for one in pair if one is not None]
    other = stage.aside(*ways)
    if other is None or not _fits(lane if stage.effective else None, None, None, drive):
        return None
    cause, reference = (
        stage.script(drive.place, damping, [_at(stage.bystander, other)], one, by="pusher") for one in pair
    )
    return cause, reference


def _look(
    rng: np.random.Generator, speed: float, taken: Sequence[str], shapes: Sequence[str] = _DISCS
) -> dict[str, Any]:
    """Draw a disc that recordings may show at this speed, of none of the colours ``taken``."""
    motion = motion_of(speed)
    free = [colour for colour in COLOURS if colour not in taken]
    looks = [(colour, shape) for colour in free for shape in shapes if not is_held_out_pair(colour, shape, motion)]
    colour, shape = looks[int(rng.integers(len(looks)))]
    return {"colour": colour, "shape": shape, "radius": float(rng.uniform(0.08, 0.1)), "speed": speed}


def _gliding(stage: Stage) -> float:
    """Draw a damping under which a body that slides arrives with some speed."""
    return float(stage.rng.choice([0.0, 0.35]))


def _at(body: dict[str, Any], place: Place) -> dict[str, Any]:
    return {**body, "x": float(place[0]), "y": float(place[1])}


def _place(thing: dict[str, Any]) -> Place:
    return np.array([thing["x"], thing["y"]])


def _barrier(stage: Stage, lane: Lane, beside: float) -> dict[str, Any]:
    """Return a barrier across the lane, close before the target, or so far (m) beside it."""
    offset = float((lane.meeting - lane.target) @ lane.across) + beside
    back = stage.target["radius"] + _BARRIER["half_y"] + 0.03
    x, y = (lane.target + offset * lane.across - back * lane.heading).tolist()
    angle = math.degrees(math.atan2(lane.across[1], lane.across[0]))
    return {"shape": "barrier", "x": x, "y": y, "angle": (angle + 90) % 180 - 90, **_BARRIER}


def _ways(comer: dict[str, Any], lane: Lane) -> list[tuple[Place, Place]]:
    """Return the lines of a slide, on beyond the meeting, and of a target that is hit."""
    return [(_place(comer), lane.before(-0.3)), (lane.target, lane.onward(0.4))]


def _fits(
    hit: Lane | None,
    comer: dict[str, Any] | None = None,
    post: dict[str, Any] | None = None,
    drive: Drive | None = None,
) -> bool:
    """Return whether all starts are on the floor, posts where recordings have them, and a target hit has room to go."""
    starts = [] if comer is None else [_place(comer)]
    starts += [] if drive is None else [drive.place]
    starts += [] if hit is None else [hit.onward(0.3)]
    seen = post is None or (FACTORS["post_x"].train[0].holds(post["x"]) and FACTORS["post_y"].train[0].holds(post["y"]))
    return seen and all(float(np.abs(start).max()) <= _ROOM for start in starts)


def _distance(place: Place, line: Sequence[Place]) -> float:
    """Return the distance (m) of a place from a line between two points."""
    first, last = line
    way = last - first
    share = float(np.clip((place - first) @ way / max(float(way @ way), 1e-12), 0.0, 1.0))
    return float(np.linalg.norm(place - first - share * way))
