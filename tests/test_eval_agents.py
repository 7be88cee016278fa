"""Agents judged in the true world: no truth leaks to them, ranks are measured rightly, and commands resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from scipy import stats

from worldsim import checkpoint as checkpoints
from worldsim.agents import RandomPolicy
from worldsim.agents.planner import PlanSettings
from worldsim.cli import main
from worldsim.errors import UsageError
from worldsim.eval import fidelity as fidelities
from worldsim.eval import planning
from worldsim.eval.acting import START_SEED, play
from worldsim.eval.controllers import Grade, StateController
from worldsim.eval.fidelity import compared, make_policies, measure
from worldsim.eval.lab import arena_world
from worldsim.eval.learning import LearnConfig, learn
from worldsim.eval.planning import plan
from worldsim.eval.ranking import agreement, bias, kendall, mmrv, regret, slope, spearman
from worldsim.eval.statistics import proportion
from worldsim.world_model import untrained

QUICK = PlanSettings(horizon=4, candidates=3, iterations=1, hold=2, replan=4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of an untrained model."""
    made = untrained(arena_world()).checkpoint
    folder = tmp_path_factory.mktemp("untrained") / "checkpoint"
    import torch

    checkpoints.save(made, folder, card=checkpoints.card(made), dtype=torch.float32)
    return str(folder)


class Nosy:
    """Keeps everything that it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def reset(self, seed: int, context: Any = None) -> None:
        """Note what is told at the start."""
        self.told.append(context)

    def act(self, observation: np.ndarray) -> np.ndarray:
        """Note what is shown."""
        self.told.append(observation)
        return np.array([0.5, 0, 0, 0, 0], np.float32)


def test_a_policy_is_shown_frames_and_nothing_else():
    """Neither at the start nor later does a policy get the true state, contacts, camera or success."""
    env = gym.make("worldsim:worldsim/Arena-v0", task="reach")
    nosy = Nosy()
    outcome = play(env, nosy, 0, 3)
    context, *shown = nosy.told
    assert set(context) == {"frames", "actions"}
    frame, info = env.reset(seed=START_SEED)
    np.testing.assert_array_equal(shown[0], frame)
    assert all(one.dtype == np.uint8 and one.shape == (64, 64, 3) for one in shown)
    np.testing.assert_array_equal(context["frames"], info["context"]["frames"])
    assert outcome.steps == 3 and len(outcome.rewards) == 3
    seeing = StateController(Grade(task="reach"))
    assert play(env, seeing, 0, 40).success and not play(env, StateController(Grade(gain=-0.5)), 0, 10).success


@pytest.mark.heavy
def test_better_controllers_do_better():
    """Noise, weakness and delay cost success: the policies that fidelity compares are really graded."""
    env = gym.make("worldsim:worldsim/Arena-v0", task="reach")
    assert isinstance(env.action_space, gym.spaces.Box)
    policies = make_policies("reach", env.action_space)
    assert len(policies) == 16
    steps = {
        name: np.mean([play(env, policies[name], start, 40).steps for start in range(6)])
        for name in ("best", "gain 0.50", "noise 0.6", "idle")
    }
    assert steps["best"] < steps["gain 0.50"] < steps["idle"] and steps["best"] < steps["noise 0.6"]


def test_ranks_are_measured_as_defined():
    """Against SciPy and by hand: correlations, rank violations with half for ties, regret, bias and slope."""
    rng = np.random.default_rng(0)
    real, judged = rng.normal(size=(2, 9))
    assert float(spearman(real, judged)) == pytest.approx(stats.spearmanr(real, judged)[0])
    assert float(kendall(real, judged)) == pytest.approx(stats.kendalltau(real, judged)[0])
    assert float(slope(real, 2 * real + 1)) == pytest.approx(2) and float(bias(real, real + 0.5)) == pytest.approx(0.5)
    real, judged = np.array([0.0, 0.1, 1.0]), np.array([0.1, 0.0, 0.9])
    assert float(mmrv(real, judged)) == pytest.approx((0.1 + 0.1 + 0) / 3)
    assert float(mmrv(real, np.zeros(3))) == pytest.approx((0.5 + 0.45 + 0.5) / 3)
    assert float(mmrv(real, real)) == 0
    other = np.array([0.0, 1.0, 0.9])
    assert float(mmrv(real, other)) == pytest.approx(1.8 / 3)
    assert float(mmrv(other, real)) == pytest.approx(0.2 / 3)  # the truth comes first
    assert float(regret(real, np.array([0.0, 1.0, 0.5]))) == pytest.approx(0.9)
    assert float(spearman(real, np.full(3, 0.3))) == 0


def test_agreement_has_intervals_over_policies_and_starts():
    """A noisy judge agrees with the truth less than the truth with itself, and its intervals say how sure that is."""
    rng = np.random.default_rng(1)
    worth = np.linspace(0, 1, 16)[:, None]
    real = worth + 0.3 * rng.normal(size=(16, 32))
    itself = agreement(real[:, ::2], real[:, 1::2], paired=False).measures["spearman"]
    noise = agreement(real, rng.normal(size=(16, 32))).measures["spearman"]
    assert itself.low > 0.7 and itself.value > 0.9 > itself.low
    assert noise.low < 0 < noise.high


@pytest.mark.heavy
def test_fidelity_compares_dream_and_truth(monkeypatch: pytest.MonkeyPatch):
    """All ways of judging get the same policies and starts; a blind model cannot tell policies apart, truth can."""
    monkeypatch.setattr(fidelities, "STEPS", 6)
    returns = measure(untrained(arena_world()), "reach", starts=2)
    assert all(values.shape == (16, 2) and np.isfinite(values).all() for values in vars(returns).values())
    assert returns.real.std() > 0.01
    again = measure(untrained(arena_world()), "reach", starts=2)
    np.testing.assert_array_equal(returns.dreamt, again.dreamt)
    table = compared(returns)
    assert set(table) == {"dream", "reading alone", "truth, other starts", "dream, actions not told"}


def test_shares_have_wilson_intervals():
    """By the textbook: 8 of 10 is .49 to .94, and none of 50 is not surely none."""
    eight, none = proportion(8, 10), proportion(0, 50)
    assert (eight.low, eight.high) == (pytest.approx(0.490, abs=2e-3), pytest.approx(0.943, abs=2e-3))
    assert none.low == 0 and none.high == pytest.approx(0.071, abs=2e-3)


@pytest.mark.heavy
def test_plan_goes_on_where_it_stopped(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Interrupted between agents, the finished episodes are not played again, and the report is that of a whole run."""
    monkeypatch.setattr(planning, "EPISODE_STEPS", 8)
    where: dict[str, Any] = {"task": "reach", "starts": 2, "settings": QUICK, "workers": 1}
    whole = plan(checkpoint, tmp_path / "whole", agents="random,blind,truth,dream", **where)
    assert set(whole["agents"]) == {"random", "blind", "truth", "dream"}
    assert whole["agents"]["truth"]["belief_minus_truth"]["value"] == pytest.approx(0, abs=1e-6)
    assert (tmp_path / "whole" / "dream_0.webp").is_file() and "Wilson" in (
        tmp_path / "whole" / "report.md"
    ).read_text()

    played: list[int] = []

    def stumbles(env: Any, policy: Any, start: int, limit: int, *, film: bool = False) -> Any:
        played.append(start)
        if len(played) == 4:
            raise KeyboardInterrupt
        return play(env, policy, start, limit, film=film)

    monkeypatch.setattr(planning, "play", stumbles)
    with pytest.raises(KeyboardInterrupt):
        plan(checkpoint, tmp_path / "broken", agents="random,blind,truth,dream", **where)
    resumed = plan(checkpoint, tmp_path / "broken", agents="random,blind,truth,dream", **where)
    assert len(played) == 4 + 5
    for name, row in whole["agents"].items():
        assert {**row, "seconds_a_decision": 0} == {**resumed["agents"][name], "seconds_a_decision": 0}
    assert not list((tmp_path / "broken").glob(".parts*"))


