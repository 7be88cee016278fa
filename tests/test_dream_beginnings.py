"""Where dreams begin: the true scene of a seed, given frames, a recording, a saved moment; never a simulator after."""

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

from worldsim import checkpoint as checkpoints
from worldsim.dataset import EpisodeDataset
from worldsim.envs.dream import DreamEnv, DreamVectorEnv
from worldsim.envs.dream_context import bundle_contexts
from worldsim.episode import Readout
from worldsim.errors import UsageError
from worldsim.spec import WorldSpec
from worldsim.state import WorldState
from worldsim.world_model import WorldModel, untrained

DREAM = "worldsim:worldsim/Dream-v0"
SIZE, CONTEXT_STEPS = 48, 3


class LeadInOnly(gym.Env[np.ndarray, np.ndarray]):
    """A true world that hands out a noisy lead-in of its seed and cannot be stepped; option "shade" fills the frames."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012
    observation_space = Box(0, 255, (SIZE, SIZE, 3), np.uint8)
    action_space = Box(-1, 1, (2,), np.float32)
    alive = 0

    def __init__(self, render_mode: str | None = None, blind: bool = False) -> None:
        self.render_mode, self.blind = render_mode, blind
        LeadInOnly.alive += 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Hand out the lead-in of a seed."""
        super().reset(seed=seed)
        if self.blind:
            raise UsageError("OpenGL", got="no screen", allowed="a screen", fix="apt-get install libegl1")
        if set(options or {}) - {"shade", "state"}:
            raise UsageError("reset option", got=options, allowed="shade, state", fix="shade=7")
        frames = self.np_random.integers(0, 256, (CONTEXT_STEPS + 1, SIZE, SIZE, 3)).astype(np.uint8)
        if options:
            frames[:] = options.get("shade", 0)
        actions = self.np_random.uniform(-1, 1, (CONTEXT_STEPS, 2)).astype(np.float32)
        return frames[-1].copy(), {"context": {"frames": frames, "actions": actions}}

    def step(self, action: np.ndarray) -> Any:
        """Fail: nothing may be simulated."""
        raise AssertionError("a dream steps no simulator")

    def close(self) -> None:
        """Count down."""
        LeadInOnly.alive -= 1


class Bare(gym.Env[np.ndarray, np.ndarray]):
    """A foreign world without lead-in whose frames are rendered."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012
    observation_space = Box(-1, 1, (3,), np.float32)
    action_space = Box(-1, 1, (2,), np.float32)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Draw a frame and observe something else."""
        super().reset(seed=seed)
        self.frame = self.np_random.integers(0, 256, (64, 64, 3)).astype(np.uint8)
        return np.zeros(3, np.float32), {}

    def render(self) -> np.ndarray:
        """Return the frame."""
        return self.frame


gym.register("DreamTest/LeadInOnly-v0", entry_point=cast("Any", LeadInOnly))
gym.register("DreamTest/Bare-v0", entry_point=cast("Any", Bare))
WORLD = WorldSpec(
    env_id="DreamTest/LeadInOnly-v0",
    frame_shape=(SIZE, SIZE, 3),
    action_names=("right", "up"),
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    frame_rate_hz=5.0,
    context_steps=CONTEXT_STEPS,
    readouts=(Readout(name="state", names=("x", "y"), units=("m", "m")),),
)


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return untrained(WORLD)


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


def play(env: DreamEnv, num_steps: int, seed: int = 0) -> np.ndarray:
    return np.stack([env.step(action)[0] for action in actions_of(seed, num_steps)])


def test_a_dream_goes_on_from_the_true_scene_of_its_seed(env: DreamEnv) -> None:
    """The first observation and the context are those of the true world reset with the same seed."""
    truth = LeadInOnly()
    for seed in (0, 7):
        wanted, true_info = truth.reset(seed=seed)
        frame, info = env.reset(seed=seed)
        np.testing.assert_array_equal(frame, wanted)
        np.testing.assert_array_equal(info["context"]["actions"], true_info["context"]["actions"])
    truth.close()


