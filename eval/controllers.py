"""Hand-written policies for the Arena: one that does not look, and graded ones that steer by the named state."""

from __future__ import annotations

import dataclasses
import math
from collections import deque

import numpy as np
from jaxtyping import Float32

from worldsim.agents import Context, Policy
from worldsim.envs.camera import ground_axes
from worldsim.envs.controls import ACTION_NAMES, PUSH_SPEED
from worldsim.envs.scene import PUSHER_RADIUS
from worldsim.envs.state import element
from worldsim.envs.tasks import target_element
from worldsim.errors import UsageError

SWEEP = ((0, 1, 8), (1, 0, 8), (0, -1, 16), (-1, 0, 16), (0, 1, 16), (1, 0, 16), (-1, -1, 12))
"""Legs (right, forward, steps) of the blind tour: growing turns about where the pusher began."""
_BEHIND = 0.05  # m that the pusher stands off the target before it pushes
_REACHED = 0.05  # m at which a place counts as reached
_CLEAR = 0.05  # m by which the way round the target keeps clear of it


def blind_sweep() -> Float32[np.ndarray, "t a"]:
    """Return the actions of a tour of the floor that is the same whatever is seen: the script to beat."""
    legs = [
        np.repeat(np.array([[right, forward, 0, 0, 0]], np.float32), steps, axis=0) for right, forward, steps in SWEEP
    ]
    return np.concatenate(legs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grade:
    """How good a controller is: each field takes something away from the best."""

    task: str = "push"
    noise: float = 0.0
    """Share of the action that is random."""
    gain: float = 1.0
    """Factor on the action; negative flees."""
    delay: int = 0
    """Steps by which what it acts on is old."""


class StateController:
    """Steers the pusher by the named state: at the target (`reach`), or behind it and through the middle (`push`)."""

    observes = "state"

    def __init__(self, grade: Grade) -> None:
        if grade.task not in ("push", "reach"):
            raise UsageError("task", got=repr(grade.task), allowed="push, reach", fix="push")
        self.grade = grade
        self.reset(0)

    def reset(self, seed: int, context: Context | None = None) -> None:
        """Begin an episode: forget what was seen."""
        self._rng = np.random.default_rng(seed)
        self._seen: deque[np.ndarray] = deque(maxlen=self.grade.delay + 1)

    def act(self, observation: np.ndarray) -> Float32[np.ndarray, " a"]:
        """Return the action for a named state (90,)."""
        self._seen.append(observation)
        wanted = steer(self._seen[0], self.grade.task)
        noise = self._rng.uniform(-1, 1, 2)
        push = self.grade.gain * wanted * (1 - self.grade.noise) + self.grade.noise * noise
        action = np.zeros(len(ACTION_NAMES), np.float32)
        action[:2] = np.clip(push, -1, 1)
        return action


def steer(state: Float32[np.ndarray, " s"], task: str) -> np.ndarray:
    """Return the push (right, forward; -1 .. 1) of the best hand-written controller in a state."""
    pusher = np.array([element(state, "pusher/x"), element(state, "pusher/y")], float)
    target = np.array([target_element(state, "x"), target_element(state, "y")], float)
    radius = max(float(target_element(state, "radius")), 0.05)
    goal = target if task == "reach" else _push_goal(pusher, target, radius)
    azimuth = math.degrees(math.atan2(element(state, "camera/azimuth_sin"), element(state, "camera/azimuth_cos")))
    way = ground_axes(azimuth) @ (goal - pusher)
    step = PUSH_SPEED / 10
    return way / max(float(np.linalg.norm(way)), step)


def _push_goal(pusher: np.ndarray, target: np.ndarray, radius: float) -> np.ndarray:
    """Return where the pusher should go: behind the target as seen from the middle, round it if need be, then through."""
    outward = target / max(float(np.linalg.norm(target)), 1e-6)
    gap = radius + PUSHER_RADIUS
    behind = target + outward * (gap + _BEHIND)
    offset = pusher - target
    along = float(offset @ outward)
    aside = offset - along * outward
    if along > 0 and np.linalg.norm(aside) < _REACHED:
        return target - outward * gap  # through the target, towards the middle
    if along < gap and np.linalg.norm(aside) < gap + _CLEAR:  # in front: go round
        left = np.array([-outward[1], outward[0]])
        side = left if float(aside @ left) >= 0 else -left
        return target + side * (gap + 2 * _CLEAR) + outward * along
    return behind


def graded(task: str) -> dict[str, Policy]:
    """Return policies of a task from good to bad: gains, delays and noise."""
    grades = {"best": Grade(task=task)}
    grades |= {f"noise {noise:.1f}": Grade(task=task, noise=noise) for noise in (0.2, 0.4, 0.6, 0.8, 1.0)}
    grades |= {f"gain {gain:.2f}": Grade(task=task, gain=gain) for gain in (0.75, 0.5, 0.25, -0.5)}
    grades |= {f"delay {delay}": Grade(task=task, delay=delay) for delay in (3, 6, 10)}
    return {name: StateController(grade) for name, grade in grades.items()}