def test_wrong_names_are_refused(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Unknown agents, planners and tasks end in a paragraph that offers the known ones, and nothing is written."""
    out = ["--out", str(tmp_path / "plan")]
    for words in (
        ["--agents", "dreem"],
        ["--planner", "cemm"],
        ["--planner", "json:loads"],
        ["--planner", "nowhere:X"],
        ["--task", "pusch"],
        ["--settings.horizon", "40"],
        ["--workers", "-1"],
    ):
        assert main(["plan", checkpoint, *words, *out, "--starts", "1"]) == 2
        assert "allowed" in capsys.readouterr().err
    assert main(["learn", checkpoint, "--algorithm", "dqn", "--out", str(tmp_path / "learn")]) == 2
    assert not (tmp_path / "plan").exists() and not (tmp_path / "learn").exists()


@pytest.mark.heavy
def test_a_policy_is_learnt_judged_and_taken_up(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run writes policy, curve and judgement; run again it is done; other settings are refused; `plan` can use it."""
    monkeypatch.setattr("worldsim.eval.learning.EPISODE_STEPS", 4)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    config = LearnConfig(num_envs=2, horizon=4, rollout_steps=8, batch_size=8, epochs=1)
    where: dict[str, Any] = {"task": "reach", "steps": 16, "config": config, "observe": "state"}
    folder = tmp_path / "learn"
    result = learn(checkpoint, folder, **where)
    assert not list(tmp_path.glob("SB3*"))  # nothing is left among the temporary files
    assert result["steps_done"] == 16 and result["judged"]["success"]["n"] == 50
    assert json.loads((folder / "results.json").read_text())["curve"] == result["curve"]
    again = learn(checkpoint, folder, **where)
    assert again["judged"] == result["judged"] and again["curve"] == result["curve"]
    with pytest.raises(UsageError, match="steps"):
        learn(checkpoint, folder, **{**where, "steps": 32})
    monkeypatch.setattr(planning, "EPISODE_STEPS", 3)
    table = plan(checkpoint, tmp_path / "plan", task="reach", agents=str(folder), starts=1, workers=1)
    assert list(table["agents"]) == [str(folder)]


def test_random_actions_are_a_policy_too():
    """What is compared with planners keeps the same contract."""
    env = gym.make("worldsim:worldsim/Arena-v0", task="push")
    assert isinstance(env.action_space, gym.spaces.Box)
    first, second = (play(env, RandomPolicy(env.action_space, 4), 1, 5).rewards for _ in range(2))
    np.testing.assert_array_equal(first, second)