def test_the_arena_and_its_dream_begin_alike() -> None:
    """Dream.reset(seed) shows the very pixels of Arena.reset(seed), also with factors of variation and for each task."""
    from worldsim.envs.arena import ArenaEnv, arena_spec

    truth = ArenaEnv("uncover")
    model = untrained(arena_spec(truth))
    single, batch = DreamEnv(model, task="uncover", horizon=3), vector(model, 2, task="uncover")
    for options in (None, {"count": 2}):
        wanted, true_info = truth.reset(seed=11, options=options)
        frame, info = single.reset(seed=11, options=options)
        np.testing.assert_array_equal(frame, wanted)
        np.testing.assert_array_equal(info["context"]["frames"], true_info["context"]["frames"])
        np.testing.assert_array_equal(batch.reset(seed=10, options=options)[0][1], wanted)
    truth.step(np.zeros(5, np.float32))
    now = truth.step(np.full(5, 0.5, np.float32))[0]
    frame, _ = single.reset(options={"state": truth.save_state()})
    np.testing.assert_array_equal(frame, now)
    for env in (truth, single, batch):
        env.close()


def test_a_seed_fixes_the_dream_and_its_noise(env: DreamEnv) -> None:
    """The same seed dreams the same to the bit; an unseeded reset dreams on anew, reproducibly."""
    env.reset(seed=5)
    first = play(env, 4)
    later, _ = env.reset()
    env.reset(seed=5)
    np.testing.assert_array_equal(play(env, 4), first)
    np.testing.assert_array_equal(env.reset()[0], later)
    env.reset(seed=5, options={"scene": 6})
    assert (play(env, 4) != first).any()


def test_scene_and_noise_can_be_chosen_apart(env: DreamEnv, model: WorldModel) -> None:
    """options["scene"] gives the scene of one seed the noise of another, also row by row."""
    frame, _ = env.reset(seed=1, options={"scene": 9})
    one = play(env, 2)
    same, _ = env.reset(seed=2, options={"scene": 9})
    np.testing.assert_array_equal(frame, same)
    assert (play(env, 2) != one).any()
    frames, _ = vector(model, 2).reset(seed=0, options={"scene": [9, 4]})
    np.testing.assert_array_equal(frames[0], frame)
    np.testing.assert_array_equal(frames[1], env.reset(seed=4)[0])


def test_other_options_are_the_true_worlds(env: DreamEnv) -> None:
    """Factors of variation and the true world's own states reach its reset; what it does not know, it refuses."""
    frame, _ = env.reset(seed=0, options={"shade": 7})
    assert (frame == 7).all()
    frame, _ = env.reset(seed=0, options={"state": {"anything": 1}})
    assert (frame == 0).all()
    with pytest.raises(UsageError, match="reset option"):
        env.reset(seed=0, options={"shadow": 7})


def test_a_dream_begins_from_given_frames(env: DreamEnv, model: WorldModel) -> None:
    """Frames with their actions, or one frame alone, are the context; in a batch one for all or one per row."""
    rng = np.random.default_rng(0)
    frames, actions = rng.integers(0, 256, (2, 5, SIZE, SIZE, 3)).astype(np.uint8), actions_of(0, 2, 4)
    first, info = env.reset(seed=3, options={"frames": frames[0], "actions": actions[0]})
    np.testing.assert_array_equal(first, frames[0, -1])
    np.testing.assert_array_equal(info["context"]["frames"], frames[0])
    np.testing.assert_array_equal(env.reset(seed=3, options={"frames": frames[0, :1]})[0], frames[0, 0])
    batch = vector(model, 2)
    for given, wanted in ((frames, frames[:, -1]), (frames[0], frames[[0, 0], -1])):
        acts = actions if given.ndim == 5 else actions[0]
        np.testing.assert_array_equal(batch.reset(seed=3, options={"frames": given, "actions": acts})[0], wanted)


