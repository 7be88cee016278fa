"""Trials: scripted scenes, simulated in the true world and dreamt by a model from the same lead-in. Knows no metric.

A script fixes everything beforehand (seed, scene options, actions), so truth and dream answer to the same causes and a
changed action column re-simulates the very same scene. Scenes of measurements start at their own seeds, far from
those of any recording.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from jaxtyping import Float32, Int64, UInt8

from worldsim.envs.behaviours import choose_behaviour
from worldsim.envs.tracks import facts_of, outside_wedge
from worldsim.envs.workers import spread
from worldsim.errors import UsageError
from worldsim.rollout import Rollout
from worldsim.spec import WorldSpec
from worldsim.world_model import WorldModel

QUALITY_SEED = 1_000_000
"""Scene i of a quality report is the Arena's seed QUALITY_SEED + i: never recorded (recordings hash their seeds)."""
ARENA_ID = "worldsim/Arena-v0"


@runtime_checkable
class Dreamer(Protocol):
    """What can be measured: our `worldsim.rollout.Rollout`, or anything else that streams frames from actions."""

    def start(self, frames: np.ndarray, actions: np.ndarray, seeds: np.ndarray) -> Any:
        """Take contexts of k+1 frames (b, k+1, h, w, 3) and k actions (b, k, a) and return a state."""
        ...

    def step(self, state: Any, actions: np.ndarray) -> Any:
        """Return an object with the next ``frames`` (b, h, w, 3) uint8 and the ``state`` after actions (b, a)."""
        ...


@runtime_checkable
class Beginnings(Protocol):
    """Anything that holds the true lead-ins of n scenes: `Truth`, for one."""

    @property
    def context_frames(self) -> UInt8[np.ndarray, "n k1 h w 3"]:
        """The frames before the actions."""
        ...

    @property
    def context_actions(self) -> Float32[np.ndarray, "n k a"]:
        """The actions between them."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Script:
    """One scene and what will be done in it: reset seed, reset options, actions (T, A), and a name for people."""

    seed: int
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    actions: Float32[np.ndarray, "t a"]
    azimuth_deg: float = 0.0
    """Where the camera stands when the actions begin."""
    label: str = ""

    def with_column(self, dimension: int, rates: Float32[np.ndarray, " t"]) -> Script:
        """Return the script with one action dimension replaced."""
        actions = self.actions.copy()
        actions[:, dimension] = rates
        return dataclasses.replace(self, actions=actions)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Truth:
    """What the true world showed under n scripts, at the kept frame times (1 is the frame after the first action)."""

    context_frames: UInt8[np.ndarray, "n k1 h w 3"]
    context_actions: Float32[np.ndarray, "n k a"]
    frames: UInt8[np.ndarray, "n t h w 3"]
    states: Float32[np.ndarray, "n t s"]
    visibility: Float32[np.ndarray, "n t c"]
    """Share of each colour slot's nominal pixels that is visible, 0 where there is no such body."""
    start_states: Float32[np.ndarray, "n s"]
    times: Int64[np.ndarray, " t"]

    @property
    def last(self) -> UInt8[np.ndarray, "n h w 3"]:
        """Frame 0, the last of the context."""
        return self.context_frames[:, -1]

    def select(self, rows: Sequence[int]) -> Truth:
        """Return some scenes only."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        picked = {name: array if name == "times" else array[list(rows)] for name, array in fields.items()}
        return Truth(**picked)


def check_arena(spec: WorldSpec) -> None:
    """Raise UsageError unless the model's world is the Arena, the only one whose truth can be re-simulated here."""
    if spec.env_id != ARENA_ID:
        raise UsageError(
            "checkpoint",
            got=f"a model of {spec.env_id}",
            allowed=f"a model of {ARENA_ID}",
            fix="give another checkpoint",
        )


def make_arena(spec: WorldSpec) -> gym.Env[Any, Any]:
    """Make the true world of a spec, without its wrappers (no time limit)."""
    return gym.make(spec.env_id, disable_env_checker=True, **dict(spec.env_kwargs)).unwrapped


def recorded_scripts(env: gym.Env[Any, Any], seeds: Iterable[int], steps: int) -> list[Script]:
    """Draw, per seed, a scene and ``steps`` actions as a recording would: same behaviours, other seeds."""
    scripts = []
    for seed in seeds:
        rng = np.random.default_rng([seed, 1])
        behaviour = choose_behaviour(rng)
        options = behaviour.scene(rng)
        with env.unwrapped.undrawn():  # type: ignore[attr-defined]
            _, info = env.reset(seed=seed, options=options)
        facts = facts_of(info["state"], info["factors"]["damping"])
        plan = behaviour.plan(rng, facts, steps)
        script = Script(seed=seed, options=options, actions=plan, azimuth_deg=facts.azimuth_deg, label=behaviour.name)
        scripts.append(script)
    return scripts


