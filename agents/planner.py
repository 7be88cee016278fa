"""The receding horizon: what every planner shares. Knows Gymnasium's contract, forks and objectives, and no model."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float, Float32, UInt8

from worldsim.agents.imagination import Imagined, bounded_box, fork_of, imagine
from worldsim.agents.objectives import Objective, Return
from worldsim.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """How far, how often and how long to plan."""

    horizon: int = 16
    """Steps of a plan."""
    candidates: int = 32
    """Plans imagined in an iteration."""
    iterations: int = 3
    """Rounds of proposing plans and learning from their scores."""
    hold: int = 4
    """Steps that each planned action is repeated for: shorter searches over the same horizon."""
    replan: int = 4
    """Steps of a plan that are played before planning anew."""
    budget_ms: float | None = None
    """Time for one decision: no iteration is begun that would, by the last one's time, end later. The first always runs."""
    free: Sequence[int] | None = None
    """Indices of the action's elements that are planned; None for all. The others stay at 0."""

    def __post_init__(self) -> None:
        for name in ("horizon", "candidates", "iterations", "hold", "replan"):
            if getattr(self, name) < 1:
                raise UsageError(name, got=getattr(self, name), allowed="1 or more", fix="count from one")
        if self.replan > self.horizon:
            raise UsageError(
                "replan", got=self.replan, allowed=f"at most the horizon, {self.horizon}", fix="a longer horizon"
            )

    @property
    def knots(self) -> int:
        """Actions that are decided on in a plan."""
        return -(-self.horizon // self.hold)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a decision came to."""

    actions: Float32[np.ndarray, "t a"]
    score: float
    """What the objective gives it in imagination."""
    iterations: int
    evaluated: int
    """Plans imagined before this one was chosen."""
    seconds: float


class Planner:
    """Plans in an environment that can be forked, plays the beginning of the plan, and plans again.

    ``env`` is the imagination: before each plan it is reset to what has been seen, `{"frames", "actions"}`. With ``live``
    it is the very environment that is acted in, and its present is forked instead (a planner that knows the truth).
    A planner is a `worldsim.agents.Policy`: ``reset`` with each episode, then ``act`` on each observation.

    Subclasses say how plans are proposed and what is learnt from their scores. The best plan ever imagined is played;
    all candidates of a decision share the noise of the present, so that they are compared and not their luck.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        objective: Objective | None = None,
        settings: PlanSettings | None = None,
        *,
        live: bool = False,
    ) -> None:
        self.env, self.live = env, live
        self.objective = objective or Return()
        self.settings = settings or PlanSettings()
        self.space = bounded_box(env.action_space)
        self._fork = fork_of(env, self.objective.needs_frames)
        window = getattr(env.unwrapped, "window", None)
        if window is not None and self.settings.horizon > window:
            raise UsageError(
                "horizon",
                got=self.settings.horizon,
                allowed=f"at most {window}, the frames that the dream remembers",
                fix="a shorter horizon, or a model of a longer window",
            )
        dims = self.space.shape[0]
        self.free = list(range(dims) if self.settings.free is None else self.settings.free)
        if not self.free or not all(0 <= index < dims for index in self.free):
            raise UsageError("free", got=self.free, allowed=f"indices 0 .. {dims - 1}", fix="None plans all of them")
        self._memory = window or 1
        self.reset(0)

    def reset(self, seed: int, context: Mapping[str, np.ndarray] | None = None) -> None:
        """Begin an episode. ``context`` is what `info["context"]` tells of the lead-in: frames (k+1) and actions (k)."""
        self.rng = np.random.default_rng(seed)
        self._seed = seed
        self._frames: deque[np.ndarray] = deque(maxlen=self._memory)
        self._actions: deque[np.ndarray] = deque(maxlen=max(self._memory - 1, 0))
        if context is not None:
            self._frames.extend(context["frames"][:-1])  # the last one is the first observation
            self._actions.extend(context["actions"])
        self._queue: list[np.ndarray] = []
        self.plans: list[Plan] = []
        """Every decision of the episode."""
        self._knots: np.ndarray | None = None

    def act(self, observation: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, " a"]:
        """Return the next action: the next of the plan, or the first of a new one."""
        self._frames.append(np.asarray(observation).copy())
        if not self._queue:
            if not self.live:
                self._believe()
            plan = self.plan()
            self.plans.append(plan)
            self._queue = list(plan.actions[: self.settings.replan])
        action = self._queue.pop(0)
        self._actions.append(action)
        return action.copy()

    def plan(self) -> Plan:
        """Return the best plan found from the present of the imagination; warm-started by the last plan's rest."""
        begun = time.perf_counter()
        limit = np.inf if self.settings.budget_ms is None else self.settings.budget_ms / 1000
        self.begin(self._rest())
        best, best_score, evaluated, last = None, -np.inf, 0, 0.0
        iteration = 0
        while iteration < self.settings.iterations and (best is None or time.perf_counter() - begun + last <= limit):
            started = time.perf_counter()
            knots = self.propose(iteration)
            scores = self.evaluate(knots)
            self.learn(knots, scores)
            evaluated += len(knots)
            iteration += 1
            top = int(np.argmax(scores))
            if best is None or scores[top] > best_score:
                best, best_score = knots[top], float(scores[top])
            last = time.perf_counter() - started
        assert best is not None
        self._knots = best
        seconds = time.perf_counter() - begun
        actions = self.actions_of(best[None])[0]
        return Plan(actions=actions, score=best_score, iterations=iteration, evaluated=evaluated, seconds=seconds)

    def imagine(self, plan: Plan, *, frames: bool = False) -> Imagined:
        """Return what a plan made at the present is imagined to lead to; with its ``frames``, should they cost extra."""
        return imagine(fork_of(self.env) if frames else self._fork, plan.actions[None])

    def begin(self, mean: Float[np.ndarray, "k f"]) -> None:
        """Forget the last decision; ``mean`` is the warm start, in -1 .. 1 of the free elements' ranges."""
        raise NotImplementedError

    def propose(self, iteration: int) -> Float[np.ndarray, "n k f"]:
        """Return plans to imagine, in -1 .. 1 of the free elements' ranges."""
        raise NotImplementedError

    def learn(self, knots: Float[np.ndarray, "n k f"], scores: Float[np.ndarray, " n"]) -> None:
        """Take the scores of what was proposed into account."""
        raise NotImplementedError

    def evaluate(self, knots: Float[np.ndarray, "n k f"]) -> Float[np.ndarray, " n"]:
        """Imagine plans and return their scores."""
        return np.asarray(self.objective.score(imagine(self._fork, self.actions_of(knots))), np.float64)

    def actions_of(self, knots: Float[np.ndarray, "n k f"]) -> Float32[np.ndarray, "n t a"]:
        """Return the actions that ``knots`` (-1 .. 1) stand for: held, scaled to the space, zero where not free."""
        space = self.space
        held = np.repeat(np.clip(knots, -1, 1), self.settings.hold, axis=1)[:, : self.settings.horizon]
        low, high = space.low[self.free], space.high[self.free]
        idle = np.clip(np.zeros(space.shape, np.float32), space.low, space.high)
        actions = np.broadcast_to(idle, (*held.shape[:2], *space.shape)).copy()
        actions[..., self.free] = low + (held + 1) / 2 * (high - low)
        return actions.clip(space.low, space.high).astype(np.float32)

    def _rest(self) -> np.ndarray:
        """Return what is left of the last plan, the last action held on; nothing at the start of an episode."""
        knots = self.settings.knots
        if self._knots is None:
            return np.zeros((knots, len(self.free)))
        played = min(self.settings.replan // self.settings.hold, knots - 1)
        return np.concatenate([self._knots[played:], np.repeat(self._knots[-1:], played, axis=0)])

    def _believe(self) -> None:
        """Dream on from what has been seen."""
        actions = np.array(self._actions, np.float32).reshape(-1, *self.space.shape)  # one less than frames, or none
        options = {"frames": np.stack(self._frames), "actions": actions}
        self.env.reset(seed=self._seed + len(self.plans), options=options)
