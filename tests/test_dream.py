"""Dreams behind the Gymnasium contract, single and batched: spaces, info, ends, autoreset, tasks, mistakes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.env_checker import check_env as sb3_check

from worldsim import checkpoint as checkpoints
from worldsim.envs.dream import DreamEnv, DreamVectorEnv
from worldsim.episode import Readout
from worldsim.errors import UsageError
from worldsim.spec import WorldSpec
from worldsim.world_model import WorldModel, untrained

DREAM = "worldsim:worldsim/Dream-v0"
SIZE, CONTEXT_STEPS = 48, 3


class LeadIn(gym.Env[np.ndarray, np.ndarray]):
    """A true world that hands out a noisy lead-in of its seed and cannot be stepped."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012
    observation_space = Box(0, 255, (SIZE, SIZE, 3), np.uint8)
    action_space = Box(-1, 1, (2,), np.float32)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Hand out the lead-in of a seed."""
        super().reset(seed=seed)
        frames = self.np_random.integers(0, 256, (CONTEXT_STEPS + 1, SIZE, SIZE, 3)).astype(np.uint8)
        return frames[-1].copy(), {"context": {"frames": frames, "actions": np.zeros((CONTEXT_STEPS, 2), np.float32)}}


gym.register("DreamTest/LeadIn-v0", entry_point=cast("Any", LeadIn))
WORLD = WorldSpec(
    env_id="DreamTest/LeadIn-v0",
    frame_shape=(SIZE, SIZE, 3),
    action_names=("right", "up"),
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    frame_rate_hz=5.0,
    context_steps=CONTEXT_STEPS,
    readouts=(Readout(name="state", names=("x", "y"), units=("m", "m")),),
)


def model_of(spec: WorldSpec = WORLD, *, ends: bool = False) -> WorldModel:
    """Return an untrained model that ends about every other step if it ``ends``, and never otherwise."""
    model = untrained(spec)
    last = model.denoiser.network.readout.out
    assert isinstance(last, torch.nn.Linear)
    last.bias.data[1] = -20.0
    if ends:
        last.weight.data[1] *= 50.0
        frames = np.random.default_rng(0).integers(0, 256, (16, 1, SIZE, SIZE, 3)).astype(np.uint8)
        state = model.rollout().start(frames, np.zeros((16, 0, 2), np.float32), np.arange(16))
        for actions in actions_of(0, 2, 16):
            state = model.rollout().step(state, actions).state
        last.bias.data[1] -= state.readout[:, 1].median()
    return model


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return model_of()


@pytest.fixture(scope="module")
def ending() -> WorldModel:
    return model_of(ends=True)


@pytest.fixture
def env(model: WorldModel) -> Iterator[DreamEnv]:
    made = DreamEnv(model)
    yield made
    made.close()


def vector(model: WorldModel, num_envs: int, **kwargs: Any) -> DreamVectorEnv:
    made = gym.make_vec(DREAM, num_envs=num_envs, checkpoint=model, **kwargs)
    assert isinstance(made, DreamVectorEnv)
    return made


def actions_of(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (*shape, 2)).astype(np.float32)


@pytest.mark.parametrize("form", ["object", "folder"])
def test_gymnasium_and_stable_baselines_accept_a_dream(model: WorldModel, tmp_path: Path, form: str) -> None:
    """Both checkers pass without a warning, for a model in memory and for a checkpoint on disk."""
    checkpoint: Any = model
    if form == "folder":
        checkpoint = checkpoints.save(model.checkpoint, tmp_path / "tiny", card="# tiny\n", dtype=torch.float32)
    env = gym.make(DREAM, checkpoint=checkpoint, horizon=5)
    gymnasium_check(env.unwrapped)
    sb3_check(env.unwrapped)
    env.close()


def test_make_and_make_vec_give_the_recorded_spaces(model: WorldModel) -> None:
    """Spaces, frame rate and autoreset mode are declared as Gymnasium wants them, single and batched."""
    single, batch = gym.make(DREAM, checkpoint=model), vector(model, 3)
    assert single.observation_space == batch.single_observation_space == Box(0, 255, (SIZE, SIZE, 3), np.uint8)
    assert single.action_space == batch.single_action_space == Box(-1, 1, (2,), np.float32)
    assert batch.observation_space.shape == (3, SIZE, SIZE, 3)
    assert single.metadata["render_fps"] == WORLD.frame_rate_hz
    assert batch.metadata["autoreset_mode"] is batch.autoreset_mode is AutoresetMode.NEXT_STEP
    assert vector(model, 1, autoreset_mode="SameStep").metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert DreamVectorEnv.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_info_has_the_same_keys_and_shapes_all_along(env: DreamEnv) -> None:
    """Readouts and is_success are in every info; the context only in a reset's, and nothing is shared between steps."""
    first, info = env.reset(seed=0)
    context = info.pop("context")
    assert context["frames"].shape == (CONTEXT_STEPS + 1, SIZE, SIZE, 3)
    assert context["actions"].shape == (CONTEXT_STEPS, 2)
    kept = [(first, info)]
    for action in actions_of(0, 3):
        frame, reward, terminated, truncated, step_info = env.step(action)
        assert {type(reward), type(terminated), type(truncated)} == {float, bool}
        kept.append((frame, step_info))
    for frame, one in kept:
        assert set(one) == {"state", "is_success"}
        assert one["state"].shape == (2,)
        assert one["state"].dtype == np.float32
        assert type(one["is_success"]) is bool
        frame[:] = 0
        one["state"][:] = 0
    again, _ = env.reset(seed=0)
    np.testing.assert_array_equal(again, context["frames"][-1])


