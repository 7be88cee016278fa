"""Policies see observations and return actions; nothing else passes between an agent and its world."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.spaces import Box

from worldsim.agents import Policy, RandomPolicy, ScriptedPolicy
from worldsim.errors import UsageError

SPACE = Box(np.array([-1, 0], np.float32), np.array([1, 0.5], np.float32))
FRAME = np.zeros((4, 4, 3), np.uint8)


def play(policy: Policy, seed: int, num_steps: int) -> np.ndarray:
    policy.reset(seed)
    return np.stack([policy.act(FRAME) for _ in range(num_steps)])


def test_random_actions_depend_on_the_seed_alone_and_fill_the_space() -> None:
    """The same seed gives the same actions, another one others, all of them inside the bounds and all over them."""
    policy = RandomPolicy(SPACE)
    actions = play(policy, 1, 200)
    np.testing.assert_array_equal(play(policy, 1, 200), actions)
    assert (play(policy, 2, 200) != actions).any()
    assert all(SPACE.contains(action) for action in actions)
    np.testing.assert_allclose(actions.min(axis=0), SPACE.low, atol=0.05)
    np.testing.assert_allclose(actions.max(axis=0), SPACE.high, atol=0.05)


def test_random_actions_can_be_held() -> None:
    """hold_steps repeats each action that many times, from the first step of every episode."""
    policy = RandomPolicy(SPACE, hold_steps=3)
    actions = play(policy, 0, 9)
    np.testing.assert_array_equal(actions, np.repeat(actions[::3], 3, axis=0))
    assert len(np.unique(actions[:, 0])) == 3
    policy.act(FRAME)
    np.testing.assert_array_equal(play(policy, 0, 9), actions)
    with pytest.raises(UsageError, match="hold_steps"):
        RandomPolicy(SPACE, hold_steps=0)


def test_a_script_plays_its_rows_and_then_says_that_it_is_over() -> None:
    """Every episode plays the same rows, which the caller cannot change afterwards; a step too many is an error."""
    script = np.random.default_rng(0).uniform(-1, 1, (3, 2)).astype(np.float32)
    wanted, policy = script.copy(), ScriptedPolicy(script)
    script[:] = 0
    np.testing.assert_array_equal(play(policy, 0, 3), wanted)
    np.testing.assert_array_equal(play(policy, 5, 3), wanted)
    with pytest.raises(UsageError, match="3 steps"):
        policy.act(FRAME)


def test_both_are_policies() -> None:
    """The classes fulfil the protocol that environments' users code against."""
    assert isinstance(RandomPolicy(SPACE), Policy)
    assert isinstance(ScriptedPolicy(np.zeros((1, 2), np.float32)), Policy)
