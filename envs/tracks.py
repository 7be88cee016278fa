"""Tracks: how one control of the Arena moves through an episode, decided in advance and from chance alone.

A track returns the rates of one action dimension (the pusher's: of two). It may know the initial scene, in order to
aim, but never reacts to what happens: every recorded effect has a cause that was drawn at random. Knows no physics
engine, no renderer and no file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Float64

from worldsim.envs.camera import TILT_STOP
from worldsim.envs.controls import CURTAIN_STEP, ORBIT_STEP, TILT_STEP
from worldsim.envs.factors import HELD_OUT_WEDGE
from worldsim.envs.state import body_slots, element

WEDGE_MARGIN_DEG = 1.0  # orbits turn back this far before the held-out wedge


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What a track may know: the scene at the end of the lead-in (m, m/s, degrees), one row per body present."""

    bodies: Float64[np.ndarray, "n 2"]
    velocities: Float64[np.ndarray, "n 2"]
    damping: float
    pusher: Float64[np.ndarray, " 2"]
    azimuth_deg: float


def facts_of(state: Float32[np.ndarray, " s"], damping: float) -> Facts:
    """Read the facts from the named state."""
    present = body_slots(state, "present") > 0.5
    place, velocity = (
        np.stack([body_slots(state, name)[present] for name in names], axis=1).astype(np.float64)
        for names in (("x", "y"), ("vx", "vy"))
    )
    azimuth = math.atan2(float(element(state, "camera/azimuth_sin")), float(element(state, "camera/azimuth_cos")))
    pusher = np.array([element(state, "pusher/x"), element(state, "pusher/y")], np.float64)
    return Facts(
        bodies=place, velocities=velocity, damping=damping, pusher=pusher, azimuth_deg=math.degrees(azimuth) % 360.0
    )


Rates = Float64[np.ndarray, " steps"]
Track = Callable[[np.random.Generator, int], Rates]


