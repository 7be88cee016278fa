"""Planners: in a toy world that can be forked, in a dream, and on the true Arena."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from worldsim.agents import Policy
from worldsim.agents.gradient import GradientPlanner
from worldsim.agents.imagination import Imagined, imagine
from worldsim.agents.objectives import GoalImage, Return, StateGoal, settle
from worldsim.agents.planner import Planner, PlanSettings
from worldsim.agents.search import CEMPlanner, ICEMPlanner, MPPIPlanner, RandomShooting, coloured_noise
from worldsim.envs.dream import DreamEnv
from worldsim.errors import UsageError
from worldsim.eval.lab import arena_world
from worldsim.world_model import untrained

SAMPLERS = [RandomShooting, CEMPlanner, ICEMPlanner, MPPIPlanner]
FRAME = np.zeros((4, 4, 3), np.uint8)
SHORT = PlanSettings(horizon=3, candidates=3, iterations=2, hold=1, replan=2)


class Points(VectorEnv):
    """Points on a plane that move by a tenth of their action and are paid for being near (.5, -.5)."""

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 - Gymnasium's own type

    def __init__(self, places: np.ndarray, worth: float = 1.0) -> None:
        self.places, self.num_envs, self.worth = places.copy(), len(places), worth
        self.single_observation_space = Box(0, 255, FRAME.shape, np.uint8)
        self.single_action_space = Box(np.array([-1, -2], np.float32), np.array([1, 2], np.float32))
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def step(self, actions: np.ndarray):
        """Move all points."""
        assert self.action_space.contains(actions)
        self.places = self.places + 0.1 * actions
        away = np.linalg.norm(self.places - [0.5, -0.5], axis=1)
        frames = np.zeros((self.num_envs, *FRAME.shape), np.uint8)
        done = away < 0.05
        info = {"place": self.places.astype(np.float32), "_place": np.ones(self.num_envs, bool)}
        return frames, self.worth * (1 - away), done, np.zeros(self.num_envs, bool), info


class PointWorld(gym.Env):
    """One such point."""

    worth = 1.0

    def __init__(self) -> None:
        self.observation_space = Box(0, 255, FRAME.shape, np.uint8)
        self.action_space = Box(np.array([-1, -2], np.float32), np.array([1, 2], np.float32))
        self.place = np.zeros(2)

    def fork_batch(self, num_envs: int) -> Points:
        """Return futures."""
        return Points(np.repeat(self.place[None], num_envs, axis=0), self.worth)

    def step(self, action: np.ndarray):
        """Move the point."""
        self.place = self.place + 0.1 * action
        return FRAME, 0.0, False, False, {}


@pytest.mark.parametrize(("planner", "near"), [(one, 0.25 if one is RandomShooting else 0.1) for one in SAMPLERS])
def test_every_search_finds_the_way(planner: type[Planner], near: float):
    """In a toy world each planner brings the point to its goal, deciding again and again."""
    world = PointWorld()
    made = planner(world, settings=PlanSettings(horizon=6, candidates=40, iterations=3, hold=2, replan=2), live=True)
    made.reset(3)
    assert isinstance(made, Policy)
    for _ in range(12):
        world.step(made.act(FRAME))
    assert np.linalg.norm(world.place - [0.5, -0.5]) < near
    assert len(made.plans) == 6 and all(plan.actions.shape == (6, 2) for plan in made.plans)


@pytest.mark.parametrize("planner", SAMPLERS)
def test_plans_keep_to_the_space_and_to_the_seed(planner: type[Planner]):
    """Actions lie in the space, are held as asked, leave what is not free at 0, and depend on the seed alone."""
    settings = PlanSettings(horizon=5, candidates=8, iterations=2, hold=2, replan=5, free=[1])
    played = []
    for seed in (1, 1, 2):
        made = planner(PointWorld(), settings=settings, live=True)
        made.reset(seed)
        actions = np.stack([made.act(FRAME) for _ in range(5)])
        assert all(made.space.contains(action) for action in actions)
        assert (actions[:, 0] == 0).all() and (actions[[0, 2]] == actions[[1, 3]]).all()
        played.append(actions)
    np.testing.assert_array_equal(played[0], played[1])
    assert (played[0] != played[2]).any()


def test_more_rounds_find_better_plans():
    """What CEM learns in one round serves the next; one round of it is no better than chance."""
    scores = []
    for iterations in (1, 4):
        made = CEMPlanner(PointWorld(), settings=PlanSettings(candidates=12, iterations=iterations, hold=1), live=True)
        made.reset(0)
        scores.append(made.plan().score)
    assert scores[1] > scores[0] + 0.1


def test_a_budget_ends_the_search_after_its_first_round():
    """With no time left one round is played; with time enough, all of them."""
    for budget, rounds in ((0.001, 1), (60_000.0, 4)):
        settings = PlanSettings(horizon=4, candidates=4, iterations=4, budget_ms=budget)
        made = CEMPlanner(PointWorld(), settings=settings, live=True)
        plan = made.plan()
        assert (plan.iterations, plan.evaluated) == (rounds, 4 * rounds)


def test_a_plan_is_warm_started_by_the_rest_of_the_last():
    """Where the search adds nothing, the second plan is what was left of the first."""
    settings = PlanSettings(horizon=6, candidates=30, iterations=3, hold=1, replan=2)
    made = CEMPlanner(PointWorld(), settings=settings, live=True, spread=0.6)
    made.reset(0)
    first = made.plan()
    made.settings = PlanSettings(horizon=6, candidates=2, iterations=1, hold=1, replan=2)
    made.spread = 0.0
    np.testing.assert_allclose(made.plan().actions[:4], first.actions[2:], atol=1e-6)


def test_returns_count_an_end_as_asked():
    """An end pays for the steps that are left, or ends the pay; what is after it in the imagination never counts."""
    rewards = np.array([[0.1, 0.9, 0.2, 0.3], [0.1, 0.2, 0.3, 0.4]])
    ends = np.array([[False, True, False, True], [False, False, False, False]])
    np.testing.assert_allclose(settle(rewards, ends, True)[0], [0.1, 0.9, 0.9, 0.9])
    np.testing.assert_allclose(settle(rewards, ends, False)[0], [0.1, 0.9, 0.0, 0.0])
    np.testing.assert_allclose(settle(rewards, ends, True)[1], rewards[1])
    imagined = Imagined(rewards=rewards, terminated=ends, frames=np.zeros((2, 4, 1, 1, 3), np.uint8), readouts={})
    np.testing.assert_allclose(Return(discount=0.5, ends_pay=False).score(imagined), [0.55, 0.1 + 0.1 + 0.075 + 0.05])


def test_goals_are_states_and_pictures():
    """A plan that comes nearer to a wanted state, or to a wanted picture, scores higher."""
    world = PointWorld()
    plans = np.zeros((2, 3, 2), np.float32)
    plans[1, :, 0] = 1.0
    imagined = imagine(world.fork_batch, plans)
    nearer = StateGoal(elements=[0], values=[0.3], scales=[0.1], readout="place").score(imagined)
    np.testing.assert_allclose(nearer, [-9.0, -(4 + 1 + 0) / 3], rtol=1e-5)
    grey = np.full(FRAME.shape, 51, np.uint8)
    np.testing.assert_allclose(GoalImage(grey).score(imagined), [-0.04, -0.04], rtol=1e-4)


def test_coloured_noise_has_its_colour_and_variance_1():
    """Neighbours in time are alike in red noise and strangers in white noise."""
    rng = np.random.default_rng(0)
    for exponent, alike in ((0.0, 0.0), (2.0, 0.6)):
        noise = coloured_noise(rng, (4000, 12, 2), exponent)
        assert noise.std() == pytest.approx(1.0, abs=0.02)
        assert np.corrcoef(noise[:, 5, 0], noise[:, 6, 0])[0, 1] == pytest.approx(alike, abs=0.25)


def test_what_cannot_be_planned_in_is_refused():
    """Each mistake is named: no fork, no bounds, unknown elements, NaN rewards, a window too short, no gradient."""
    world = PointWorld()
    with pytest.raises(UsageError, match="cannot be forked"):
        CEMPlanner(_unforkable(), live=True)
    world.action_space = Discrete(3)  # type: ignore[assignment]
    with pytest.raises(UsageError, match="Box"):
        CEMPlanner(world, live=True)
    with pytest.raises(UsageError, match="indices 0"):
        CEMPlanner(PointWorld(), settings=PlanSettings(free=[2]), live=True)
    wrong: dict[str, Any]
    for wrong in ({"horizon": 0}, {"candidates": 0}, {"horizon": 4, "replan": 5}):
        with pytest.raises(UsageError, match="|".join(wrong)):
            PlanSettings(**wrong)
    poor = PointWorld()
    poor.worth = float("nan")
    with pytest.raises(UsageError, match="NaN"):
        CEMPlanner(poor, live=True).act(FRAME)
    with pytest.raises(UsageError, match="no gradient"):
        GradientPlanner(PointWorld())
    with pytest.raises(UsageError, match="place"):
        CEMPlanner(PointWorld(), StateGoal([0], [0.0]), live=True).act(FRAME)


def _unforkable() -> gym.Env:
    """Return a world without fork_batch."""

    class Plain(gym.Env):
        action_space = Box(-1, 1, (1,), np.float32)
        observation_space = Box(0, 255, FRAME.shape, np.uint8)

    return Plain()


@pytest.fixture(scope="module")
def dream() -> DreamEnv:
    """A dream of an untrained model of the Arena."""
    return DreamEnv(untrained(arena_world()), num_steps=1)


def test_a_dreaming_planner_dreams_on_from_what_it_has_seen(dream: DreamEnv):
    """Before each plan the dream is brought to what was shown: lead-in, own actions, and the last frame of all."""
    rng = np.random.default_rng(0)
    context = {
        "frames": rng.integers(0, 256, (11, 64, 64, 3)).astype(np.uint8),
        "actions": rng.uniform(-1, 1, (10, 5)).astype(np.float32),
    }
    seen = [context["frames"][-1], *rng.integers(0, 256, (2, 64, 64, 3)).astype(np.uint8)]
    planner = ICEMPlanner(dream, settings=SHORT)
    planner.reset(5, context)
    actions = [planner.act(frame) for frame in seen]
    assert len(planner.plans) == 2
    state = dream.save_state()
    np.testing.assert_array_equal(state.frames[0], seen[2])
    wanted = {
        "frames": np.concatenate([context["frames"], seen[1:]]),
        "actions": np.concatenate([context["actions"], actions[:2]]),
    }
    dream.reset(seed=6, options=wanted)
    again = dream.save_state().cache.tensors()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.cache.tensors().items())


def test_a_horizon_beyond_the_window_is_refused(dream: DreamEnv):
    """A dream that forgets its own beginning is no guide."""
    with pytest.raises(UsageError, match=rf"at most {dream.window}"):
        CEMPlanner(dream, settings=PlanSettings(horizon=dream.window + 1))


def test_a_gradient_leads_to_a_better_plan(dream: DreamEnv):
    """Ascent improves on the plans it began with, for a picture and for a state; a task's own function has no gradient."""
    picture = np.full((64, 64, 3), 200, np.uint8)
    for objective in (GoalImage(picture, last=2), StateGoal([0, 3], [2.0, -1.0])):
        scores = []
        for iterations in (1, 6):
            settings = PlanSettings(horizon=3, candidates=2, iterations=iterations, hold=1, replan=1)
            planner = GradientPlanner(dream, objective, settings)
            planner.reset(1)
            dream.reset(seed=2, options={"frames": picture[None]})
            scores.append(planner.plan().score)
        assert scores[1] > scores[0]
    with pytest.raises(UsageError, match="no gradient"):
        GradientPlanner(DreamEnv(dream.model, task="reach"))


def test_the_truth_can_be_planned_in_and_is_left_as_it_is(env: gym.Env):
    """Forks of the Arena step as the Arena steps, to the bit, while the Arena stays where it was."""
    arena: Any = env
    arena.reset(seed=4)
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 5)).astype(np.float32)
    before = arena.save_state()
    forks = arena.fork_batch(2)
    steps = [forks.step(np.stack([action, np.zeros(5, np.float32)])) for action in actions]
    np.testing.assert_array_equal(arena.save_state()["history"], before["history"])
    for action, (frames, rewards, terminated, _, infos) in zip(actions, steps, strict=True):
        frame, reward, ended, _, info = arena.step(action)
        np.testing.assert_array_equal(frames[0], frame)
        np.testing.assert_array_equal(infos["state"][0], info["state"])
        assert rewards[0] == rewards.dtype.type(reward) and bool(terminated[0]) == ended
    _, again = forks.reset()
    np.testing.assert_array_equal(again["state"][0], again["state"][1])
    assert not arena.fork_batch(1, frames=False).step(actions[:1])[0].any()
    with pytest.raises(UsageError, match="shape"):
        forks.step(actions[:1])