def test_a_dream_begins_from_a_recording(stripe_recording: Path) -> None:
    """dataset, episode and start cut the context out of a recorded episode; another world's recording is refused."""
    recorded = EpisodeDataset.open(stripe_recording)
    spec, episode = recorded.spec, recorded.episode(3)
    env = DreamEnv(untrained(spec))
    frame, info = env.reset(seed=0, options={"dataset": stripe_recording, "episode": 3, "start": 4})
    np.testing.assert_array_equal(info["context"]["frames"], episode.frames[4 : 4 + spec.context_steps + 1])
    np.testing.assert_array_equal(info["context"]["actions"], episode.actions[4 : 4 + spec.context_steps])
    np.testing.assert_array_equal(frame, episode.frames[4 + spec.context_steps])
    with pytest.raises(UsageError, match="start"):
        env.reset(options={"dataset": stripe_recording, "episode": 3, "start": episode.num_steps})
    other = DreamEnv(untrained(dataclasses.replace(spec, action_names=("tint",))))
    with pytest.raises(UsageError, match=r"dataset action_names.*shade.*tint"):
        other.reset(options={"dataset": stripe_recording})


def test_a_world_without_lead_in_begins_with_its_first_frame() -> None:
    """A foreign world's context is its rendered reset frame alone."""
    spec = dataclasses.replace(WORLD, env_id="DreamTest/Bare-v0", frame_shape=(64, 64, 3), context_steps=0)
    env, truth = DreamEnv(untrained(spec)), Bare()
    frame, info = env.reset(seed=2)
    truth.reset(seed=2)
    np.testing.assert_array_equal(frame, truth.render())
    assert info["context"]["actions"].shape == (0, 2)
    env.step(np.zeros(2, np.float32))
    env.close()


def test_without_opengl_bundled_contexts_stand_in(tmp_path: Path) -> None:
    """Where the true world cannot draw, the checkpoint's own contexts are dreamt on, by seed, with one warning."""
    spec = dataclasses.replace(WORLD, env_kwargs={"blind": True})
    folder = checkpoints.save(untrained(spec).checkpoint, tmp_path / "tiny", card="# tiny\n", dtype=torch.float32)
    env = DreamEnv(folder)
    with pytest.raises(UsageError, match="libegl1"):
        env.reset(seed=0)
    bundle_contexts(folder, WORLD, count=3)
    seeing = DreamEnv(untrained(WORLD))
    with pytest.warns(RuntimeWarning, match="3 lead-ins"):
        np.testing.assert_array_equal(env.reset(seed=2)[0], seeing.reset(seed=2)[0])
    np.testing.assert_array_equal(env.reset(seed=4)[0], seeing.reset(seed=1)[0])
    with pytest.raises(UsageError, match="shade"):
        env.reset(seed=0, options={"shade": 7})
    env.close()
    seeing.close()


def test_the_true_world_is_built_once_and_closed_with_the_dream(model: WorldModel) -> None:
    """One true world per dream, none before the first reset, none after close; closing twice is allowed."""
    before = LeadInOnly.alive
    single, batch = DreamEnv(model), vector(model, 3)
    assert LeadInOnly.alive == before
    for seed in range(3):
        single.reset(seed=seed)
        batch.reset(seed=seed)
    assert LeadInOnly.alive == before + 2
    for env in (single, batch, single, batch):
        env.close()
    assert LeadInOnly.alive == before


def test_a_saved_moment_can_be_dreamt_again(env: DreamEnv, model: WorldModel, tmp_path: Path) -> None:
    """A restored state goes on to the bit as the original did, from memory or file; with a seed it goes on otherwise."""
    env.reset(seed=1)
    play(env, 3)
    state = env.save_state()
    state.save(tmp_path / "moment.safetensors")
    wanted = play(env, 3)
    for source in (state, tmp_path / "moment.safetensors", str(tmp_path / "moment.safetensors")):
        frame, info = DreamEnv(model).reset(options={"state": source})
        np.testing.assert_array_equal(frame, state.frames[0])
        assert set(info) == {"state", "is_success"}
        other = DreamEnv(model)
        other.reset(options={"state": source})
        np.testing.assert_array_equal(play(other, 3), wanted)
    env.reset(seed=77, options={"state": state})
    assert (play(env, 3) != wanted).any()


