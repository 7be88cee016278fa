"""Policies at work: episodes in the true world, started from fixed seeds, with what was imagined beside what came true."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float64, UInt8

from worldsim import checkpoint as checkpoints
from worldsim.agents import Policy
from worldsim.agents.objectives import settle
from worldsim.agents.planner import Planner
from worldsim.errors import UsageError, suggestion

START_SEED = 6_000_000
"""Seeds of the starts that policies are judged on: START_SEED + i. Nothing else uses these scenes."""
STARTS = 50
"""Starts that policies are judged on, unless other numbers are asked for."""
EPISODE_STEPS = 50
"""Steps after which an episode counts as failed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """One episode in the true world."""

    success: bool
    """Whether it terminated: in the Arena, by reaching the goal."""
    steps: int
    rewards: Float64[np.ndarray, " steps"]
    decisions: tuple[tuple[int, float, float], ...] = ()
    """Of each plan: the step at which it was made, its seconds, and what the part of it that was meant to be played was
    believed to earn a step."""
    real: UInt8[np.ndarray, "t h w 3"] | None = None
    imagined: UInt8[np.ndarray, "t h w 3"] | None = None
    """Frames as they came true, and as the plan at work had imagined them."""


def play(env: gym.Env[Any, Any], policy: Policy, start: int, limit: int, *, film: bool = False) -> Outcome:
    """Play the episode of a start in the true world and return how it went.

    The policy is shown frames (or the readout its ``observes`` names) and, at the beginning, the lead-in's frames and
    actions; nothing else of the world reaches it. ``film`` keeps the frames, and what a planner imagined of them.
    """
    frame, info = env.reset(seed=START_SEED + start)
    policy.reset(start, {name: info["context"][name] for name in ("frames", "actions")})
    planner = policy if isinstance(policy, Planner) else None
    rewards, decisions, real, imagined = [], [], [frame], [frame]
    ahead: list[np.ndarray] = []
    terminated = False
    for step in range(limit):
        made = len(planner.plans) if planner else 0
        action = policy.act(seen_by(policy, frame, info))
        if planner and len(planner.plans) > made:
            plan = planner.plans[-1]
            foreseen = planner.imagine(plan, frames=film and not planner.live)
            pays = getattr(planner.objective, "ends_pay", True)
            worth = settle(np.asarray(foreseen.rewards), np.asarray(foreseen.terminated), pays)[0]
            decisions.append((step, plan.seconds, float(worth[: planner.settings.replan].mean())))
            ahead = list(np.asarray(foreseen.frames)[0]) if film else []
        frame, reward, terminated, truncated, info = env.step(action)
        rewards.append(float(reward))
        if film:
            real.append(frame)
            imagined.append(ahead.pop(0) if ahead else frame)
        if terminated or truncated:
            break
    return Outcome(
        success=bool(terminated),
        steps=len(rewards),
        rewards=np.array(rewards),
        decisions=tuple(decisions),
        real=np.stack(real) if film else None,
        imagined=np.stack(imagined) if film and planner and not planner.live else None,
    )


def seen_by(policy: Policy, frame: np.ndarray, info: Mapping[str, Any]) -> np.ndarray:
    """Return what a policy observes: the frame, or the readout that it asks for by name (``observes``)."""
    name = getattr(policy, "observes", "frames")
    return frame if name == "frames" else np.asarray(info[name])


def check_known(**given: tuple[str, tuple[str, ...]]) -> None:
    """Raise UsageError for the first argument, by name, whose value is not among the known ones."""
    for name, (value, known) in given.items():
        if value not in known:
            raise UsageError(name, got=repr(value), allowed=", ".join(known), fix=suggestion(value, known))


def weights_digest(folder: Path) -> str:
    """Return what tells the weights in a checkpoint's folder apart, as a run that is resumed must know them."""
    return hashlib.sha256((folder / checkpoints.WEIGHTS).read_bytes()).hexdigest()[:16]