def _sign(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def none(rng: np.random.Generator, steps: int) -> Rates:
    """Leave the control alone."""
    del rng
    return np.zeros(steps)


def _pieces(steps: int, pieces: list[tuple[int, float]]) -> Rates:
    """Lay (duration, rate) pieces one after the other, cut off or padded with rest to ``steps``."""
    rates = np.concatenate([np.full(duration, rate) for duration, rate in pieces] or [np.zeros(0)])[:steps]
    return np.pad(rates, (0, steps - len(rates)))


def _holding(rng: np.random.Generator, steps: int, durations: tuple[int, int], rate: Callable[[], float]) -> Rates:
    """Hold what ``rate`` draws for a shortest to a longest number of steps each, again and again."""
    shortest, longest = durations
    return _pieces(steps, [(int(rng.integers(shortest, longest + 1)), rate()) for _ in range(steps)])


def drift(rng: np.random.Generator, steps: int) -> Rates:
    """Hold random rates, three in ten of them rest, for 3 to 14 steps each."""
    return _holding(rng, steps, (3, 14), lambda: 0.0 if rng.random() < 0.3 else rng.uniform(-1, 1))


def fidget(rng: np.random.Generator, steps: int) -> Rates:
    """Hold random rates, one in five of them rest, for 1 to 4 steps each: too short for the last frames to tell the next."""
    return _holding(rng, steps, (1, 4), lambda: 0.0 if rng.random() < 0.2 else rng.uniform(-1, 1))


# --- orbit -----------------------------------------------------------------------------------------------------------


def orbit_constant(rng: np.random.Generator, steps: int) -> Rates:
    """Turn at one rate from some moment to another."""
    rate = _sign(rng) * rng.uniform(0.1, 1)
    return _pieces(steps, [(int(rng.integers(0, 12)), 0.0), (int(rng.integers(8, 60)), rate)])


def orbit_there_and_back(rng: np.random.Generator, steps: int) -> Rates:
    """Turn away, wait, and turn back by exactly as much, more than once if there is time."""
    pieces: list[tuple[int, float]] = [(int(rng.integers(0, 8)), 0.0)]
    while sum(duration for duration, _ in pieces) < steps:
        away, rate = int(rng.integers(3, 17)), _sign(rng) * rng.uniform(0.2, 1)
        pieces += [(away, rate), (int(rng.integers(0, 9)), 0.0), (away, -rate), (int(rng.integers(2, 9)), 0.0)]
    return _pieces(steps, pieces)


def outside_wedge(rates: Rates, azimuth_deg: float) -> Rates:
    """Turn back whatever would carry the camera into the held-out wedge: the orbit is reflected at its border."""
    low, high = HELD_OUT_WEDGE
    room_up = max(0.0, (low - azimuth_deg) % 360.0 - WEDGE_MARGIN_DEG)
    room_down = max(0.0, (azimuth_deg - high) % 360.0 - WEDGE_MARGIN_DEG)
    result, turned, way = np.zeros_like(rates), 0.0, 1.0
    for t, rate in enumerate(rates.tolist()):
        if not -room_down <= turned + way * rate * ORBIT_STEP <= room_up:
            way = -way
        turned += way * rate * ORBIT_STEP
        result[t] = way * rate
    return result


# --- tilt and curtain: between two stops ------------------------------------------------------------------------------


def look_away(rng: np.random.Generator, steps: int) -> Rates:
    """Tilt up until the floor is out of sight, wait, and come back; again if there is time."""
    full = TILT_STOP / TILT_STEP
    return _excursions(rng, steps, full=full, waits=(2, 12), extents=(0.85, 1.3), slowest=0.35)


def glance(rng: np.random.Generator, steps: int) -> Rates:
    """Tilt up a little and come back, at various rates."""
    full = TILT_STOP / TILT_STEP
    return _excursions(rng, steps, full=full, waits=(0, 8), extents=(0.08, 0.6), slowest=0.08)


def curtain_up_and_down(rng: np.random.Generator, steps: int) -> Rates:
    """Raise the curtain, wait so that what is behind it stays hidden 4 to 16 frames, and lower it; again if possible."""
    return _excursions(rng, steps, full=1.0 / CURTAIN_STEP, waits=(2, 13), extents=(0.75, 1.5), slowest=0.35)


def curtain_partly(rng: np.random.Generator, steps: int) -> Rates:
    """Raise the curtain to some height and lower it, at various rates."""
    return _excursions(rng, steps, full=1.0 / CURTAIN_STEP, waits=(1, 10), extents=(0.25, 1.0), slowest=0.2)


def curtain_twitch(rng: np.random.Generator, steps: int) -> Rates:
    """Raise the curtain a little, let it fall at once, and again: how it begins to rise is in few frames of other recordings."""
    pieces: list[tuple[int, float]] = []
    for _ in range(steps):
        up, down = int(rng.integers(1, 3)), int(rng.integers(1, 4))
        pieces += [(int(rng.integers(0, 3)), 0.0), (up, rng.uniform(0.3, 1)), (down, -rng.uniform(0.5, 1))]
    return _pieces(steps, pieces)


def tilt_fidget(rng: np.random.Generator, steps: int) -> Rates:
    """Tilt to one height after another, most of the floor in sight, for 1 to 4 steps each."""
    return _between(rng, steps, full=0.5 * TILT_STOP / TILT_STEP)


def curtain_fidget(rng: np.random.Generator, steps: int) -> Rates:
    """Move the curtain to one height after another, for 1 to 4 steps each."""
    return _between(rng, steps, full=1.0 / CURTAIN_STEP)


def mostly_down(rng: np.random.Generator, steps: int) -> Rates:
    """Hold random rates, two in three of them downwards, for 1 to 4 steps each, also where the lower stop holds against them."""
    return _holding(rng, steps, (1, 4), lambda: rng.uniform(-1, 0.5))


def _between(rng: np.random.Generator, steps: int, *, full: float) -> Rates:
    """Go to random places between a stop and ``full`` (steps at rate 1 away from it), as near as time allows, or rest."""
    pieces: list[tuple[int, float]] = []
    place = 0.0
    for _ in range(steps):
        duration = int(rng.integers(1, 5))
        rate = 0.0 if rng.random() < 0.2 else float(np.clip((rng.uniform(0, full) - place) / duration, -1, 1))
        place += duration * rate
        pieces.append((duration, rate))
    return _pieces(steps, pieces)


def _excursions(
    rng: np.random.Generator,
    steps: int,
    *,
    full: float,
    waits: tuple[int, int],
    extents: tuple[float, float],
    slowest: float,
) -> Rates:
    """Go out by a share of the whole way (``full`` steps at rate 1), wait, come back, rest; until time is up.

    A share above 1 presses against the stops, at which nothing moves whatever the rate.
    """
    pieces: list[tuple[int, float]] = [(int(rng.integers(0, 13)), 0.0)]
    while sum(duration for duration, _ in pieces) < steps:
        way = full * rng.uniform(*extents)
        for direction in (1.0, -1.0):
            duration = math.ceil(way / rng.uniform(slowest, 1.0))
            wait = rng.integers(waits[0], waits[1] + 1) if direction > 0 else rng.integers(3, 16)
            pieces += [(duration, direction * way / duration), (int(wait), 0.0)]
    return _pieces(steps, pieces)
