"""Streaming imagination: the cached stream is the training network, frame by frame, for as long as one likes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldsim import checkpoint as checkpoints
from worldsim.config import ARCHITECTURES, ModelConfig
from worldsim.denoiser import Context, step_index, to_uint8, to_unit
from worldsim.draws import Draws
from worldsim.episode import Readout
from worldsim.errors import UsageError
from worldsim.gradients import imagine
from worldsim.motion import elsewhere
from worldsim.rollout import Rollout, empty_state
from worldsim.spec import WorldSpec
from worldsim.state import WorldState
from worldsim.stream import FrameStream, Moment, runs_of
from worldsim.world_model import WorldModel

HEIGHT, WIDTH, ACTIONS = 16, 24, 2
CONFIG = ModelConfig(
    width=32, depth=2, heads=2, patch=8, stem_channels=8, head_blocks=1, cond_width=16, window=4, max_steps=4
)
WORLD = WorldSpec(
    env_id="none/None-v0",
    frame_shape=(HEIGHT, WIDTH, 3),
    action_names=("right", "up"),
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    frame_rate_hz=10.0,
    context_steps=2,
    readouts=(Readout(name="state", names=("x", "y", "z"), units=("m", "m", "m")),),
)


@pytest.fixture(scope="module", params=[*ARCHITECTURES, "taking turns", "pyramid", "camera"])
def model(
    request: pytest.FixtureRequest, lively: Callable[[ModelConfig, WorldSpec], checkpoints.Checkpoint]
) -> WorldModel:
    """A tiny world with random weights."""
    kinds: dict[str, dict[str, Any]] = {
        "dit": {},
        "taking turns": {"time_every": 2},
        "pyramid": {"pyramid": True, "fine_patch": 2},
        "camera": {"camera": True},
        "unet": {"architecture": "unet", "fine_patch": 2},  # three levels, so that several of them look back
        "unet-stacked": {"architecture": "unet-stacked", "fine_patch": 2},
    }
    config = dataclasses.replace(CONFIG, **kinds[request.param])
    return WorldModel(lively(config, WORLD), dtype=torch.float32)


def frames_of(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 256, (*shape, HEIGHT, WIDTH, 3)).astype(np.uint8)


def actions_of(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.uniform(-1, 1, (*shape, ACTIONS)).astype(np.float32)


def begin(rollout: Rollout, seeds: list[int], context_steps: int = 2) -> WorldState:
    """Start one world per seed; a world's context depends on its seed alone."""
    rngs = [np.random.default_rng(seed) for seed in seeds]
    frames = np.stack([frames_of(rng, context_steps + 1) for rng in rngs])
    actions = np.stack([actions_of(rng, context_steps) for rng in rngs])
    return rollout.start(frames, actions, np.asarray(seeds, dtype=np.int64))


