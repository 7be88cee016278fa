"""Actions of every kind as rows and back, in the true world and in dreams of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from worldsim.checkpoint import Checkpoint, build
from worldsim.config import ModelConfig
from worldsim.envs.actions import ChoiceActionWrapper, FlatActions, FlatActionWrapper
from worldsim.envs.dream import DreamEnv, DreamVectorEnv
from worldsim.errors import UsageError
from worldsim.spec import WorldSpec
from worldsim.world_model import WorldModel

SPACES = [
    Discrete(3, start=-1),
    MultiDiscrete([2, 3], start=[0, 5]),
    MultiDiscrete(np.array([[2, 3], [4, 2]])),
    MultiBinary([2, 2]),
    Box(-1, 3, (2, 2), np.float64),
    Box(-2, 5, (3,), np.int16),
]
CONFIG = ModelConfig(
    width=32, depth=1, heads=1, patch=8, stem_channels=8, head_blocks=1, cond_width=16, readout_width=16, window=4
)


def dream_of(*choices: int) -> WorldModel:
    """Return an untrained model of a world of choices, lively enough that every action shows."""
    count = sum(choices)
    spec = WorldSpec(
        env_id="test/Chosen-v0",
        frame_shape=(16, 16, 3),
        action_names=tuple(f"a{k}" for k in range(count)),
        action_low=(0.0,) * count,
        action_high=(1.0,) * count,
        frame_rate_hz=10.0,
        context_steps=1,
        action_choices=choices,
    )
    torch.manual_seed(0)
    denoiser = build(CONFIG, spec)
    for name, parameter in denoiser.named_parameters():
        if any(part in name for part in ("modulation", "out.weight", "action")):
            parameter.data.mul_(8)
    made = Checkpoint(model=CONFIG, world=spec, weights=denoiser.state_dict(), sampler_steps=1)
    return WorldModel(made, dtype=torch.float32)


def begin(env: gym.Env[Any, Any]) -> None:
    """Begin a dream from given frames."""
    rows = np.random.default_rng(0)
    dream = env.unwrapped
    assert isinstance(dream, DreamEnv)
    width = dream.model.spec.action_dim
    frames = rows.integers(0, 256, (2, 16, 16, 3), np.uint8)
    env.reset(seed=0, options={"frames": frames, "actions": np.zeros((1, width), np.float32)})


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_rows_and_back(space: gym.Space) -> None:
    """A row stands for the very action it was made of, lies within its bounds, and random rows reach everything."""
    rule = FlatActions.of_space(space)
    space.seed(0)
    actions = [space.sample() for _ in range(40)]
    rows = rule.rows(np.stack([np.asarray(action) for action in actions]), "test")
    box = Box(np.asarray(rule.low, np.float32), np.asarray(rule.high, np.float32))
    assert len(rule.names) == len(set(rule.names)) == box.shape[0]
    for action, row in zip(actions, rows, strict=True):
        assert box.contains(row)
        again = rule.native(row, space)
        assert space.contains(again), (again, action)
        np.testing.assert_allclose(np.asarray(again, np.float64), np.asarray(action, np.float64), rtol=1e-6)
    rng = np.random.default_rng(1)
    drawn = np.stack([rule.draw(rng) for _ in range(200)])
    assert all(box.contains(row) and space.contains(rule.native(row, space)) for row in drawn)
    reach = np.asarray(rule.high) - np.asarray(rule.low)
    assert np.all(drawn.max(0) - drawn.min(0) >= 0.9 * reach)


@pytest.mark.parametrize(
    "space", [Box(-np.inf, 1, (2,)), gym.spaces.Dict(a=Discrete(2)), gym.spaces.Text(3), Box(0, 1, (0,))]
)
def test_what_has_no_rows_is_refused(space: gym.Space) -> None:
    """Nested actions, words, and amounts without bounds: one paragraph that says what is allowed."""
    with pytest.raises(UsageError, match=r"action space.*MultiBinary.*wrap"):
        FlatActions.of_space(space)


class Keypad(gym.Env[np.ndarray, np.ndarray]):
    """A world that remembers what it was asked to do."""

    def __init__(self) -> None:
        self.observation_space = Box(0, 255, (16, 16, 3), np.uint8)
        self.action_space = MultiDiscrete([2, 3])

    def step(self, action: np.ndarray) -> Any:
        """Take the action."""
        self.taken = action
        return np.zeros((16, 16, 3), np.uint8), 0.0, False, False, {}


def test_what_a_planner_proposes_can_be_done() -> None:
    """The wrapped world takes any row within its bounds, also one between two choices: the greater number wins."""
    env = Keypad()
    wrapped = FlatActionWrapper(env)
    wrapped.step(np.array([0.2, 0.7, 0.3, 0.1, 0.31], np.float32))
    np.testing.assert_array_equal(env.taken, [1, 2])
    assert wrapped.action_space == Box(0, 1, (5,), np.float32)


def test_a_dream_takes_what_the_world_would_take() -> None:
    """Of every choice a dream takes the greatest and of every switch one side, so that truth and dream hear the same."""
    spec = dream_of(2, 3, 1).spec
    rows = np.array([[0.2, 0.7, 0.3, 0.1, 0.31, 0.5], [0, 0, 0, 0, 0, 0.49]], np.float32)
    np.testing.assert_array_equal(spec.decided(rows), [[0, 1, 0, 0, 1, 1], [1, 0, 1, 0, 0, 0]])
    amounts = dataclasses.replace(spec, action_choices=())
    assert amounts.decided(rows) is rows
    with pytest.raises(UsageError, match="action_choices"):
        dataclasses.replace(spec, action_choices=(2, 3))
    dreams = DreamVectorEnv(3, dream_of(2, 3, 1))
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    dreams.reset(seed=[5, 5, 5], options={"frames": frames, "actions": np.zeros((1, 6), np.float32)})
    seen, *_ = dreams.step(np.stack([rows[0], spec.decided(rows[0]), spec.decided(rows[1])]))
    np.testing.assert_array_equal(seen[0], seen[1])
    assert np.any(seen[0] != seen[2])


@pytest.mark.parametrize(
    ("choices", "space"), [((3,), Discrete(3)), ((2, 3), MultiDiscrete([2, 3])), ((1, 1), MultiBinary(2))]
)
def test_agents_may_choose_by_number(choices: tuple[int, ...], space: gym.Space) -> None:
    """A dream of a world of choices steps under a discrete space too."""
    env = ChoiceActionWrapper(DreamEnv(dream_of(*choices)))
    assert env.action_space == space
    begin(env)
    env.action_space.seed(1)
    for _ in range(3):
        frame, reward, *_ = env.step(env.action_space.sample())
        assert env.observation_space.contains(frame) and np.isfinite(float(reward))
    row = env.action(space.sample())
    np.testing.assert_array_equal(row, dream_of(*choices).spec.decided(row))


def test_amounts_are_left_as_they_are() -> None:
    """Who asks for choices where there are none is told so."""
    with pytest.raises(UsageError, match="amounts"):
        ChoiceActionWrapper(DreamEnv("arena-small"))