def test_render_shows_the_present_frame(model: WorldModel) -> None:
    """render_mode "rgb_array" returns the observation, even if that was written on; another mode is refused."""
    single, batch = DreamEnv(model, render_mode="rgb_array"), vector(model, 2, render_mode="rgb_array")
    frame, _ = single.reset(seed=1)
    shown = frame.copy()
    frame[:] = 0
    np.testing.assert_array_equal(single.render(), shown)
    np.testing.assert_array_equal(single.save_state().frames[0], shown)
    frames, _ = batch.reset(seed=1)
    np.testing.assert_array_equal(np.stack(batch.render() or ()), frames)
    silent = DreamEnv(model)
    silent.reset(seed=1)
    assert silent.render() is None
    with pytest.raises(UsageError, match="render_mode"):
        DreamEnv(model, render_mode="ansi")


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_the_batch_is_gymnasiums_batch_of_singles(ending: WorldModel, mode: AutoresetMode) -> None:
    """Step for step, the native batch does what SyncVectorEnv makes of single dreams: ends, resets, infos and all."""
    native = vector(ending, 3, horizon=4, autoreset_mode=mode)
    singles = SyncVectorEnv([lambda: DreamEnv(ending, horizon=4)] * 3, autoreset_mode=mode)
    mine, theirs = native.reset(seed=22), singles.reset(seed=22)
    np.testing.assert_array_equal(mine[0], theirs[0])
    assert_alike(mine[1], theirs[1])
    ends = resets = 0
    for actions in actions_of(2, 9, 3):
        mine, theirs = native.step(actions), singles.step(actions)
        assert np.abs(mine[0].astype(int) - theirs[0]).max() <= 3
        np.testing.assert_allclose(mine[1], theirs[1], atol=2e-2)
        np.testing.assert_array_equal(mine[2], theirs[2])
        np.testing.assert_array_equal(mine[3], theirs[3])
        assert [array.dtype for array in mine[1:4]] == [array.dtype for array in theirs[1:4]]
        assert_alike(mine[4], theirs[4])
        ends += int(mine[2].sum())
        resets += "context" in mine[4]
    assert ends > 1
    assert resets > 1
    native.close()
    singles.close()


def assert_alike(mine: Any, theirs: Any) -> None:
    """Assert that two batched infos agree in keys, masks and shapes, and in values up to rounding."""
    if isinstance(theirs, dict):
        assert set(mine) == set(theirs)
        for key in theirs:
            assert_alike(mine[key], theirs[key])
    elif theirs.dtype == object:
        for one, other in zip(mine, theirs, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert_alike(one, other)
    else:
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine.astype(float), theirs.astype(float), atol=3 if theirs.max() > 2 else 2e-2)


def test_an_episode_never_depends_on_its_batch_mates(ending: WorldModel) -> None:
    """Row 0 dreams the same to the bit, through several autoresets, whatever the other rows are and do."""
    runs = []
    for mates in ([1, 2], [50, 60]):
        env = vector(ending, 3, horizon=3)
        frames = [env.reset(seed=[7, *mates])[0][0]]
        for t, action in enumerate(actions_of(3, 10)):
            others = actions_of(mates[0] + t, 2)
            frames.append(env.step(np.stack([action, *others]))[0][0])
        runs.append(np.stack(frames))
        env.close()
    np.testing.assert_array_equal(*runs)


def test_horizon_truncates(model: WorldModel) -> None:
    """Truncation comes after exactly ``horizon`` steps of each row; make_vec's max_episode_steps is the same limit."""
    for limits in ({"horizon": 2}, {"max_episode_steps": 2}, {"horizon": 2, "max_episode_steps": 5}):
        env = vector(model, 2, autoreset_mode=AutoresetMode.DISABLED, **limits)
        env.reset(seed=0)
        ends = [env.step(actions)[3].tolist() for actions in actions_of(0, 2, 2)]
        assert ends == [[False, False], [True, True]]
    env.reset(options={"reset_mask": np.array([False, True])})
    assert env.step(actions_of(0, 2))[3].tolist() == [True, False]
    single = gym.make(DREAM, checkpoint=model, max_episode_steps=1)
    single.reset(seed=0)
    assert single.step(actions_of(0))[3] is True