def dream(rollout: Rollout, state: WorldState, num_steps: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Step all rows with the same scripted actions; return frames (b, t, h, w, 3) and states (b, t, 3)."""
    frames, states = [], []
    for action in actions_of(np.random.default_rng(seed), num_steps):
        out = rollout.step(state, np.repeat(action[None], state.batch_size, axis=0))
        state = out.state
        frames.append(out.frames)
        states.append(out.readouts["state"])
    return np.stack(frames, axis=1), np.stack(states, axis=1)


@pytest.mark.parametrize(("context_steps", "num_steps", "level"), [(0, 1, 0.0), (2, 4, 0.0), (9, 4, 0.75)])
@torch.inference_mode()
def test_the_cached_stream_is_the_full_history_pass(
    model: WorldModel, context_steps: int, num_steps: int, level: float
) -> None:
    """Every streamed estimate and readout equals the training pass over the whole clip, long after the window slid."""
    rollout, network = model.rollout(1), model.denoiser.network
    rng = np.random.default_rng(1)
    count = 20
    actions, context = actions_of(rng, count), frames_of(rng, 1, context_steps + 1)
    context[:, 2::3] = 90  # nothing to see, so that the action alone moves the camera
    noisy = torch.from_numpy(rng.standard_normal((count, HEIGHT, WIDTH, 3)).astype(np.float32))
    runs = runs_of(1 - rollout.context_noise, [level], int(step_index(num_steps)), "cpu")
    state = rollout.start(context, actions[None, :context_steps], np.asarray([5]))
    # one frame at a time, dreaming freely
    shown, noised, estimates, rows = [], [], [], [state.readout.clone()]
    for t in range(context_steps, count):
        last = state.recent[:, -1].clone()
        last_noised = last + rollout.context_noise * (state.fork().draw((HEIGHT, WIDTH, 3)) - last)
        moment = Moment.of(network, state.fork(), torch.from_numpy(actions[None, t]))
        stream = FrameStream(network, moment, runs)
        estimates.append(stream.commit_and_estimate(last_noised, noisy[None, t]))
        shown.append(last)
        noised.append(last_noised)
        state = rollout.step(state, actions[None, t]).state
        rows.append(state.readout.clone())

    before = to_unit(torch.from_numpy(context))
    history = Context(  # (1, count, H, W, 3)
        shown=torch.cat([before[:, :-1], torch.stack(shown, dim=1)], dim=1),
        noised=torch.cat([_as_committed(rollout, context, seed=5)[:, :-1], torch.stack(noised, dim=1)], dim=1),
    )
    draws = Draws(
        context_noise=torch.empty(0),
        noise=torch.empty(0),
        context_level=torch.full((1, count), 1 - rollout.context_noise),
        level=torch.full((1, count), level),
        known=torch.ones(1, dtype=torch.bool),
        num_steps=torch.tensor([num_steps]),
        turn=torch.ones(1),
    )
    conds = model.denoiser.conditions(torch.from_numpy(actions)[None], draws.known, draws)
    full = model.denoiser.estimate(history, noisy[None], conds)
    seen = history.shown[0]
    before = torch.cat([torch.zeros_like(seen[:1]), seen[:-1]])
    into = torch.from_numpy(np.pad(actions[:-1], ((1, 0), (0, 0))))
    read = model.denoiser.network.read(before, seen, into, torch.ones(count, dtype=torch.bool))

    torch.testing.assert_close(torch.cat(estimates), full[0, context_steps:], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(torch.cat(rows[:-1]), read[context_steps:], atol=2e-5, rtol=1e-4)


def _as_committed(rollout: Rollout, context: np.ndarray, seed: int) -> torch.Tensor:
    """Return the context frames (1, k+1, H, W, 3) as the rollout commits them: with noise drawn frame by frame."""
    generator = torch.Generator().manual_seed(seed)
    unit = torch.from_numpy(context).float() / 127.5 - 1
    noise = torch.stack([torch.randn(unit.shape[2:], generator=generator) for _ in range(unit.shape[1])])
    return (1 - rollout.context_noise) * unit + rollout.context_noise * noise


@torch.inference_mode()
def test_a_step_is_the_sampler_over_the_stream(model: WorldModel) -> None:
    """A dreamt frame is the Euler integral of the streamed estimates from the noise that the state draws next."""
    rollout = model.rollout(2)
    state = begin(rollout, [3])
    action = np.asarray([[0.3, -0.8]], dtype=np.float32)
    ahead = state.fork()
    context_noise, noise = (ahead.draw((HEIGHT, WIDTH, 3)) for _ in range(2))
    moment = Moment.of(model.denoiser.network, ahead, torch.from_numpy(action))
    stream = FrameStream(model.denoiser.network, moment, rollout.runs())
    noised = ahead.recent[:, -1] + rollout.context_noise * (context_noise - ahead.recent[:, -1])
    half = noise + (stream.commit_and_estimate(noised, noise) - noise) / 2
    wanted = stream.estimate(half, 2)
    got = rollout.step(state, action).frames
    assert np.abs(got.astype(int) - to_uint8(wanted).numpy()).max() <= 1


@torch.inference_mode()
def test_a_camera_that_moves_shows_in_what_is_remembered(model: WorldModel) -> None:
    """In these dreams some frames were seen from elsewhere and some were not, and something that was seen has left the picture."""
    state = begin(model.rollout(1), [0, 1, 2])
    if not model.checkpoint.model.surrounded:
        assert state.cache.views.numel() == state.cache.around.numel() == 0
        return
    shares, seen = [], 0.0
    for action in actions_of(np.random.default_rng(3), 12):
        state = model.rollout(1).step(state, np.repeat(action[None], 3, axis=0)).state
        shares.append(float(elsewhere(state.cache.views).float().mean()))
        seen = max(seen, float(state.cache.around[..., 3].mean()))
    rows, columns = state.cache.around.shape[1:3]
    assert 0.2 < np.mean(shares) < 0.7 and seen > HEIGHT * WIDTH / rows / columns + 0.01


@torch.inference_mode()
def test_frame_twenty_thousand_is_as_good_as_frame_twenty(model: WorldModel) -> None:
    """Two streams of the same frames, 20,002 frames apart, give the same estimates once older frames are forgotten.

    Surroundings forget nothing: they are made alike.
    """
    network, rng = model.denoiser.network, np.random.default_rng(2)
    near = begin(model.rollout(1), [0], context_steps=9)
    far = near.fork()
    far.times.add_(20_002)
    noise = torch.from_numpy(rng.standard_normal((1, HEIGHT, WIDTH, 3)).astype(np.float32))
    runs = runs_of(0.95, [0.25], int(step_index(4)), "cpu")
    layers = len(network.layers(near.grid))
    memory = (layers + 1) * (CONFIG.window - 1)  # what is recalled is found by keys that have seen the trunk
    for t in range(memory + 4):
        frame = torch.from_numpy(rng.uniform(-1, 1, (1, HEIGHT, WIDTH, 3)).astype(np.float32))
        action = torch.from_numpy(actions_of(rng, 1))
        answers = []
        states, rows = [], []
        for state in (near, far):
            stream = FrameStream(network, Moment.of(network, state, action), runs)
            answers.append(stream.commit_and_estimate(state.recent[:, -1], noise))
            rows.append(stream.read(frame))
            states.append(state.after(frame, action))
        near, far = states
        far.cache.around.copy_(near.cache.around)
        if t > memory:
            torch.testing.assert_close(*answers, atol=1e-5, rtol=0)
            torch.testing.assert_close(*rows, atol=1e-5, rtol=0)


def test_batch_mates_never_change_an_episode(model: WorldModel) -> None:
    """A row is equal to the bit whatever its mates, for the same batch size and place; another place only rounds."""
    rollout = model.rollout()
    frames, states = dream(rollout, begin(rollout, [1, 2, 3]), 8)
    again, states_again = dream(rollout, begin(rollout, [1, 8, 2]), 8)
    np.testing.assert_array_equal(frames[0], again[0])
    np.testing.assert_array_equal(states[0], states_again[0])
    assert (frames[1] != again[1]).any(), "other seeds dream other worlds"
    assert np.abs(frames[1].astype(int) - again[2]).max() <= 2
    np.testing.assert_allclose(states[1], states_again[2], atol=2e-2)


def test_batch_size_changes_an_episode_by_rounding_only(model: WorldModel) -> None:
    """A start is equal to the bit in any batch; steps in batches of another size differ by rounding only."""
    rollout = model.rollout()
    alone, together = begin(rollout, [1]), begin(rollout, [4, 1])
    assert_same_world(alone, together.select([1]))
    assert torch.equal(alone.readout[0], together.readout[1])
    frames, states = dream(rollout, alone, 6)
    both, both_states = dream(rollout, together, 6)
    assert np.abs(frames[0].astype(int) - both[1]).max() <= 2
    np.testing.assert_allclose(states[0], both_states[1], atol=2e-2)


def test_a_fork_dreams_the_same_and_leaves_the_original_alone(model: WorldModel) -> None:
    """A fork has the same future, noise included, and stepping it does not change the world it was forked from."""
    rollout = model.rollout()
    state = begin(rollout, [1, 2])
    fork = state.fork()
    ahead = dream(rollout, fork, 6)
    np.testing.assert_array_equal(state.times.numpy(), [3, 3])
    behind = dream(rollout, state, 6)
    np.testing.assert_array_equal(ahead[0], behind[0])
    np.testing.assert_array_equal(ahead[1], behind[1])


def test_new_seeds_give_another_future_of_the_same_world(model: WorldModel) -> None:
    """Reseeding changes what is dreamt next, the same way for the same seeds."""
    rollout = model.rollout()
    state = begin(rollout, [1, 2])
    own, _ = dream(rollout, state.fork(), 2)
    other, _ = dream(rollout, state.fork().reseed([7, 8]), 2)
    same, _ = dream(rollout, state.fork().reseed([7, 8]), 2)
    assert (own != other).any()
    np.testing.assert_array_equal(other, same)


def test_noise_alone_is_not_seen(model: WorldModel) -> None:
    """At level 0 a frame says nothing, and its noise changes nothing; a second step starts from some of it."""
    for num_steps, differ in ((1, False), (2, True)):
        rollout = Rollout(model.denoiser, num_steps, context_noise=0.0)
        state = begin(rollout, [1])
        other = state.fork().reseed([7])
        action = actions_of(np.random.default_rng(5), 1)
        frames = [rollout.step(one, action).frames for one in (state, other)]
        assert (frames[0] != frames[1]).any() == differ


def test_a_saved_state_goes_on_as_if_never_saved(model: WorldModel, tmp_path: Path) -> None:
    """Saving and loading a world changes nothing of its present or future."""
    rollout = model.rollout()
    state = begin(rollout, [1, 2])
    dream(rollout, state, 3)
    state.save(tmp_path / "world.safetensors")
    loaded = WorldState.load(tmp_path / "world.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["world.safetensors"]
    np.testing.assert_array_equal(loaded.frames, state.frames)
    assert rollout.read(loaded)["state"].tolist() == rollout.read(state)["state"].tolist()
    for mine, theirs in zip(dream(rollout, state, 6), dream(rollout, loaded, 6), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_broken_state_file_is_refused(model: WorldModel, tmp_path: Path) -> None:
    """A truncated or foreign file raises a UsageError that names it."""
    path = tmp_path / "world.safetensors"
    begin(model.rollout(), [1]).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match="world state file"):
        WorldState.load(path)
    with pytest.raises(UsageError, match="world state file"):
        WorldState.load(tmp_path / "missing.safetensors")


def test_rows_can_be_split_joined_and_exchanged(model: WorldModel) -> None:
    """join undoes select, put writes exactly the named rows, and all of them are copies."""
    rollout = model.rollout()
    state = begin(rollout, [1, 2, 3])
    expected, _ = dream(rollout, state.fork(), 3)
    joined = WorldState.join([state.select([row]) for row in range(3)])
    np.testing.assert_array_equal(dream(rollout, joined, 3)[0], expected)
    swapped = state.fork().put([0, 2], state.select([2, 0]))
    for row, origin in enumerate([2, 1, 0]):
        assert_same_world(swapped.select([row]), state.select([origin]))
    for row, origin in enumerate([1, 1, 0]):
        assert_same_world(state.select([1, 1, 0]).select([row]), state.select([origin]))
    np.testing.assert_array_equal(dream(rollout, state, 3)[0], expected)


def assert_same_world(one: WorldState, other: WorldState) -> None:
    """Assert that two states are equal in everything they hold, the next noise included."""
    for name in ("times", "recent", "past_actions", "readout"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    theirs = other.cache.tensors()
    for name, tensor in one.cache.tensors().items():
        assert torch.equal(tensor, theirs[name]), name
    np.testing.assert_array_equal(one.frames, other.frames)
    assert torch.equal(one.fork().draw((3,)), other.fork().draw((3,)))


def test_unfit_rows_are_refused(model: WorldModel) -> None:
    """put wants one row per index; a state of another network is named as such."""
    rollout = model.rollout()
    state = begin(rollout, [1, 2])
    with pytest.raises(UsageError, match=r"WorldState\.put"):
        state.put([0], state.fork())
    other = empty_state(
        checkpoints.build(ModelConfig(width=32, depth=1, heads=2, patch=8, window=5), WORLD), (16, 24), [0]
    )
    with pytest.raises(UsageError, match=r"world state: got .* and \d+ more, but allowed is") as refused:
        rollout.check_state(other)
    assert "readout" not in str(refused.value)
    with pytest.raises(
        UsageError, match=r"world state: got readout \(\(\d+,\), torch\.float32\), but allowed is readout"
    ):
        rollout.check_state(dataclasses.replace(state, readout=state.readout[:, 1:]))  # only what is otherwise is named
    rollout.check_state(state)


@pytest.mark.parametrize("num_steps", [0, 3, 8, -1])
def test_untrained_step_counts_are_refused(model: WorldModel, num_steps: int) -> None:
    """Only the powers of two up to the trained maximum sample; the error lists them."""
    with pytest.raises(UsageError, match="1, 2, 4"):
        model.rollout(num_steps)


def test_bad_contexts_and_actions_are_refused(model: WorldModel) -> None:
    """Wrong dtype, wrong count, wrong size, NaN: each raises a UsageError naming it."""
    rollout, rng = model.rollout(), np.random.default_rng(0)
    frames, actions, seeds = frames_of(rng, 1, 3), actions_of(rng, 1, 2), np.asarray([0])
    with pytest.raises(UsageError, match="one frame more than actions"):
        rollout.start(frames, actions_of(rng, 1, 3), seeds)
    with pytest.raises(UsageError, match="multiples of 8"):
        rollout.start(frames[:, :, :13], actions, seeds)
    with pytest.raises(UsageError, match="context actions"):
        rollout.start(frames, actions * np.float32("nan"), seeds)
    state = rollout.start(frames, actions, seeds)
    with pytest.raises(UsageError, match="NaN"):
        rollout.step(state, np.full((1, ACTIONS), np.nan, dtype=np.float32))


@pytest.mark.parametrize("num_steps", [1, 2])
def test_dreams_with_gradients_are_the_dreams_that_are_stepped(model: WorldModel, num_steps: int):
    """Frames and readouts agree with `step` beyond the window, the state is left alone, and every action has its say."""
    rollout, count = model.rollout(num_steps), 6
    state = begin(rollout, [1, 2])
    plans = torch.from_numpy(actions_of(np.random.default_rng(3), 2, count)).requires_grad_()
    before = state.fork()
    imagined = imagine(rollout, state, plans)
    assert_same_world(state, before)

    stepped = state.fork()
    for t in range(count):
        out = rollout.step(stepped, plans.detach().numpy()[:, t])
        stepped = out.state
        shown = to_unit(torch.from_numpy(out.frames))
        torch.testing.assert_close(imagined["frames"][:, t].detach(), shown, atol=1e-6, rtol=0)
        got = imagined["state"][:, t].detach().numpy()
        np.testing.assert_allclose(got, out.readouts["state"], atol=1e-5)

    imagined["state"][0, -1].sum().backward()
    assert plans.grad is not None
    assert (plans.grad[0].abs().sum(-1) > 0).all() and (plans.grad[1] == 0).all()
    (early,) = torch.autograd.grad(imagine(rollout, state, plans)["frames"][0, 1].sum(), plans)
    assert (early[0, :2] != 0).any() and (early[0, 2:] == 0).all()  # what comes later changes nothing before
