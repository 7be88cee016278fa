"""The Arena's tasks: reward and termination as pure functions of the named state. Knows no MuJoCo and no environment.

The same functions score the true state and a dream's predicted one, so they take any leading axes and never fail on a
state that no scene could have: a presence of .5 or more counts as present, and without any body nothing is earned.
The target of every task is the present body that comes first in palette order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Float, Float32

from worldsim.envs.scene import PUSHER_RADIUS
from worldsim.envs.state import body_slots, element

GOAL_RADIUS = 0.15  # m from the floor's middle
TOUCH_MARGIN = 0.01  # m between surfaces that still counts as touching
UNCOVERED_SHARE = 0.5  # of the target's projected area
HIDDEN_SHARE = 0.05
_REWARD_REACH = 0.6  # m at which the soft rewards have fallen to `_REWARD_AT_REACH`
_REWARD_AT_REACH = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A goal on the named state: ``measure`` is the quantity it is about, ``is_met`` and ``score`` judge it.

    ``hides_target`` asks the scene for a curtain that rises in the lead-in and hides the target. ``is_fresh`` says
    whether the lead-in may end so.
    """

    name: str
    doc: str
    measure: Callable[[np.ndarray], np.ndarray]
    is_met: Callable[[np.ndarray], np.ndarray]
    score: Callable[[np.ndarray], np.ndarray]
    is_fresh: Callable[[np.ndarray], np.ndarray]
    hides_target: bool = False

    def reward(self, state: Float[np.ndarray, "*rows s"]) -> Float32[np.ndarray, "*rows"]:
        """Return the reward in [0, 1] for being in each state; 0 where there is no body."""
        return np.where(has_target(state), self.score(self.measure(state)), 0.0).astype(np.float32)

    def terminated(self, state: Float[np.ndarray, "*rows s"]) -> Bool[np.ndarray, "*rows"]:
        """Return whether each state reaches the goal."""
        return np.asarray(has_target(state) & self.is_met(self.measure(state)))

    def can_start(self, state: Float[np.ndarray, "*rows s"]) -> Bool[np.ndarray, "*rows"]:
        """Return whether an episode may start in each state: the goal is still to be reached."""
        return np.asarray(self.is_fresh(self.measure(state)))


def tolerance(distance: Float[np.ndarray, "*rows"], bound: float, margin: float) -> Float[np.ndarray, "*rows"]:
    """Return 1 within ``bound``, falling off as a Gaussian to .1 at ``margin`` beyond it (dm_control's `tolerance`)."""
    beyond = np.maximum(np.asarray(distance) - bound, 0.0) / margin
    return np.asarray(np.exp(np.log(_REWARD_AT_REACH) * beyond**2))


def has_target(state: Float[np.ndarray, "*rows s"]) -> Bool[np.ndarray, "*rows"]:
    """Return whether any body is present."""
    return np.asarray((body_slots(state, "present") >= 0.5).any(axis=-1))


def target_slot(state: Float[np.ndarray, "*rows s"]) -> np.ndarray:
    """Return the palette index of the target, 0 where no body is present."""
    return np.asarray(np.argmax(body_slots(state, "present") >= 0.5, axis=-1))


def target_element(state: Float[np.ndarray, "*rows s"], name: str) -> Float[np.ndarray, "*rows"]:
    """Return an element of the target's slot, for example ``target_element(state, "x")``."""
    slot = np.expand_dims(target_slot(state), -1)
    return np.take_along_axis(body_slots(state, name), slot, axis=-1)[..., 0]


def _distance_to_middle(state: np.ndarray) -> np.ndarray:
    """Return the target's distance from the floor's middle in m."""
    return np.asarray(np.hypot(target_element(state, "x"), target_element(state, "y")))


def _distance_to_pusher(state: np.ndarray) -> np.ndarray:
    """Return the clear distance between the surfaces of target and pusher in m."""
    dx = np.abs(target_element(state, "x") - element(state, "pusher/x"))
    dy = np.abs(target_element(state, "y") - element(state, "pusher/y"))
    radius = target_element(state, "radius")
    is_box = target_element(state, "box") >= 0.5
    to_disc = np.hypot(dx, dy) - radius
    to_box = np.hypot(np.maximum(dx - radius, 0.0), np.maximum(dy - radius, 0.0))
    return np.asarray(np.where(is_box, to_box, to_disc) - PUSHER_RADIUS)


def _visible(state: np.ndarray) -> np.ndarray:
    """Return the visible share of the target."""
    return np.asarray(np.clip(target_element(state, "visible"), 0.0, 1.0))


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="push",
            doc="bring the target to the floor's middle",
            measure=_distance_to_middle,
            is_met=lambda distance: distance <= GOAL_RADIUS,
            is_fresh=lambda distance: distance > GOAL_RADIUS,
            score=lambda distance: tolerance(distance, GOAL_RADIUS, _REWARD_REACH),
        ),
        Task(
            name="reach",
            doc="touch the target with the pusher",
            measure=_distance_to_pusher,
            is_met=lambda distance: distance <= TOUCH_MARGIN,
            is_fresh=lambda distance: distance > TOUCH_MARGIN,
            score=lambda distance: tolerance(distance, TOUCH_MARGIN, _REWARD_REACH),
        ),
        Task(
            name="uncover",
            doc="see at least half of the target, which the risen curtain hides at first",
            measure=_visible,
            is_met=lambda share: share >= UNCOVERED_SHARE,
            is_fresh=lambda share: share <= HIDDEN_SHARE,
            score=lambda share: np.minimum(share / UNCOVERED_SHARE, 1.0),
            hides_target=True,
        ),
    )
}
