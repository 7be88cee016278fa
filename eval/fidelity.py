"""Policy-evaluation fidelity: do policies rank in a dream as they rank in the true world?

Graded policies are played from the same starts in the true world and in the dream, judged by the same function of the named
state: the true one there, the predicted one here. Beside the dream stand the floor of reading alone (the same reward read
off the true frames), other starts of the true world (how well 64 starts can tell these policies apart at all), and a model
that is not told the actions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from jaxtyping import Float64
from tqdm import tqdm

from worldsim.agents import Policy, RandomPolicy, ScriptedPolicy
from worldsim.agents.objectives import settle
from worldsim.envs.controls import ACTION_NAMES
from worldsim.envs.dream_vector import DreamVectorEnv
from worldsim.envs.tasks import TASKS
from worldsim.eval.acting import EPISODE_STEPS, seen_by
from worldsim.eval.controllers import blind_sweep, graded
from worldsim.eval.parts import Parts
from worldsim.eval.ranking import Agreement, agreement
from worldsim.world_model import WorldModel

PREFIX = "P7-"
TASKS_ASKED = ("reach", "push")
CODES = tuple(f"{PREFIX}{task}" for task in TASKS_ASKED)
"""How the probe's command calls them."""
STARTS = {"smoke": 8, "standard": 64, "full": 64}
UNTOLD_STARTS = 8
"""So many starts show that a dream without actions cannot rank policies."""
FIDELITY_SEED = 8_000_000
STEPS = 30
"""Steps of an episode; rewards are averaged over them, an early end staying as it is."""
TOGETHER = 4
"""Starts dreamt at a time, each by all policies side by side."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Returns:
    """Mean reward a step of every policy from every start, (policies, starts)."""

    real: Float64[np.ndarray, "p s"]
    dreamt: Float64[np.ndarray, "p s"]
    read: Float64[np.ndarray, "p s"]
    """Of the true episodes, with the reward read off their frames by the model."""
    untold: Float64[np.ndarray, "p s"]
    """Of the dreams of the same model when it is not told the actions, from the first few starts."""


def make_policies(task: str, space: gym.spaces.Box) -> dict[str, Policy]:
    """Return sixteen policies from good to bad, new ones at every call."""
    idle = ScriptedPolicy(np.zeros((EPISODE_STEPS, *space.shape), np.float32))
    return {
        **graded(task), "blind": ScriptedPolicy(blind_sweep()), "random": RandomPolicy(space, hold_steps=4), "idle": idle
    }  # fmt: skip


def measure(model: WorldModel, task: str, starts: int) -> Returns:
    """Play all policies from all starts in the true world and in the dreams of ``model``."""
    arena = gym.make("worldsim:worldsim/Arena-v0", task=task)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("real", "dreamt", "read", "untold")}
    for first in range(0, starts, TOGETHER):
        batch = range(first, min(first + TOGETHER, starts))
        contexts = []
        for start in batch:
            real, read, context = _true_returns(arena, model, task, start)
            columns["real"].append(real)
            columns["read"].append(read)
            contexts.append(context)
        columns["dreamt"].extend(_dreamt_returns(model, task, contexts, batch))
        if first < UNTOLD_STARTS:
            columns["untold"].extend(_dreamt_returns(model.unconditioned(), task, contexts, batch))
    arena.close()
    return Returns(**{name: np.stack(column, axis=1) for name, column in columns.items()})


def _true_returns(
    arena: gym.Env[Any, Any], model: WorldModel, task: str, start: int
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Return the returns of all policies from one start, in truth and as the model reads them, and the lead-in."""
    _, info = arena.reset(seed=FIDELITY_SEED + start)
    context = {name: info["context"][name] for name in ("frames", "actions")}
    assert isinstance(arena.action_space, gym.spaces.Box)
    policies = list(make_policies(task, arena.action_space).values())
    futures = arena.unwrapped.fork_batch(len(policies))  # type: ignore[attr-defined]
    frames, infos = futures.reset()
    rewards, terminated, shown, _ = _episodes(futures, frames, infos, policies, start)
    lead = context["frames"][:-1]
    clips = np.stack([np.concatenate([lead, one]) for one in shown.swapaxes(0, 1)])
    state = model.read(clips)["state"][:, len(lead) + 1 :]
    chosen = TASKS[task]
    read = settle(chosen.reward(state).astype(float), chosen.terminated(state), True).mean(1)
    return settle(rewards, terminated, True).mean(1), read, context


