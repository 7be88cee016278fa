"""Stable-Baselines3 in a dream, and stable-worldmodel's solvers: the adapters keep both contracts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import VecMonitor

from worldsim.agents import Policy
from worldsim.agents.costs import DreamCost
from worldsim.agents.imagination import imagine
from worldsim.agents.objectives import GoalImage
from worldsim.agents.sb3 import GymVecEnv, LearnedPolicy, recorded_starts
from worldsim.envs.dream import DreamEnv, DreamVectorEnv
from worldsim.envs.record import record
from worldsim.errors import UsageError
from worldsim.eval.lab import arena_world
from worldsim.world_model import WorldModel, untrained

ROWS, HORIZON = 3, 4


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return untrained(arena_world())


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("arena")
    record("worldsim/Arena-v0", out=folder, episodes=3, steps=16, workers=1)
    return str(folder)


def dreams(model: WorldModel, recording: str | None = None, observe: str = "frames", **kwargs: Any) -> GymVecEnv:
    """Return a few short dreams."""
    envs = DreamVectorEnv(ROWS, model, "reach", 1, HORIZON, autoreset_mode=AutoresetMode.DISABLED)
    starts = None if recording is None else recorded_starts(recording, [0, 1, 2], 6)
    return GymVecEnv(envs, observe, starts, **kwargs)


def test_rows_end_and_begin_anew(model: WorldModel, recording: str):
    """At the horizon a row shows the beginning of its next episode, and its own end where algorithms look for it."""
    envs = dreams(model, recording)
    first = envs.reset()
    assert first.shape == (ROWS, 64, 64, 3) and envs.observation_space.contains(first[0])
    action = np.zeros((ROWS, 5), np.float32)
    steps = [envs.step(action) for _ in range(HORIZON)]
    assert all(rewards.dtype == np.float32 for _, rewards, _, _ in steps)
    assert [bool(done.all()) for _, _, done, _ in steps] == [bool(done.any()) for _, _, done, _ in steps]
    assert [bool(done.all()) for _, _, done, _ in steps] == [False] * (HORIZON - 1) + [True]
    seen, _, _, told = steps[-1]
    assert all(one["TimeLimit.truncated"] and one["terminal_observation"].shape == (64, 64, 3) for one in told)
    assert (np.asarray(seen) != np.stack([one["terminal_observation"] for one in told])).any()
    again = dreams(model, recording)
    np.testing.assert_array_equal(again.reset(), first)


def test_an_end_pays_for_staying():
    """With ``staying`` a terminal reward counts for the steps that are left, discounted; others are as they were."""

    class Ends(gym.Env):
        observation_space = gym.spaces.Box(0, 255, (4, 4, 3), np.uint8)
        action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

        def reset(self, *, seed: int | None = None, options: Any = None):
            return np.zeros((4, 4, 3), np.uint8), {}

        def step(self, action: np.ndarray):
            return np.zeros((4, 4, 3), np.uint8), 0.5, bool(action[0] > 0), False, {}

    envs = gym.vector.SyncVectorEnv([Ends] * 2, autoreset_mode=AutoresetMode.DISABLED)
    wrapped = GymVecEnv(envs, staying=(4, 0.5))
    wrapped.reset()
    wrapped.step(np.array([[-1.0], [-1.0]]))
    _, rewards, done, _ = wrapped.step(np.array([[1.0], [-1.0]]))
    np.testing.assert_allclose(rewards, [0.5 * (1 + 0.5 + 0.25), 0.5])
    assert done.tolist() == [True, False]


@pytest.mark.parametrize(("algorithm", "observe"), [("ppo", "frames"), ("ppo", "state"), ("sac", "state")])
def test_algorithms_learn_in_dreams(model: WorldModel, recording: str, algorithm: str, observe: str):
    """PPO and SAC take their steps on frames and on a named state, and act as policies afterwards."""
    envs = VecMonitor(dreams(model, recording, observe))
    policy = "CnnPolicy" if observe == "frames" else "MlpPolicy"
    made: PPO | SAC
    if algorithm == "ppo":
        made = PPO(policy, envs, n_steps=6, batch_size=6, n_epochs=1, seed=0)
    else:
        made = SAC(policy, envs, learning_starts=6, batch_size=6, buffer_size=100, seed=0)
    before = [parameter.clone() for parameter in made.policy.parameters()]
    made.learn(2 * 6 * ROWS)
    assert any((a != b).any() for a, b in zip(before, made.policy.parameters(), strict=True))
    learned = LearnedPolicy(made, observe)
    assert isinstance(learned, Policy)
    seen = np.asarray(envs.reset())[0]
    assert envs.action_space.contains(learned.act(seen))
    np.testing.assert_array_equal(learned.act(seen), learned.act(seen))


def test_what_does_not_fit_is_refused(model: WorldModel):
    """Autoreset twice over, and readouts that no one has, are named."""
    with pytest.raises(UsageError, match="Disabled"):
        GymVecEnv(DreamVectorEnv(2, model))
    with pytest.raises(UsageError, match="frames, state"):
        dreams(model, observe="stat")


def test_costs_speak_the_protocol_of_solvers(model: WorldModel):
    """`get_cost` of repeated information and blocked candidates is minus the score of the same plans in the dream."""
    env = DreamEnv(model, num_steps=1)
    picture = np.full((64, 64, 3), 90, np.uint8)
    cost = DreamCost(env, GoalImage(picture), seed=3)
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.integers(0, 256, (2, 4, 64, 64, 3)).astype(np.uint8))
    actions = torch.from_numpy(rng.uniform(-1, 1, (2, 3, 5)).astype(np.float32))
    samples, candidates = 3, torch.from_numpy(rng.uniform(-1.5, 1.5, (2, 3, 2, 10)).astype(np.float32))
    repeated = {name: value[:, None].expand(2, samples, *value.shape[1:]) for name, value in
                {"pixels": frames, "action": actions}.items()}  # fmt: skip
    got = cost.get_cost(repeated, candidates)
    assert got.shape == (2, samples) and got.dtype == candidates.dtype
    env.reset(seed=3, options={"frames": frames[1].numpy(), "actions": actions[1].numpy()})
    plans = candidates[1].reshape(samples, 4, 5).numpy().clip(-1, 1)
    np.testing.assert_allclose(got[1].numpy(), -GoalImage(picture).score(imagine(env.fork_batch, plans)), rtol=1e-5)
    assert next(cost.parameters()).dtype == torch.float32
    with pytest.raises(UsageError, match="pixels"):
        cost.get_cost({"goal": frames}, candidates)


def test_policies_saved_by_name_only(tmp_path: Path):
    """A folder without a policy is not taken for one."""
    from worldsim.eval.learnt import algorithm_class, is_learnt

    assert not is_learnt(str(tmp_path))
    with pytest.raises(UsageError, match="ppo, sac"):
        algorithm_class("dqn")
