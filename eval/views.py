"""Scenes of 3D consistency (P2): the camera moves, and the bodies are seen from another side. No model.

It goes full circle round bodies at rest (P2a), there and back (P2b), to and fro while they move (P2c), round while it
looks away (P2d), and into the wedge of azimuths that no recording shows (P2e). Scenes come from seeds by a registered
rule, and every one is played and audited: what it is named for does happen in it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float32, Float64, UInt8

from worldsim.envs.camera import TILT_STOP, field_of_view
from worldsim.envs.controls import ACTION_NAMES, ORBIT_STEP, TILT_STEP
from worldsim.envs.factors import FACTORS, HELD_OUT_WEDGE
from worldsim.envs.painter import Painter
from worldsim.envs.placement import Room
from worldsim.envs.scene import HALF_FLOOR
from worldsim.envs.state import body_slots, element
from worldsim.envs.tracks import WEDGE_MARGIN_DEG, orbit_there_and_back, outside_wedge
from worldsim.eval import rows
from worldsim.eval.families import Family, Reader, Scene, Scores, each_tale, first_that
from worldsim.eval.permanence_scores import ERROR
from worldsim.eval.tales import Tale, drawn, play, rehearse
from worldsim.eval.tracking import HIDDEN, VISIBLE
from worldsim.eval.trials import Script
from worldsim.eval.view_scores import (
    MEASURES,
    azimuths_of,
    in_wedge,
    score,
    turned_deg,
    wrapped,
)

Draw = Callable[[np.random.Generator, int], Script | None]

BODIES = 3
GAP_M = 0.25
"""Least clear distance between two bodies when the lead-in begins."""
CLEARLY_SEEN = 0.8
"""Least visible share of every body when the actions begin."""
HIDDEN_FRAMES = (4, 16)
LOOK_STEPS = round(TILT_STOP / TILT_STEP)
_PLACINGS = 100


# --- draws -----------------------------------------------------------------------------------------------------------


def _places(rng: np.random.Generator) -> Float64[np.ndarray, "n 2"] | None:
    """Return places (m) for bodies of every recorded size, or None where chance does not keep them apart."""
    largest = FACTORS["radius"].train[-1].high
    for _ in range(_PLACINGS):
        places = rng.uniform(-Room.reach(largest), Room.reach(largest), (BODIES, 2))
        between = np.linalg.norm(places[:, None] - places, axis=-1)[np.triu_indices(BODIES, 1)]
        if between.min() >= GAP_M + 2 * largest:
            return places
    return None


def _script(
    rng: np.random.Generator, seed: int, rates: Mapping[str, np.ndarray], azimuth: float, speeds: Sequence[float]
) -> Script | None:
    """Return bodies of some speeds on a floor without posts, and the actions of these rates (t,) by name."""
    places = _places(rng)
    if places is None:
        return None
    bodies = [{"x": x, "y": y, "speed": speed} for (x, y), speed in zip(places.tolist(), speeds, strict=True)]
    actions = np.zeros((len(next(iter(rates.values()))), len(ACTION_NAMES)), np.float32)
    for name, column in rates.items():
        actions[:, ACTION_NAMES.index(name)] = column
    options: dict[str, Any] = {"bodies": bodies, "posts": 0, "camera_azimuth": azimuth}
    if any(speeds):
        options |= {"friction": 0.0, "damping": float(rng.choice([0.0, 0.35]))}
    return Script(seed=seed, options=options, actions=actions, azimuth_deg=azimuth)


def _azimuth(rng: np.random.Generator, turn: float = 0.0) -> float:
    """Return an azimuth from which the camera may turn so far (degrees) and stay outside the held-out wedge."""
    low, high = HELD_OUT_WEDGE
    first, last = high + WEDGE_MARGIN_DEG + max(0.0, -turn), 360.0 + low - WEDGE_MARGIN_DEG - max(0.0, turn)
    return float(rng.uniform(first, last)) % 360.0


def _sign(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def circle(steps: int) -> Draw:
    """Full circle at full speed, either way round."""

    def draw(rng: np.random.Generator, seed: int) -> Script | None:
        rates = np.full(steps, _sign(rng))
        return _script(rng, seed, {"orbit": rates}, _azimuth(rng), [0.0] * BODIES)

    return draw


def there_and_back(steps: int, rest: int = 2) -> Draw:
    """Turn by one of four angles, stay there, turn back and rest."""

    def draw(rng: np.random.Generator, seed: int) -> Script | None:
        angle = float(rng.choice([30.0, 60.0, 90.0, 180.0]))
        duration = min(math.ceil(angle / (ORBIT_STEP * rng.uniform(0.5, 1.0))), (steps - rest) // 2)
        turn = _sign(rng) * angle
        way = np.full(duration, turn / (ORBIT_STEP * duration))
        rates = np.concatenate([way, np.zeros(steps - rest - 2 * duration), -way, np.zeros(rest)])
        return _script(rng, seed, {"orbit": rates}, _azimuth(rng, turn), [0.0] * BODIES)

    return draw


def to_and_fro(steps: int) -> Draw:
    """Orbit as in recordings, while one body moves for certain and the others rest or move."""

    def draw(rng: np.random.Generator, seed: int) -> Script | None:
        azimuth = _azimuth(rng)
        rates = outside_wedge(orbit_there_and_back(rng, steps), azimuth)
        moving = FACTORS["speed"].train[int(rng.integers(1, 3))]
        speeds = [float(rng.uniform(moving.low, moving.high)), *(FACTORS["speed"].draw(rng) for _ in range(BODIES - 1))]
        return _script(rng, seed, {"orbit": rates}, azimuth, speeds)

    return draw


def looking_away(steps: int) -> Draw:
    """Tilt up until the floor is out of sight, orbit, and tilt down again."""

    def draw(rng: np.random.Generator, seed: int) -> Script | None:
        start, away = int(rng.integers(1, 4)), int(rng.integers(2, 13))
        turn = _sign(rng) * float(rng.uniform(30.0, min(120.0, ORBIT_STEP * away)))
        orbit, tilt = np.zeros(steps), np.zeros(steps)
        gone = start + LOOK_STEPS
        tilt[start:gone], tilt[gone + away : gone + away + LOOK_STEPS] = 1.0, -1.0
        orbit[gone : gone + away] = turn / (ORBIT_STEP * away)
        return _script(rng, seed, {"orbit": orbit, "tilt": tilt}, _azimuth(rng, turn), [0.0] * BODIES)

    return draw


def into_wedge(steps: int) -> Draw:
    """Turn into the held-out wedge from outside, and on to other places within it."""

    def draw(rng: np.random.Generator, seed: int) -> Script | None:
        low, high = HELD_OUT_WEDGE
        before, side = float(rng.uniform(15.0, 120.0)), _sign(rng)
        azimuth = (low - before if side > 0 else high + before) % 360.0
        pieces, left, at = [], steps, -before * side if side > 0 else before + high - low
        while left > 0:
            goal = float(rng.uniform(1.0, high - low - 1.0))
            duration = math.ceil(abs(goal - at) / ORBIT_STEP) + int(rng.integers(0, 3))
            pieces.append(np.full(duration, (goal - at) / (ORBIT_STEP * duration)))
            left, at = left - duration, goal
        return _script(rng, seed, {"orbit": np.concatenate(pieces)[:steps]}, azimuth, [0.0] * BODIES)

    return draw


# --- audits ----------------------------------------------------------------------------------------------------------


def _bodies(tale: Tale, name: str) -> Float32[np.ndarray, "t n"]:
    """Return a state element of the bodies that there are."""
    present = body_slots(tale.states[0], "present") > 0.5
    return body_slots(tale.states, name)[:, present]


def _stays_outside(tale: Tale) -> bool:
    return not in_wedge(azimuths_of(tale.states)).any()


def _comes_back(tale: Tale) -> bool:
    return bool(np.abs(wrapped(azimuths_of(tale.states[-1:]) - tale.script.azimuth_deg)).max() < 0.01)


def _out_and_back(tale: Tale) -> bool:
    return _stays_outside(tale) and _comes_back(tale)


def _moves(tale: Tale) -> bool:
    """Return whether, seen from outside the wedge, a body goes 20 cm and the camera turns by 60 degrees altogether."""
    steps = np.hypot(np.diff(_bodies(tale, "x"), axis=0), np.diff(_bodies(tale, "y"), axis=0))
    turned = np.abs(np.diff(turned_deg(tale), prepend=0.0)).sum()
    return _stays_outside(tale) and bool(steps.sum(axis=0).max() >= 0.2 and turned >= 60.0)


def _unseen(tale: Tale) -> Bool[np.ndarray, " t"]:
    """Return the frames in which no body is to be seen."""
    return np.asarray((_bodies(tale, "visible") <= HIDDEN).all(axis=1))


def _looks_away(tale: Tale) -> bool:
    """Return whether all bodies are gone for the right time, at one stretch, and all are seen in the last four frames."""
    unseen, low = np.flatnonzero(_unseen(tale)), HIDDEN_FRAMES[0]
    at_one_stretch = len(unseen) > 0 and unseen[-1] - unseen[0] + 1 == len(unseen)
    returns = bool((_bodies(tale, "visible")[-4:] >= VISIBLE).all())
    return _stays_outside(tale) and at_one_stretch and returns and low <= len(unseen) <= HIDDEN_FRAMES[1]


def _enters(tale: Tale) -> bool:
    """Return whether the camera stays in the wedge once it is in, for half of the time at least."""
    inside = in_wedge(azimuths_of(tale.states))
    return bool((np.diff(inside.astype(int)) >= 0).all() and inside.sum() >= len(inside) / 2)


# --- rows ------------------------------------------------------------------------------------------------------------


def planar_shift(tales: Sequence[Tale], turn: float) -> UInt8[np.ndarray, "n t h w 3"]:
    """Move the last context frame as if the world were flat: round its middle as the camera orbits, down as it tilts.

    ``turn`` is how far the picture turns for every degree of orbit, about the point that the camera looks at.
    """
    return np.stack([_moved(tale, turn) for tale in tales])


def _moved(tale: Tale, turn: float) -> np.ndarray:
    last = tale.context_frames[-1].astype(np.float32)
    height, width = last.shape[:2]
    focal = height / 2 / math.tan(field_of_view(width / height, HALF_FLOOR) / 2)
    down = focal * np.tan(element(tale.states, "camera/tilt").astype(np.float64))
    middle, frames = np.array([height - 1, width - 1, 0.0]) / 2, []
    for angle, rows_down in zip(np.radians(turn * turned_deg(tale)), down, strict=True):
        sine, cosine = math.sin(angle), math.cos(angle)
        back = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])  # of (row, column, channel), and backwards
        offset: Any = middle - back @ (middle + np.array([rows_down, 0, 0]))
        frames.append(scipy.ndimage.affine_transform(last, back, offset, order=1, mode="nearest"))
    return np.stack(frames).round().astype(np.uint8)


# --- the families ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Views(Family):
    """One way of looking at a scene from several sides."""

    code: str
    title: str
    draw: Draw
    """Draws the script of a scene, or None where it does not fit on the floor."""
    holds: Callable[[Tale], bool]
    """Says whether what the family is named for happens in a tale."""
    picture_turn: float
    """Degrees by which a flat picture is turned for every degree of orbit: what suits dev scenes best (steps of .1)."""
    at_rest: bool = True
    loops: bool = False
    """Whether the camera comes back; then a second tale shows what it would see had it stood still."""
    inside: bool = False
    """Whether the frames from within the held-out wedge count, and not those from outside."""
    hides: bool = False
    """Whether the bodies are out of sight for a while."""
    claim: ClassVar[str] = "3D consistency"
    error = ERROR
    measures = MEASURES
    gate: ClassVar[tuple[str, float, float] | None] = ("obedience gain", 0.8, 1.2)

    def scene(self, env: gym.Env[Any, Any], split: str, index: int) -> Scene:
        """Return scene ``index`` of a split as it happened; the first draw whose event takes place counts."""

        def attempt(rng: np.random.Generator, seed: int) -> Scene | None:
            script = self.draw(rng, seed)
            tale = None if script is None else rehearse(env, script)
            if script is None or tale is None or not self._fits(tale):
                return None
            still = dataclasses.replace(script, actions=np.zeros_like(script.actions))
            return (drawn(env, tale), play(env, still)) if self.loops else (drawn(env, tale),)

        return first_that(self.code, split, index, attempt)

    def _fits(self, tale: Tale) -> bool:
        """Return whether all bodies are seen when the actions begin, rest where they should, and the event happens."""
        present = body_slots(tale.context_states[-1], "present") > 0.5
        if (body_slots(tale.context_states[-1], "visible")[present] < CLEARLY_SEEN).any():
            return False
        at_rest = all(np.ptp(_bodies(tale, axis), axis=0).max() < 1e-3 for axis in "xy")
        return (at_rest or not self.at_rest) and self.holds(tale)

    def counted(self, scenes: Sequence[Scene]) -> Bool[np.ndarray, "n t"]:
        """Return the frames that count: those seen from outside the held-out wedge, or from within."""
        return in_wedge(np.stack([azimuths_of(scene[0].states) for scene in scenes])) == self.inside

    def score(self, scenes: Sequence[Scene], frames: UInt8[np.ndarray, "n m t h w 3"], reader: Reader) -> Scores:
        """Score a row: tracking error, obedience of the camera, and agreement of the views with truth and each other."""
        return score(scenes, frames, reader, counted=self.counted(scenes), at_rest=self.at_rest)

    def describe(self, scene: Scene) -> str:
        """Say from where to where the camera goes, and when the bodies are out of sight."""
        turned = turned_deg(scene[0])
        first, end = self.hidden(scene)
        unseen = f", bodies unseen in {first + 1}-{end}" if end else ""
        way = f"{scene[0].script.azimuth_deg:.0f} deg, turned by {turned.min():.0f} to {turned.max():.0f}"
        return f"{self.title}; camera at {way}{unseen}"

    def hidden(self, scene: Scene) -> tuple[int, int]:
        """Return the frames in which no body is to be seen."""
        unseen = np.flatnonzero(_unseen(scene[0]))
        return (int(unseen[0]), int(unseen[-1]) + 1) if len(unseen) else (0, 0)

    def trivial(self, scenes: Sequence[Scene], painter: Painter) -> Mapping[str, UInt8[np.ndarray, "n m t h w 3"]]:
        """Return the trivial rows: copying, moving the last frame as a flat picture, and forgetting what was hidden."""
        makers = {"copy last": rows.copy_last, "planar shift": functools.partial(planar_shift, turn=self.picture_turn)}
        if self.hides:
            makers["deleted"] = functools.partial(rows.deleted, painter=painter)
        return each_tale(scenes, lambda tales: {name: make(tales) for name, make in makers.items()})


VIEWS: tuple[Views, ...] = (
    Views(
        code="P2a",
        title="the camera goes full circle",
        draw=circle(24),
        picture_turn=1.0,
        holds=_comes_back,
        loops=True,
    ),
    Views(
        code="P2b",
        title="the camera goes there and back",
        draw=there_and_back(26),
        picture_turn=0.6,
        holds=_out_and_back,
        loops=True,
    ),
    Views(
        code="P2c",
        title="the camera turns while bodies move",
        draw=to_and_fro(24),
        picture_turn=0.5,
        holds=_moves,
        at_rest=False,
    ),
    Views(
        code="P2d",
        title="the camera turns while it looks away",
        draw=looking_away(26),
        picture_turn=0.6,
        holds=_looks_away,
        hides=True,
    ),
    Views(
        code="P2e",
        title="the camera turns into the held-out wedge",
        draw=into_wedge(24),
        picture_turn=0.7,
        holds=_enters,
        inside=True,
    ),
)