def swap_column(script: Script, dimension: int, rates: Float32[np.ndarray, " t"], names: Sequence[str]) -> Script:
    """Give a script another one's column; an orbit is reflected at the wedge that no recording has entered."""
    if names[dimension] == "orbit":
        rates = outside_wedge(rates.astype(np.float64), script.azimuth_deg).astype(np.float32)
    return script.with_column(dimension, rates)


def simulate(spec: WorldSpec, scripts: Sequence[Script], times: Sequence[int] | None = None, workers: int = 1) -> Truth:
    """Play scripts of equal length in the true world and keep the frames at ``times`` (default: all, 1 .. T).

    ``workers`` processes share the scenes; the result does not depend on their number.
    """
    steps = len(scripts[0].actions)
    kept = np.arange(1, steps + 1) if times is None else np.asarray(sorted(times), dtype=np.int64)
    rows = spread(functools.partial(_play_all, spec, kept), scripts, workers)
    columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return Truth(**columns, times=kept)


def _play_all(spec: WorldSpec, times: np.ndarray, scripts: Sequence[Script]) -> list[dict[str, np.ndarray]]:
    env = make_arena(spec)
    try:
        return [_play(env, script, times) for script in scripts]
    finally:
        env.close()


def _play(env: gym.Env[Any, Any], script: Script, times: np.ndarray) -> dict[str, np.ndarray]:
    """Play one script; nothing that happens on the way changes what is done."""
    _, info = env.reset(seed=script.seed, options=dict(script.options))
    start, context = info["state"].copy(), info["context"]
    wanted, frames, states, visibility = set(times.tolist()), [], [], []
    for t, action in enumerate(script.actions[: int(times[-1])], start=1):
        frame, _, _, _, info = env.step(action)
        if t in wanted:
            frames.append(frame.copy())
            states.append(info["state"].copy())
            visibility.append(info["visibility"].copy())
    return {
        "context_frames": np.array(context["frames"]),
        "context_actions": np.array(context["actions"]),
        "frames": np.stack(frames),
        "states": np.stack(states),
        "visibility": np.stack(visibility),
        "start_states": start,
    }


def dream(
    dreamer: Dreamer,
    truth: Beginnings,
    actions: Float32[np.ndarray, "n t a"],
    *,
    seeds: Sequence[int],
    times: Sequence[int] | None = None,
    batch: int = 16,
) -> UInt8[np.ndarray, "n kept h w 3"]:
    """Dream on from the true lead-ins under ``actions`` and keep the frames at ``times`` (default: all, 1 .. T).

    Row i uses the noise of ``seeds[i]`` whatever its batch mates; ``batch`` rows are imagined at once.
    """
    steps = actions.shape[1]
    kept = set(range(1, steps + 1) if times is None else times)
    result = []
    for outputs in dreams(dreamer, truth, actions[:, : max(kept)], seeds=seeds, batch=batch):
        frames = [output.frames for t, output in enumerate(outputs, start=1) if t in kept]
        result.append(np.stack(frames, axis=1))
    return np.concatenate(result)


def dreams(
    dreamer: Dreamer, truth: Beginnings, actions: Float32[np.ndarray, "n t a"], *, seeds: Sequence[int], batch: int = 16
) -> Iterator[Iterator[Any]]:
    """Yield, ``batch`` rows after ``batch`` rows, what a model says step by step when it dreams on from true lead-ins."""
    for first in range(0, len(actions), batch):
        rows = slice(first, first + batch)
        noise = np.asarray(seeds[rows], dtype=np.int64)
        state = dreamer.start(truth.context_frames[rows], truth.context_actions[rows], noise)
        yield _steps(dreamer, state, actions[rows])


def _steps(dreamer: Dreamer, state: Any, actions: Float32[np.ndarray, "n t a"]) -> Iterator[Any]:
    for t in range(actions.shape[1]):
        output = dreamer.step(state, np.ascontiguousarray(actions[:, t]))
        state = output.state
        yield output


def stack_actions(scripts: Sequence[Script]) -> Float32[np.ndarray, "n t a"]:
    """Return the actions of all scripts as one array."""
    return np.stack([script.actions for script in scripts])


def rollout_of(model: WorldModel, num_steps: int | None = None) -> Rollout:
    """Return the streaming rollout that measurements use, after checking that the model's world is the Arena."""
    check_arena(model.spec)
    return model.rollout(num_steps)
