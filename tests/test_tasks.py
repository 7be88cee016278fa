"""The tasks are pure functions of the named state: they score a truth, a batch and a dream alike."""

from __future__ import annotations

import numpy as np
import pytest

from worldsim.envs.scene import COLOURS, PUSHER_RADIUS
from worldsim.envs.state import STATE_NAMES, STATE_SIZE, STATE_UNITS, body_slots, element, pack_state
from worldsim.envs.tasks import GOAL_RADIUS, TASKS, target_element, tolerance
from worldsim.errors import UsageError


def _state(**places: float) -> np.ndarray:
    """Return a state with a green sphere and, after it in palette order, a cyan box."""
    bodies = {
        "green/present": 1, "green/sphere": 1, "green/radius": 0.09, "green/x": 0.4, "green/visible": 0.2,
        "cyan/present": 1, "cyan/box": 1, "cyan/radius": 0.1, "cyan/x": -0.5, "cyan/visible": 0.9,
        "pusher/y": 0.6,
    }  # fmt: skip
    return pack_state(bodies | {name.replace("__", "/"): value for name, value in places.items()})


def test_every_state_element_has_one_name_and_a_unit() -> None:
    """The names are unique, each has a unit, and the vector stays within 110 elements."""
    assert len(set(STATE_NAMES)) == len(STATE_UNITS) == STATE_SIZE <= 110
    assert set(STATE_UNITS) == {"1", "m", "m/s", "rad"}


def test_slots_and_elements_agree() -> None:
    """The six slots of an element are the elements of the six colours, in palette order."""
    state = np.arange(STATE_SIZE, dtype=np.float32)
    for name in ("present", "vy", "visible"):
        single = [element(state, f"{colour}/{name}") for colour in COLOURS]
        assert body_slots(state, name).tolist() == single


def test_unknown_element_names_the_closest() -> None:
    """A misspelt element is refused with the right name."""
    with pytest.raises(UsageError, match="pusher/x"):
        element(_state(), "puscher/x")


def test_target_is_the_first_present_colour() -> None:
    """The target is the present body that comes first in palette order, whoever else is there."""
    assert target_element(_state(), "x") == pytest.approx(0.4)
    assert target_element(_state(red__present=1, red__x=0.1), "x") == pytest.approx(0.1)


def test_push_is_met_within_the_goal_only() -> None:
    """Push ends exactly where the target's middle is inside the goal, and its reward falls with distance."""
    task = TASKS["push"]
    inside, outside = _state(green__x=GOAL_RADIUS - 0.01), _state(green__x=GOAL_RADIUS + 0.01)
    assert task.terminated(inside) and not task.terminated(outside)
    assert task.reward(inside) == 1
    rewards = [float(task.reward(_state(green__x=x))) for x in (0.1, 0.3, 0.5, 0.7)]
    assert rewards == sorted(rewards, reverse=True) and 0 < rewards[-1] < 0.3


@pytest.mark.parametrize(("shape", "corner_touches"), [("sphere", False), ("box", True)])
def test_reach_measures_between_surfaces(shape: str, corner_touches: bool) -> None:
    """Reach ends where surfaces touch: a box reaches farther along its diagonal than a sphere of the same width."""
    task = TASKS["reach"]
    form = {"green__sphere": 0.0, f"green__{shape}": 1.0}
    gap = 0.09 + PUSHER_RADIUS + 0.005
    assert task.terminated(_state(**form, pusher__x=0.4 - gap, pusher__y=0.0))
    assert not task.terminated(_state(**form, pusher__x=0.4 - gap - 0.02, pusher__y=0.0))
    aside = 0.09 + PUSHER_RADIUS * 0.7
    assert bool(task.terminated(_state(**form, pusher__x=0.4 - aside, pusher__y=aside))) is corner_touches


def test_uncover_is_met_at_half_visible() -> None:
    """Uncover ends when half of the target is seen, and pays in proportion before; others' visibility is ignored."""
    task = TASKS["uncover"]
    assert not task.terminated(_state(green__visible=0.49)) and task.terminated(_state(green__visible=0.5))
    assert task.reward(_state(green__visible=0.2)) == pytest.approx(0.4)
    assert task.can_start(_state(green__visible=0.0)) and not task.can_start(_state(green__visible=0.3))


@pytest.mark.parametrize("name", sorted(TASKS))
def test_tasks_take_any_leading_axes(name: str) -> None:
    """A batch is scored as its members are, and rewards stay in [0, 1] on states that no scene could have."""
    task = TASKS[name]
    states = np.random.default_rng(0).normal(0, 2, (3, 4, STATE_SIZE)).astype(np.float32)
    rewards, ends = task.reward(states), task.terminated(states)
    assert rewards.shape == ends.shape == (3, 4)
    assert rewards.dtype == np.float32 and ends.dtype == bool
    assert (rewards >= 0).all() and (rewards <= 1).all()
    for index in np.ndindex(3, 4):
        assert rewards[index] == pytest.approx(float(task.reward(states[index])))
        assert ends[index] == task.terminated(states[index])


@pytest.mark.parametrize("name", sorted(TASKS))
def test_without_a_body_nothing_is_earned(name: str) -> None:
    """A dream that lost every body earns nothing and reaches no goal (absence is never a goal at the origin)."""
    empty = np.zeros(STATE_SIZE, np.float32)
    assert TASKS[name].reward(empty) == 0 and not TASKS[name].terminated(empty)


def test_tolerance_is_one_inside_and_a_tenth_at_the_margin() -> None:
    """The soft indicator is 1 up to its bound and .1 one margin beyond it."""
    assert tolerance(np.array([0.0, 0.1, 0.4]), 0.1, 0.3) == pytest.approx([1, 1, 0.1])
