"""Collect: one episode of an environment as an `Episode`, a pure function of (recording's seed, episode's id).

The Arena is driven by the scripted behaviours of `worldsim.envs.behaviours`; any other Gymnasium environment by a driver
(`worldsim.envs.drivers`): random piecewise-constant actions, or a policy. Knows no file, no process and no model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float32, UInt8

from worldsim.dataset import split_of
from worldsim.envs.actions import FlatActions, FlatActionWrapper
from worldsim.envs.adapt import frame_of, make_environment
from worldsim.envs.arena import ArenaEnv, arena_spec
from worldsim.envs.behaviours import choose_behaviour
from worldsim.envs.drivers import Actor, Driver
from worldsim.envs.observed import readouts_of, values_of
from worldsim.envs.state import body_slots
from worldsim.envs.tracks import facts_of
from worldsim.episode import Episode
from worldsim.errors import UsageError
from worldsim.spec import WorldSpec

__all__ = ["collect", "episode_seed", "frame_of", "frames_differ", "make_environment", "recorded_spec"]


def episode_seed(seed: int, episode_id: int, purpose: str) -> int:
    """Return the 63-bit seed of one purpose of one episode: a sha256 of all three, so that neighbours are unrelated."""
    digest = hashlib.sha256(f"worldsim-record|{seed}|{episode_id}|{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def recorded_spec(env: gym.Env[Any, Any], env_id: str, env_kwargs: Mapping[str, Any]) -> WorldSpec:
    """Return the spec of the world that `collect` records from ``env``."""
    if isinstance(env.unwrapped, ArenaEnv):
        return arena_spec(env)
    observation, _ = env.reset(seed=0)
    height, width, channels = frame_of(env, observation).shape
    actions = _rule(env)
    return WorldSpec(
        env_id=env_id,
        env_kwargs=dict(env_kwargs),
        frame_shape=(height, width, channels),
        action_names=actions.names,
        action_low=actions.low,
        action_high=actions.high,
        action_choices=actions.choices,
        frame_rate_hz=float(env.metadata.get("render_fps", 30)),
        context_steps=0,
        readouts=readouts_of(env),
    )


def _rule(env: gym.Env[Any, Any]) -> FlatActions:
    """Return how the environment's own actions become rows."""
    return env.flat if isinstance(env, FlatActionWrapper) else FlatActions.of_space(env.action_space)


def collect(env: gym.Env[Any, Any], *, seed: int, episode_id: int, steps: int, actor: Actor | None = None) -> Episode:
    """Record episode ``episode_id`` of the recording ``seed``: ``steps`` actions, the Arena's lead-in included.

    Other environments are driven at random or by ``actor`` (`worldsim.envs.drivers`), and their episodes end earlier when
    they terminate or are truncated.
    """
    rng = np.random.default_rng(episode_seed(seed, episode_id, "behaviour"))
    environment_seed = episode_seed(seed, episode_id, "environment")
    split = split_of(seed, episode_id)
    if isinstance(env.unwrapped, ArenaEnv):
        return _collect_arena(env.unwrapped, rng, environment_seed, steps, split)
    space = env.env.action_space if isinstance(env, FlatActionWrapper) else env.action_space
    driver = Driver(rule=_rule(env), space=space, rng=rng, actor=actor)
    return _collect_any(env, driver, environment_seed, steps, split)


def _collect_arena(arena: ArenaEnv, rng: np.random.Generator, environment_seed: int, steps: int, split: str) -> Episode:
    behaviour = choose_behaviour(rng)
    _, info = arena.reset(seed=environment_seed, options=behaviour.scene(rng))
    context = info["context"]
    plan = behaviour.plan(rng, facts_of(info["state"], info["factors"]["damping"]), steps - len(context["actions"]))
    frames, infos, rewards, terminated = [], [info], [], []
    for action in plan:
        frame, reward, done, _, info = arena.step(action)
        frames.append(frame)
        infos.append(info)
        rewards.append(reward)
        terminated.append(done)
    lead_in = context["states"][1:]
    return Episode(
        actions=np.concatenate([context["actions"], plan]),
        frames=np.concatenate([context["frames"], frames]),
        rewards=np.concatenate([arena.task.reward(lead_in), np.asarray(rewards, np.float32)]),
        terminated=np.concatenate([arena.task.terminated(lead_in), np.array(terminated, bool)]),
        truncated=np.zeros(steps, bool),
        seed=environment_seed,
        readouts=_frame_columns(context, infos),
        extras=_step_columns(arena, context, infos),
        attributes={"split": split, "behaviour": behaviour.name},
    )


