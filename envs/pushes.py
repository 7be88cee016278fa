"""Pushes: where the pusher is sent through an episode, decided in advance. Knows no physics engine and no renderer.

The pusher is steered as seen by the camera, so a plan that aims must know the planned azimuth of every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

from worldsim.envs.camera import ground_axes
from worldsim.envs.controls import CONTROL_DT_S, PUSH_SPEED
from worldsim.envs.scene import HALF_FLOOR, PUSHER_RADIUS
from worldsim.envs.tracks import Facts, fidget

Pushes = Float64[np.ndarray, "steps 2"]
PushTrack = Callable[[np.random.Generator, Facts, Float64[np.ndarray, " steps"]], Pushes]

REACH = HALF_FLOOR - PUSHER_RADIUS  # how far from the centre the pusher can go along each axis
BODY_RADIUS = 0.09


def rest(rng: np.random.Generator, facts: Facts, azimuths_deg: Float64[np.ndarray, " steps"]) -> Pushes:
    """Leave the pusher alone."""
    del rng, facts
    return np.zeros((len(azimuths_deg), 2))


def wander(rng: np.random.Generator, facts: Facts, azimuths_deg: Float64[np.ndarray, " steps"]) -> Pushes:
    """Hold random directions (as the camera sees them) and speeds for 3 to 14 steps each, one in five a rest.

    Half of the directions lead to a random point of the floor, so that the pusher does not stay at the walls.
    """
    walk = _Walk(facts, azimuths_deg)
    while walk.time < len(azimuths_deg):
        duration = int(rng.integers(3, 15))
        if rng.random() < 0.2:
            walk.go(duration, np.zeros(2))
            continue
        speed, angle = rng.uniform(0.15, 1.0), rng.uniform(-math.pi, math.pi)
        if rng.random() < 0.5:
            right, forward = walk.seen(rng.uniform(-REACH, REACH, 2) - walk.place)
            angle = math.atan2(forward, right)
        walk.go(duration, speed * np.array([math.cos(angle), math.sin(angle)]))
    return walk.rates


def fidgeting(rng: np.random.Generator, facts: Facts, azimuths_deg: Float64[np.ndarray, " steps"]) -> Pushes:
    """Push right and forward at random rates that change every few steps, each for itself (`worldsim.envs.tracks.fidget`)."""
    del facts
    return np.stack([fidget(rng, len(azimuths_deg)), fidget(rng, len(azimuths_deg))], axis=1)


def aimed(rng: np.random.Generator, facts: Facts, azimuths_deg: Float64[np.ndarray, " steps"]) -> Pushes:
    """Go for one body after another at random speeds, to hit it or to pass close by, push through and rest.

    A body's place is extrapolated from the initial scene; what the pushes themselves change is not known.
    """
    walk = _Walk(facts, azimuths_deg)
    walk.go(int(rng.integers(0, 10)), np.zeros(2))
    while walk.time < len(azimuths_deg):
        speed = rng.uniform(0.3, 1.0)
        target = int(rng.integers(len(facts.bodies)))
        beside = rng.uniform(-1.6, 1.6) * BODY_RADIUS
        goal, duration = _meeting(facts, target, walk.place, walk.time, speed)
        way = goal - walk.place
        unit = way / max(float(np.linalg.norm(way)), 1e-6)
        way = way + beside * np.array([-unit[1], unit[0]])
        walk.head(duration + int(rng.integers(1, 7)), speed * way / max(float(np.linalg.norm(way)), 1e-6))
        walk.go(int(rng.integers(2, 12)), np.zeros(2))
    return walk.rates


def travelled(seconds: float, damping: float) -> float:
    """Return how far a body of unit speed slides in ``seconds`` when it loses speed at ``damping`` (1/s)."""
    return -math.expm1(-damping * seconds) / damping if damping > 1e-3 else seconds


def folded(
    place: Float64[np.ndarray, "*rows 2"], limit: float
) -> tuple[Float64[np.ndarray, "*rows 2"], Float64[np.ndarray, "*rows 2"]]:
    """Return where a straight path that bounces between walls at +-``limit`` has come to, and the sign its speed has."""
    phase = (place + limit) % (4 * limit)
    back = phase > 2 * limit
    return np.where(back, 3 * limit - phase, phase - limit), np.where(back, -1.0, 1.0)


def _meeting(facts: Facts, target: int, place: np.ndarray, start: int, speed: float) -> tuple[np.ndarray, int]:
    """Return where body ``target`` will be when a pusher of that speed can touch it, and after how many steps."""
    gap = PUSHER_RADIUS + BODY_RADIUS
    for duration in range(1, 41):
        way = travelled((start + duration) * CONTROL_DT_S, facts.damping)
        goal, _ = folded(facts.bodies[target] + way * facts.velocities[target], HALF_FLOOR - BODY_RADIUS)
        if np.linalg.norm(goal - place) - gap <= speed * PUSH_SPEED * CONTROL_DT_S * duration:
            return goal, duration
    return facts.bodies[target], 40


class _Walk:
    """Rates laid down leg by leg, and the place the pusher is thought to have reached (walls are known, bodies not)."""

    def __init__(self, facts: Facts, azimuths_deg: np.ndarray) -> None:
        self.rates = np.zeros((len(azimuths_deg), 2))
        self.place = facts.pusher.copy()
        self.time = 0
        self._azimuths_deg = azimuths_deg

    def seen(self, way: np.ndarray) -> np.ndarray:
        """Return a direction of the floor as (right, forward) of the camera at this moment."""
        return ground_axes(self._azimuths_deg[min(self.time, len(self.rates) - 1)]) @ way

    def go(self, duration: int, rates: np.ndarray) -> None:
        """Hold (right, forward) rates for ``duration`` steps, whatever the camera does meanwhile."""
        for _ in range(min(duration, len(self.rates) - self.time)):
            self._step(rates)

    def head(self, duration: int, velocity: np.ndarray) -> None:
        """Keep a direction of the floor for ``duration`` steps (speed 1 is full), turning against the orbit."""
        for _ in range(min(duration, len(self.rates) - self.time)):
            self._step(self.seen(velocity))

    def _step(self, rates: np.ndarray) -> None:
        velocity = PUSH_SPEED * rates @ ground_axes(self._azimuths_deg[self.time])
        self.rates[self.time] = rates
        self.place = np.clip(self.place + velocity * CONTROL_DT_S, -REACH, REACH)
        self.time += 1
