"""Moments of any Gymnasium world, come to by a seed and actions, and how the world goes on from them. Knows no model.

A world is asked for nothing but what recording asks for: that a seed and actions fix what is seen. So the same moment can
be gone on from with other actions, which is what counterfactual questions need.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from worldsim.envs.adapt import frame_of, make_environment
from worldsim.envs.collect import collect
from worldsim.envs.drivers import load_actor
from worldsim.envs.observed import values_of
from worldsim.envs.workers import spread
from worldsim.errors import UsageError
from worldsim.spec import WorldSpec

LEAD = 4
"""Actions before a moment that a dream is shown, with the frames between: enough to see speeds."""
LATEST = 40
"""Steps before a moment, at most."""
TRIES = 20
"""Episodes that are played for every moment that is wanted, at most, where most end too early."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moment:
    """A moment of an episode: the world's seed, the actions that lead there, what is then seen, and the actions after."""

    seed: int
    before: Float32[np.ndarray, "k a"]
    frame: UInt8[np.ndarray, "h w 3"]
    after: Float32[np.ndarray, "t a"]

    def with_part(self, part: slice, rows: Float32[np.ndarray, "t part"]) -> Moment:
        """Return the same moment with some elements of the actions after it replaced."""
        after = self.after.copy()
        after[:, part] = rows
        return dataclasses.replace(self, after=after)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """What a world showed before and after n moments; frame t is seen after t actions."""

    context_frames: UInt8[np.ndarray, "n k1 h w 3"]
    context_actions: Float32[np.ndarray, "n k a"]
    actions: Float32[np.ndarray, "n t a"]
    frames: UInt8[np.ndarray, "n t h w 3"]
    """Where an episode has ended its last frame stands still."""
    alive: Bool[np.ndarray, "n t"]
    """Whether a frame was seen, and not only held."""
    told: dict[str, Float32[np.ndarray, "n t1 _"]]
    """The world's named numbers at the moment (row 0) and after it, and "reward"."""

    @property
    def last(self) -> UInt8[np.ndarray, "n h w 3"]:
        """The frame of the moment."""
        return self.context_frames[:, -1]


def find_moments(spec: WorldSpec, count: int, steps: int, *, seed: int, policy: str = "random") -> list[Moment]:
    """Return moments of episodes that ``policy`` drives as `worldsim record` would, each with ``steps`` actions after it.

    Where an episode ends sooner, its last action is repeated. UsageError where nearly all end before a dream could begin.
    """
    env, actor = make_environment(spec.env_id, spec.env_kwargs), load_actor(policy)
    found: list[Moment] = []
    try:
        for number in range(TRIES * count):
            rng = np.random.default_rng([seed, 6, number])
            limit = LEAD + int(rng.integers(0, LATEST - LEAD)) + steps
            episode = collect(env, seed=seed, episode_id=number, steps=limit, actor=actor)
            if episode.num_steps <= LEAD:
                continue
            at = max(LEAD, episode.num_steps - steps)
            after = episode.actions[at:]
            rest = np.repeat(after[-1:], steps - len(after), axis=0)
            found.append(
                Moment(
                    seed=episode.seed,
                    before=episode.actions[:at],
                    frame=episode.frames[at],
                    after=np.concatenate([after, rest]),
                )
            )
            if len(found) == count:
                return found
    finally:
        env.close()
    raise UsageError(
        "policy", got=f"{policy}, under which {len(found)} of {TRIES * count} episodes last longer than {LEAD} steps",
        allowed="one under which episodes go on for a while", fix="the policy that the recording was driven by",
    )  # fmt: skip


def action_parts(spec: WorldSpec) -> dict[str, slice]:
    """Return the elements of the actions that mean something by themselves: every amount, every switch, every choice as a whole."""
    parts, start = {}, 0
    for size in spec.action_choices or (1,) * spec.action_dim:
        names = spec.action_names[start : start + size]
        parts[names[0] if size == 1 else f"{names[0]} .. {names[-1]}"] = slice(start, start + size)
        start += size
    return parts


def draw_part(
    spec: WorldSpec, part: slice, rng: np.random.Generator, steps: int
) -> Float32[np.ndarray, "{steps} part"]:
    """Draw what one part of the actions does for some steps: values from all over its range, each held for three to six."""
    low, high = np.asarray(spec.action_low[part]), np.asarray(spec.action_high[part])
    rows: list[np.ndarray] = []
    while len(rows) < steps:
        if len(low) > 1:  # one of several
            row = np.where(np.arange(len(low)) == rng.integers(len(low)), high, low)
        elif spec.action_choices:
            row = high if rng.random() < 0.5 else low
        else:
            row = rng.uniform(low, high)
        rows += [row] * int(rng.integers(3, 7))
    return np.stack(rows[:steps]).astype(np.float32)


def show(spec: WorldSpec, moments: Sequence[Moment], workers: int = 1) -> Shown:
    """Play to every moment and on from it. UsageError where a world does not come to the same moment again."""
    rows = spread(functools.partial(_play_all, spec), moments, workers)
    told = {name: np.stack([row["told"][name] for row in rows]) for name in rows[0]["told"]}
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0] if name != "told"}
    return Shown(**arrays, told=told)


def _play_all(spec: WorldSpec, moments: Sequence[Moment]) -> list[dict[str, Any]]:
    env = make_environment(spec.env_id, spec.env_kwargs)
    try:
        return [_play(env, moment) for moment in moments]
    finally:
        env.close()


def _play(env: gym.Env[Any, Any], moment: Moment) -> dict[str, Any]:
    """Play one moment; what cannot be seen in time is not drawn."""
    observation, _ = env.reset(seed=moment.seed)
    first = len(moment.before) - LEAD
    context = [frame_of(env, observation)] if first == 0 else []
    for t, action in enumerate(moment.before, start=1):
        observation, _, terminated, truncated, _ = env.step(action)
        if t >= first:
            context.append(frame_of(env, observation))
        if terminated or truncated:
            break
    if len(context) <= LEAD or not np.array_equal(context[-1], moment.frame):
        fix = "let reset(seed=...) fix everything that happens afterwards"
        allowed = "the same frames again after the same seed and actions"
        raise UsageError("environment", got=f"other frames in episode {moment.seed}", allowed=allowed, fix=fix)
    frames, alive, told = [], [], [{**values_of(env, observation), "reward": np.zeros(1, np.float32)}]
    for seen in _go_on(env, moment.after):
        alive.append(seen is not None)
        frames.append(frames[-1] if seen is None else seen[0])
        told.append(told[-1] if seen is None else seen[1])
    return {
        "context_frames": np.stack(context),
        "context_actions": moment.before[first:],
        "actions": moment.after,
        "frames": np.stack(frames),
        "alive": np.array(alive),
        "told": {name: np.stack([row[name] for row in told]) for name in told[0]},
    }


def _go_on(env: gym.Env[Any, Any], actions: np.ndarray) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]] | None]:
    """Yield frame and numbers after every action; None once the episode has ended."""
    ended = False
    for action in actions:
        if ended:
            yield None
            continue
        observation, reward, terminated, truncated, _ = env.step(action)
        ended = bool(terminated or truncated)
        yield frame_of(env, observation), {**values_of(env, observation), "reward": np.array([reward], np.float32)}
