"""Laws of worlds and planners, held under actions, resets, forks and restores in any order: the truth's and a tiny dream's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim import checkpoint as checkpoints
from worldsim.agents.gradient import GradientPlanner
from worldsim.agents.planner import Planner, PlanSettings
from worldsim.agents.search import CEMPlanner, ICEMPlanner, MPPIPlanner, RandomShooting
from worldsim.config import ModelConfig
from worldsim.envs.arena import ArenaEnv
from worldsim.envs.controls import ACTION_NAMES, ORBIT_STEP
from worldsim.envs.dream import DreamEnv, DreamVectorEnv
from worldsim.envs.scene import SceneSpec
from worldsim.envs.state import element
from worldsim.episode import Readout
from worldsim.spec import WorldSpec
from worldsim.state import WorldState
from worldsim.world_model import WorldModel

SIZE, LOW, HIGH = 16, (-1.0, 0.0), (0.5, 2.0)
PLANNERS: tuple[type[Planner], ...] = (RandomShooting, CEMPlanner, ICEMPlanner, MPPIPlanner, GradientPlanner)
ORBIT = ACTION_NAMES.index("orbit")


class Sparks(gym.Env[np.ndarray, np.ndarray]):
    """A true world that shows the sparks of a seed and cannot be stepped: where dreams begin."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = Box(0, 255, (SIZE, SIZE, 3), np.uint8)
    action_space = Box(np.array(LOW, np.float32), np.array(HIGH, np.float32))

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Show sparks."""
        super().reset(seed=seed)
        return self.np_random.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8), {}


gym.register("Contracts/Sparks-v0", entry_point=cast("Any", Sparks))
WORLD = WorldSpec(
    env_id="Contracts/Sparks-v0", frame_shape=(SIZE, SIZE, 3), frame_rate_hz=10.0, context_steps=0,
    action_names=("right", "up"), action_low=LOW, action_high=HIGH,
    readouts=(Readout(name="state", names=("x", "y"), units=("m", "m")),),
)  # fmt: skip


def law(examples: int) -> settings:
    """Return settings under which the same examples are tried every time, however slow the machine is."""
    return settings(derandomize=True, deadline=None, max_examples=examples)


SEEDS = st.integers(0, 2**31 - 1)
WORDS = st.integers(0, 99)
"""An action: 0 the lowest, 1 the highest, 2 the one nearest to zero, others some between."""


def spoken(space: gym.Space[Any], word: int) -> np.ndarray:
    """Return the action of a word."""
    assert isinstance(space, Box)
    ends = (space.low, space.high, np.clip(np.zeros(space.shape, np.float32), space.low, space.high))
    return ends[word] if word < 3 else np.random.default_rng(word).uniform(space.low, space.high).astype(np.float32)


@pytest.fixture(scope="module")
def model(lively: Callable[[ModelConfig, WorldSpec], checkpoints.Checkpoint]) -> WorldModel:
    """Return a tiny untrained model, livelier than at birth, that ends an episode at every third frame or so."""
    config = ModelConfig(
        width=32, depth=1, heads=2, patch=8, stem_channels=8, head_blocks=1, cond_width=16, readout_width=16, window=4,
        max_steps=2,
    )  # fmt: skip
    made = dataclasses.replace(lively(config, WORLD), sampler_steps=1)
    model = WorldModel(made, dtype=torch.float32)
    last = model.denoiser.network.readout.out
    assert isinstance(last, torch.nn.Linear)
    last.weight.data[1] *= 20.0
    batch = DreamVectorEnv(32, model, autoreset_mode=AutoresetMode.DISABLED)
    batch.reset(seed=0)
    batch.step(np.stack([spoken(batch.single_action_space, word) for word in range(32)]))
    last.bias.data[1] -= batch.save_state().readout[:, 1].quantile(0.7)
    return model


@pytest.fixture(scope="module")
def arenas() -> Iterator[tuple[ArenaEnv, ArenaEnv]]:
    """Return two small Arenas of one task."""
    made = ArenaEnv("reach", height=SIZE, width=SIZE), ArenaEnv("reach", height=SIZE, width=SIZE)
    yield made
    for arena in made:
        arena.close()


def check_step(env: gym.Env | VectorEnv, answer: Sequence[Any]) -> None:
    """Assert that what a step returned lies in the spaces, with the types that are promised."""
    frames, rewards, terminated, truncated, _ = answer
    assert env.observation_space.contains(frames)
    if isinstance(env, gym.Env):
        assert {type(rewards), type(terminated), type(truncated)} == {float, bool} and np.isfinite(rewards)
    else:
        for values, kind in ((rewards, np.float64), (terminated, np.bool_), (truncated, np.bool_)):
            assert values.shape == (env.num_envs,) and values.dtype == kind
        assert np.isfinite(rewards).all()


def same(first: Any, second: Any) -> bool:
    """Tell whether two answers of an environment are the same to the bit, infos and all."""
    if isinstance(first, dict):
        return set(first) == set(second) and all(same(first[name], second[name]) for name in first)
    if isinstance(first, tuple | list):
        return len(first) == len(second) and all(map(same, first, second))
    one, other = np.asarray(first), np.asarray(second)
    if one.dtype == object:
        return all((a is None) == (b is None) and (a is None or same(a, b)) for a, b in zip(one, other, strict=True))
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


# ---------------------------------------------------------------- the truth


def told(arena: ArenaEnv, seed: int, plan: Sequence[np.ndarray], drawn: int) -> tuple[list[np.ndarray], list[float]]:
    """Play a plan, holding every step to what is its own; return all moments and the azimuths of the camera, in degrees.

    One step is drawn; drawing takes most of the time.
    """
    with arena.undrawn():
        arena.reset(seed=seed)
    moments, azimuths = [arena.moment], []
    for t, action in enumerate(plan):
        before = arena.save_state()
        if t == drawn:
            answer = arena.step(action)
            shown = arena.frames_of(SceneSpec.from_json(before["scene"]), arena.moment[None])[0]
            np.testing.assert_array_equal(answer[0], shown)
        else:
            with arena.undrawn():
                answer = arena.step(action)
        check_step(arena, answer)
        _, reward, terminated, _, info = answer
        assert reward == arena.task.reward(info["state"]) and terminated == arena.task.terminated(info["state"])
        moments.append(arena.moment)
        sine, cosine = (element(info["state"], f"camera/azimuth_{part}") for part in ("sin", "cos"))
        azimuths.append(float(np.rad2deg(np.arctan2(sine, cosine))))
        after = arena.save_state()
        np.testing.assert_array_equal(after["history"], [*before["history"][1:], moments[-1]])
        np.testing.assert_array_equal(after["actions"], [*before["actions"][1:], action])
    return moments, azimuths


@law(5)
@given(seed=SEEDS, words=st.lists(WORDS, min_size=1, max_size=5), data=st.data())
def test_an_action_leads_to_the_arenas_next_frame(
    arenas: tuple[ArenaEnv, ArenaEnv], seed: int, words: list[int], data: st.DataObject
) -> None:
    """Action t shows in frame t + 1 and in none before; state, reward and the kept past are those of the frame after."""
    at = data.draw(st.integers(0, len(words) - 1))
    plan = [spoken(arenas[0].action_space, word) for word in words]
    other = [action.copy() for action in plan]
    other[at][ORBIT] = 1.0 if plan[at][ORBIT] <= 0 else -1.0
    (moments, azimuths), (others, turned) = (told(arenas[0], seed, one, at) for one in (plan, other))
    assert same(moments[: at + 1], others[: at + 1]) and not same(moments[at + 1], others[at + 1])
    apart = turned[at] - azimuths[at] - ORBIT_STEP * float(other[at][ORBIT] - plan[at][ORBIT])
    assert abs((apart + 180) % 360 - 180) < 1e-3


@law(5)
@given(
    seed=SEEDS, first=st.lists(WORDS, max_size=3), then=st.lists(WORDS, min_size=1, max_size=3), forks=st.integers(1, 3)
)
def test_arenas_restored_or_forked_go_on_alike(
    arenas: tuple[ArenaEnv, ArenaEnv], seed: int, first: list[int], then: list[int], forks: int
) -> None:
    """From a saved moment the same actions lead to the same bytes, here, elsewhere and in forks, which disturb nothing."""
    arena, other = arenas
    with arena.undrawn():
        arena.reset(seed=seed)
        for word in first:
            arena.step(spoken(arena.action_space, word))
    kept = arena.save_state()
    batch = arena.fork_batch(forks, frames=False)
    actions = [spoken(arena.action_space, word) for word in then]
    mates, told_by_forks = [spoken(arena.action_space, 3 + row) for row in range(forks - 1)], []
    for action in actions:
        told_by_forks.append(batch.step(np.stack([action, *mates])))
        check_step(batch, told_by_forks[-1])
    assert same(arena.save_state(), kept)
    futures = []
    for env in (arena, other, arena):
        with env.undrawn():
            env.reset(options={"state": kept})
            answers = [env.step(action) for action in actions[:-1]]
        futures.append([*answers, env.step(actions[-1])])
    assert same(futures[0], futures[1]) and same(futures[0], futures[2])
    for alone, (_, rewards, terminated, _, infos) in zip(futures[0], told_by_forks, strict=True):
        assert same(alone[4]["state"], infos["state"][0])
        assert (np.asarray(alone[1], rewards.dtype), alone[2]) == (rewards[0], terminated[0])


# ---------------------------------------------------------------- dreams


def begun(model: WorldModel, seed: int) -> DreamEnv:
    """Return a dream that has begun."""
    env = DreamEnv(model)
    env.reset(seed=seed)
    return env


@law(6)
@given(seed=SEEDS, words=st.lists(WORDS, min_size=1, max_size=6), data=st.data())
def test_an_action_leads_to_the_dreams_next_frame(
    model: WorldModel, seed: int, words: list[int], data: st.DataObject
) -> None:
    """Action t shows in frame t + 1 and in none before; reward and readouts are those read off the frame after."""
    at = data.draw(st.integers(0, len(words) - 1))
    env = begun(model, seed)
    plan = [spoken(env.action_space, word) for word in words]
    other = [action.copy() for action in plan]
    other[at] = spoken(env.action_space, 0 if plan[at].sum() > -0.25 else 1)
    answers = [env.step(action) for action in plan]
    env.reset(seed=seed)
    others = [env.step(action) for action in other]
    assert same(answers[:at], others[:at]) and not same(answers[at][0], others[at][0])
    frames = np.stack([env.reset(seed=seed)[0], *(answer[0] for answer in answers)])
    read = model.read(frames[None], np.pad(plan, ((1, 0), (0, 0)))[None])
    for t, answer in enumerate(answers):
        check_step(env, answer)
        np.testing.assert_allclose(answer[4]["state"], read["state"][0, t + 1], atol=1e-4)
        np.testing.assert_allclose(answer[1], read["reward"][0, t + 1], atol=1e-4)
        assert answer[2] == (read["terminated"][0, t + 1] > 0.5) or abs(read["terminated"][0, t + 1] - 0.5) < 1e-3


_STEPS = st.tuples(st.sampled_from(["step", "fork", "fork_batch", "keep"]), st.integers(0, 2))
_RETURNS = st.tuples(st.sampled_from(["return", "elsewhere"]), st.integers(0, 3))
PATHS = st.lists(_STEPS | _RETURNS, min_size=4, max_size=14)
"""What to do, and with which word or kept moment."""


@law(8)
@given(seed=SEEDS, doings=PATHS)
def test_the_same_way_leads_to_the_same_dream(model: WorldModel, seed: int, doings: list[tuple[str, int]]) -> None:
    """However a moment is come to (stepped, forked, restored here or elsewhere), the actions since the reset decide it."""
    way: tuple[int, ...] = ()
    env = begun(model, seed)
    kept: list[tuple[tuple[int, ...], WorldState]] = [(way, env.save_state())]
    known: dict[tuple[int, ...], Any] = {}

    def agree(path: tuple[int, ...], answer: Any) -> None:
        assert same(known.setdefault(path, answer), answer), path

    for doing, number in doings:
        action = spoken(env.action_space, number)
        if doing == "step":
            agree(way := (*way, number), env.step(action))
        elif doing == "fork":
            agree((*way, number), env.fork().step(action))
        elif doing == "fork_batch":
            frames, rewards, _, _, infos = env.fork_batch(1).step(action[None])
            frame, reward, *_, info = env.fork().step(action)
            assert same([frames[0], infos["state"][0]], [frame, info["state"]]) and rewards[0] == reward
        elif doing == "keep":
            kept.append((way, env.save_state()))
        else:
            way, state = kept[number % len(kept)]
            env = env if doing == "return" else begun(model, seed + 1)
            frame, _ = env.reset(options={"state": state})
            assert same(frame, state.frames[0])


@law(6)
@given(
    seeds=st.lists(SEEDS, min_size=5, max_size=5), mode=st.sampled_from(AutoresetMode), row=st.integers(0, 2),
    words=st.lists(WORDS, min_size=2, max_size=6), masks=st.integers(0, 2**6 - 1),
)  # fmt: skip
def test_a_dream_never_depends_on_its_mates(
    model: WorldModel, seeds: list[int], mode: AutoresetMode, row: int, words: list[int], masks: int
) -> None:
    """A row is the same to the bit, ends and beginnings too, whatever its mates begin with, do and are made to begin anew."""
    lives = []
    for mates in (seeds[1:3], seeds[3:5]):
        env = DreamVectorEnv(3, model, horizon=4, autoreset_mode=mode)
        env.reset(seed=[*mates[:row], seeds[0], *mates[row:]])
        life = []
        for t, word in enumerate(words):
            actions = np.stack([spoken(env.single_action_space, mate % 97 + t) for mate in (*mates, seeds[0])])
            actions[row] = spoken(env.single_action_space, word)
            answer = env.step(actions)
            check_step(env, answer)
            life.append([part[row] for part in (*answer[:4], answer[4]["state"])])
            if masks >> t & 1 and mates == seeds[1:3]:
                env.reset(seed=t, options={"reset_mask": np.arange(3) == (row + 1) % 3})
        lives.append(life)
    assert same(*lives)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_rows_begin_anew_as_the_mode_says(model: WorldModel, mode: AutoresetMode) -> None:
    """Ended rows begin anew with the next step, in the same one or when they are told to; nothing else begins anew."""
    ends: list[np.ndarray] = []

    @law(4)
    @given(seed=st.integers(0, 2**20), horizon=st.integers(1, 4), words=st.lists(WORDS, min_size=2, max_size=6))
    def holds(seed: int, horizon: int, words: list[int]) -> None:
        env = DreamVectorEnv(2, model, horizon=horizon, autoreset_mode=mode)
        assert env.metadata["autoreset_mode"] is mode
        env.reset(seed=seed)
        ages, ended = np.zeros(2, int), np.zeros(2, bool)
        for word in words:
            if mode is AutoresetMode.DISABLED and ended.any():
                _, infos = env.reset(options={"reset_mask": ended})
                assert same(infos["_context"], ended)
                ages[ended], ended = 0, np.zeros(2, bool)
            stale = ended & (mode is AutoresetMode.NEXT_STEP)
            ages = np.where(stale, 0, ages + 1)
            ended = check_beginnings(env, word, stale, ages >= horizon)
            ends.append(ended)
            if mode is AutoresetMode.SAME_STEP:
                ages[ended] = 0

    holds()
    assert np.sum(ends) >= 3


def check_beginnings(env: DreamVectorEnv, word: int, stale: np.ndarray, late: np.ndarray) -> np.ndarray:
    """Step all rows, of which some are ``stale`` and begin anew instead, and some come to be ``late``; return which ended."""
    actions = np.repeat(spoken(env.single_action_space, word)[None], 2, axis=0)
    twin, unlike, before = env.fork(), actions.copy(), env.save_state().frames
    unlike[stale] = spoken(env.single_action_space, word + 100)
    answer = env.step(actions)
    assert same(answer, twin.step(unlike)), "what a stale row is told to do does not matter"
    check_step(env, answer)
    frames, rewards, terminated, truncated, infos = answer
    ended = terminated | truncated
    same_step = env.autoreset_mode is AutoresetMode.SAME_STEP
    began = ended if same_step else stale
    assert same(infos.get("_context", np.zeros(2, bool)), began)
    assert same(truncated, late & ~stale) and not (ended & stale).any() and (rewards[stale] == 0).all()
    if began.any():
        assert same(frames[began], infos["context"]["frames"][began, -1])
    assert ("final_obs" in infos) == (same_step and ended.any())
    if "final_obs" in infos:
        assert same(infos["_final_obs"], ended) and same(infos["_final_info"], ended)
        for row in range(2):
            assert (infos["final_obs"][row] is not None) == ended[row]
        for row in np.flatnonzero(ended):
            last = infos["final_obs"][row]
            assert env.single_observation_space.contains(last) and not same(last, frames[row])
            read = env.model.read(np.stack([before[row], last])[None])
            np.testing.assert_allclose(infos["final_info"]["state"][row], read["state"][0, 1], atol=1e-4)
    return ended


PLANS = st.fixed_dictionaries({
    "horizon": st.integers(1, 3), "hold": st.integers(1, 5), "candidates": st.integers(1, 4), "iterations": st.integers(1, 2),
    "replan": st.integers(1, 3), "budget_ms": st.sampled_from([None, 0.001]), "free": st.sampled_from([None, [0], [1]]),
})  # fmt: skip


@pytest.mark.parametrize("planner", PLANNERS)
@law(2)
@given(seed=SEEDS, wish=PLANS)
def test_plans_can_be_played(model: WorldModel, planner: type[Planner], seed: int, wish: dict[str, Any]) -> None:
    """Whatever is asked of a planner, its plans have shape and type of actions, keep to the bounds and are held as asked."""
    env, asked = begun(model, seed), PlanSettings(**{**wish, "replan": min(wish["replan"], wish["horizon"])})
    made = planner(env, settings=asked)
    made.reset(seed % 1000)
    frame, _ = env.reset(seed=seed)
    played = [made.act(frame) for _ in range(asked.replan + 1)]
    assert len(made.plans) == 2
    assert same(played, [*made.plans[0].actions[: asked.replan], made.plans[1].actions[0]])
    idle = spoken(env.action_space, 2)
    for plan in made.plans:
        assert plan.actions.shape == (asked.horizon, 2) and plan.actions.dtype == np.float32
        assert all(env.action_space.contains(action) for action in plan.actions)
        assert np.isfinite(plan.score) and 1 <= plan.iterations <= asked.iterations
        for fixed in {0, 1}.difference(made.free):
            assert (plan.actions[:, fixed] == idle[fixed]).all()
        for first in range(0, asked.horizon, asked.hold):
            assert same(*np.broadcast_arrays(plan.actions[first : first + asked.hold], plan.actions[first]))