def _frame_columns(context: Mapping[str, Any], infos: list[dict[str, Any]]) -> dict[str, Float32[np.ndarray, "n ..."]]:
    """Return the info entries that describe frames, T+1 rows each.

    During the lead-in the camera stands still; depth is not drawn then and recorded as NaN.
    """
    lead_in = len(context["actions"])
    states = np.concatenate([context["states"], [info["state"] for info in infos[1:]]])
    cameras = [infos[0]["camera"]] * lead_in + [info["camera"] for info in infos]
    columns = {"state": states, "camera": np.stack(cameras), "visibility": body_slots(states, "visible").copy()}
    if "depth" in infos[0]:
        unknown = np.full_like(infos[0]["depth"], np.nan)
        columns["depth"] = np.stack([unknown] * lead_in + [info["depth"] for info in infos])
    return columns


def _step_columns(arena: ArenaEnv, context: Mapping[str, Any], infos: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Return the info entries that describe steps, T rows each; contacts of the lead-in are not known: -1."""
    lead_in = len(context["actions"])
    unknown = np.full_like(infos[0]["contacts"], -1)
    success = [*arena.task.terminated(context["states"][1:]).tolist(), *(info["is_success"] for info in infos[1:])]
    return {
        "contacts": np.stack([unknown] * lead_in + [info["contacts"] for info in infos[1:]]),
        "is_success": np.array(success, bool),
    }


def _collect_any(env: gym.Env[Any, Any], driver: Driver, environment_seed: int, steps: int, split: str) -> Episode:
    observation, _ = env.reset(seed=environment_seed)
    frames, actions, rewards, ends = [frame_of(env, observation)], [], [], []
    told = [values_of(env, observation)]
    while len(actions) < steps and not (ends and any(ends[-1])):
        actions.append(driver.row(observation))
        observation, reward, terminated, truncated, _ = env.step(actions[-1])
        frames.append(frame_of(env, observation))
        told.append(values_of(env, observation))
        rewards.append(reward)
        ends.append((bool(terminated), bool(truncated)))
    return Episode(
        actions=np.stack(actions),
        frames=_of_one_size(frames),
        rewards=np.asarray(rewards, np.float32),
        terminated=np.array([end[0] for end in ends]),
        truncated=np.array([end[1] for end in ends]),
        seed=environment_seed,
        readouts={name: np.stack([rows[name] for rows in told]) for name in told[0]},
        attributes={"split": split, "behaviour": "random" if driver.actor is None else "policy"},
    )


def _of_one_size(frames: list[UInt8[np.ndarray, "h w 3"]]) -> UInt8[np.ndarray, "t1 h w 3"]:
    """Return an episode's frames as one array; UsageError where the environment changes their size."""
    for t, frame in enumerate(frames):
        if frame.shape != frames[0].shape:
            raise frames_differ(frame.shape, frames[0].shape, f"after {t} steps")
    return np.stack(frames)


def frames_differ(got: tuple[int, ...], expected: tuple[int, ...], when: str) -> UsageError:
    """Say that an environment shows frames of another size than before."""
    return UsageError(
        "environment's frames",
        got=f"{got[0]} x {got[1]} {when}",
        allowed=f"{expected[0]} x {expected[1]}, as it showed first",
        fix="let it show one size always (gymnasium.wrappers.ResizeObservation brings image observations to one)",
    )