def _dreamt_returns(
    model: WorldModel, task: str, contexts: Sequence[dict[str, np.ndarray]], starts: Sequence[int]
) -> list[np.ndarray]:
    """Return the returns of all policies from some starts in the dreams of a model, one array per start."""
    dreams = DreamVectorEnv(len(contexts), model, task, 1, autoreset_mode=AutoresetMode.DISABLED)
    options = {name: np.stack([context[name] for context in contexts]) for name in ("frames", "actions")}
    dreams.reset(seed=[FIDELITY_SEED + start for start in starts], options=options)
    space = dreams.single_action_space
    assert isinstance(space, gym.spaces.Box)
    policies = [list(make_policies(task, space).values()) for _ in starts]
    rows = [row for row, some in enumerate(policies) for _ in some]
    futures = dreams.fork(rows)
    frames = np.stack([contexts[row]["frames"][-1] for row in rows])
    infos = {"state": futures.rollout.read(futures.save_state())["state"]}
    flat = [policy for some in policies for policy in some]
    seeds = [start for start, some in zip(starts, policies, strict=True) for _ in some]
    rewards, terminated, _, _ = _episodes(futures, frames, infos, flat, seeds)
    worth = settle(rewards, terminated, True).mean(1)
    return np.split(worth, len(contexts))


def _episodes(
    futures: VectorEnv[Any, Any, Any],
    frames: np.ndarray,
    infos: dict[str, Any],
    policies: Sequence[Policy],
    seeds: int | Sequence[int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Play one policy in each row; return rewards, terminations (n, t), frames (t+1, n, ...) and actions (t, n, a)."""
    for policy, seed in zip(policies, [seeds] * len(policies) if isinstance(seeds, int) else seeds, strict=True):
        policy.reset(seed)
    rewards, ends, shown, played = [], [], [frames], []
    for _ in range(STEPS):
        told = [{name: value[row] for name, value in infos.items()} for row in range(len(policies))]
        actions = np.stack([p.act(seen_by(p, frames[i], told[i])) for i, p in enumerate(policies)])
        frames, reward, terminated, _, infos = futures.step(actions)
        rewards.append(reward)
        ends.append(terminated)
        shown.append(frames)
        played.append(actions)
    return np.stack(rewards, axis=1), np.stack(ends, axis=1), np.stack(shown), np.stack(played)


def fidelity(
    predictor: Any, tasks: Sequence[str], starts: int, parts: Parts, bar: tqdm[Any] | None = None
) -> dict[str, Any] | None:
    """Return the table of every task by code, JSON-able; None where none is asked for, or the predictor cannot be stepped.

    Only a `WorldModel` dreams reward and state: predictors that answer with frames alone are not tested.
    """
    if not tasks or not isinstance(predictor, WorldModel):
        return None
    tables = {}
    for task in tasks:
        code = f"{PREFIX}{task}"
        if bar is not None:
            bar.total += 1
            bar.set_postfix_str(code)
        returns = parts.get(code, lambda task=task: measure(predictor, task, starts))
        if bar is not None:
            bar.update()
        names = list(make_policies(task, gym.spaces.Box(-1, 1, (len(ACTION_NAMES),), np.float32)))
        means = {name: values.mean(1) for name, values in vars(returns).items()}
        tables[code] = {
            "title": TASKS[task].doc, "starts": starts,
            "policies": {name: {way: float(of[i]) for way, of in means.items()} for i, name in enumerate(names)},
            "agreement": {row: one.to_json() for row, one in compared(returns).items()},
        }  # fmt: skip
    return tables


def compared(returns: Returns) -> dict[str, Agreement]:
    """Return how well each way of judging ranks the policies as the true world does."""
    starts, few = returns.real.shape[1], returns.untold.shape[1]
    half = np.arange(starts) % 2 == 0
    return {
        "dream": agreement(returns.real, returns.dreamt),
        "reading alone": agreement(returns.real, returns.read),
        "truth, other starts": agreement(returns.real[:, half], returns.real[:, ~half], paired=False),
        "dream, actions not told": agreement(returns.real[:, :few], returns.untold),
    }