@pytest.mark.parametrize(("there", "here"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_a_moment_can_be_dreamt_on_in_another_number_type(model: WorldModel, there: str, here: str) -> None:
    """A state of a machine where the other type pays goes on, up to rounding, as it would have gone on there."""
    frames = []
    envs = [DreamEnv(WorldModel(model.checkpoint, dtype=getattr(torch, kind))) for kind in (there, here)]
    envs[0].reset(seed=1)
    state = envs[0].save_state()
    for env in envs:
        env.reset(options={"state": state})
        frames.append(play(env, 1).astype(int))
        env.close()
    assert np.abs(frames[0] - frames[1]).mean() < 2
    assert state.cache.recall_keys.dtype == getattr(torch, there), "the state itself stays as it was"


def test_forks_go_on_from_the_present_independently(model: WorldModel) -> None:
    """A fork has the same future and its own life: stepping or closing one leaves the other as it was."""
    env = DreamEnv(model, horizon=4)
    env.reset(seed=1)
    play(env, 2)
    twin = env.fork()
    ahead = [twin.step(action)[0] for action in actions_of(9, 2)]
    twin.reset(seed=8)
    twin.close()
    results = [env.step(action) for action in actions_of(9, 2)]
    np.testing.assert_array_equal(ahead, [result[0] for result in results])
    assert [result[3] for result in results] == [False, True], "the fork did not use up the original's horizon"
    again, _ = env.reset()
    assert again.shape == (SIZE, SIZE, 3)
    env.close()


def test_a_planner_can_fork_one_dream_into_many(env: DreamEnv) -> None:
    """fork_batch gives many copies of the present: with common noise, or each with its own."""
    env.reset(seed=1)
    play(env, 2)
    batch, noisy = env.fork_batch(3), env.fork_batch(3, seed=0)
    action = actions_of(4, 1)
    assert batch.num_envs == 3
    assert batch.action_space.shape == (3, 2)
    frames = batch.step(np.repeat(action, 3, axis=0))[0]
    assert np.abs(frames.astype(int) - frames[0]).max() <= 1
    apart = [noisy.step(np.repeat(action, 3, axis=0))[0].std(axis=0).max() for _ in range(3)]
    assert max(apart) > 1, "each with its own noise"
    assert np.abs(env.step(action[0])[0].astype(int) - frames[0]).max() <= 1


def test_a_state_of_another_kind_is_refused(env: DreamEnv, model: WorldModel) -> None:
    """Wrong rows, another network's state or something else altogether: each is named in a UsageError."""
    env.reset(seed=1)
    state = env.save_state()
    with pytest.raises(UsageError, match="1 or 3 rows"):
        vector(model, 3).reset(options={"state": state.select([0, 0])})
    with pytest.raises(UsageError, match="WorldState"):
        env.reset(options={"state": 5})
    other = dataclasses.replace(state, readout=state.readout[:, :1])
    with pytest.raises(UsageError, match="world state"):
        env.reset(options={"state": other})
    frames, _ = vector(model, 3).reset(options={"state": state})
    np.testing.assert_array_equal(frames, np.repeat(state.frames, 3, axis=0))
    assert isinstance(state, WorldState)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"frames": np.zeros((1, SIZE, SIZE, 3), np.float32)}, "uint8"),
        ({"frames": np.zeros((1, 32, 32, 3), np.uint8)}, "48, 48, 3"),
        ({"frames": np.zeros((2, SIZE, SIZE, 3), np.uint8)}, r"actions: got shape \(0, 2\)"),
        ({"frames": np.zeros((2, SIZE, SIZE, 3), np.uint8), "actions": np.full((1, 2), np.nan)}, "right = nan"),
        ({"frames": np.zeros((1, SIZE, SIZE, 3), np.uint8), "scene": 3}, "one source"),
        ({"actions": np.zeros((1, 2))}, "one source"),
        ({"dataset": "nowhere"}, "nowhere"),
        ({"scene": [1, 2]}, "scene"),
    ],
)
def test_bad_beginnings_are_named(env: DreamEnv, options: dict[str, Any], match: str) -> None:
    """Contexts of wrong type, size or count, and options that contradict each other, raise a UsageError."""
    with pytest.raises(UsageError, match=match):
        env.reset(seed=0, options=options)