def test_masked_rows_alone_are_reset(model: WorldModel) -> None:
    """reset_mask begins only the named rows anew; the others stay where they are, and bad masks are refused."""
    env = vector(model, 3, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(UsageError, match="reset_mask"):
        env.reset(options={"reset_mask": np.array([True, False, False])})
    env.reset(seed=0)
    before = env.step(actions_of(0, 3))[0]
    frames, info = env.reset(seed=40, options={"reset_mask": np.array([False, True, False])})
    np.testing.assert_array_equal(frames[[0, 2]], before[[0, 2]])
    np.testing.assert_array_equal(frames[1], DreamEnv(model).reset(seed=41)[0])
    assert info["_context"].tolist() == [False, True, False]
    with pytest.raises(UsageError, match="reset_mask"):
        env.reset(options={"reset_mask": np.zeros(3, bool)})


def test_a_task_scores_the_predicted_state() -> None:
    """With a task, reward, end and success are the task's own functions of the state that the model reads."""
    from worldsim.envs.state import STATE_NAMES, STATE_UNITS
    from worldsim.envs.tasks import TASKS

    state = Readout(name="state", names=tuple(STATE_NAMES), units=tuple(STATE_UNITS))
    spec = dataclasses.replace(WORLD, env_id="none/None-v0", readouts=(state,))
    model = untrained(spec)
    model.denoiser.get_buffer("std_state")[:] = 2.0
    context = {"frames": np.random.default_rng(0).integers(0, 256, (2, 1, SIZE, SIZE, 3)).astype(np.uint8)}
    for task in TASKS:
        env = vector(model, 2, task=task, autoreset_mode=AutoresetMode.DISABLED)
        env.reset(seed=0, options=context)
        for actions in actions_of(0, 3, 2):
            _, rewards, terminated, _, info = env.step(actions)
            np.testing.assert_allclose(rewards, TASKS[task].reward(info["state"]))
            np.testing.assert_array_equal(terminated, TASKS[task].terminated(info["state"]))
            np.testing.assert_array_equal(terminated, info["is_success"])


def test_heads_reward_and_end_without_a_task(ending: WorldModel) -> None:
    """Without a task, the end is where the model's probability of termination exceeds one half."""
    env = vector(ending, 2, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=3)
    for actions in actions_of(0, 4, 2):
        _, rewards, terminated, _, _ = env.step(actions)
        read = ending.rollout().read(env.save_state())
        np.testing.assert_allclose(rewards, read["reward"])
        np.testing.assert_array_equal(terminated, read["terminated"] > 0.5)


@pytest.mark.parametrize(("task", "match"), [("pusch", "did you mean 'push'"), ("push", "of 2 numbers")])
def test_unfit_tasks_are_refused(model: WorldModel, task: str, match: str) -> None:
    """An unknown task, or one about a state that this world does not have, is refused at once."""
    with pytest.raises(UsageError, match=match):
        DreamEnv(model, task=task)


@pytest.mark.parametrize(
    ("action", "match"),
    [
        (np.zeros(3, np.float32), "shape"),
        (np.array([0.0, np.nan], np.float32), "up = nan"),
        (np.array([1.5, 0.0], np.float32), "right = 1.5.*-1 to 1"),
    ],
)
def test_bad_actions_are_named(env: DreamEnv, action: np.ndarray, match: str) -> None:
    """Wrong shape, NaN and values out of bounds raise a UsageError that names the action dimension."""
    env.reset(seed=0)
    with pytest.raises(UsageError, match=match):
        env.step(action)


def test_impossible_settings_are_refused(model: WorldModel) -> None:
    """num_envs, horizon, num_steps, checkpoint and stepping before reset: each error says what is wrong."""
    for name, kwargs in {
        "num_envs": {"num_envs": 0},
        "horizon": {"horizon": 0},
        "num_steps": {"num_steps": 3},
        "autoreset_mode": {"autoreset_mode": "x"},
    }.items():
        with pytest.raises(UsageError, match=name):
            DreamVectorEnv(**{"checkpoint": model, **kwargs})
    with pytest.raises(UsageError, match="checkpoint"):
        DreamEnv("no-such-model")
    with pytest.raises(UsageError, match="seed"):
        vector(model, 2).reset(seed=[1])
    with pytest.raises(gym.error.ResetNeeded):
        DreamEnv(model).step(np.zeros(2, np.float32))
