"""Surprise: the denoising loss of every frame of a real clip, with shared noise, by a tiny real model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from worldsim.checkpoint import Checkpoint, build
from worldsim.config import ARCHITECTURES, ModelConfig
from worldsim.denoiser import Clip, Context, Denoiser, add_noise, to_unit
from worldsim.draws import Draws
from worldsim.errors import UsageError
from worldsim.losses import LossConfig, level_weight
from worldsim.spec import WorldSpec
from worldsim.surprise import DRAWS, LEVELS, shared_noise, surprise
from worldsim.training_step import training_draws
from worldsim.world_model import WorldModel

SIDE, STEPS, JUMP_AT = 16, 6, 4
CONFIG = ModelConfig(
    width=32, depth=2, heads=2, patch=8, stem_channels=16, head_blocks=1, cond_width=16, window=16, max_steps=4
)
WORLD = WorldSpec(
    env_id="none/None-v0",
    frame_shape=(SIDE, SIDE, 3),
    action_names=("right",),
    action_low=(-1.0,),
    action_high=(1.0,),
    frame_rate_hz=10.0,
    context_steps=2,
)


def untrained(config: ModelConfig = CONFIG) -> Denoiser:
    """Return a tiny random denoiser, livelier than at birth, so that every input shows in the output."""
    torch.manual_seed(0)
    denoiser = build(config, WORLD)
    for name, parameter in denoiser.named_parameters():
        if any(part in name for part in ("modulation", "out.weight", "action")):
            parameter.data.mul_(8)
    return denoiser.eval()


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    return untrained()


def sliding(steps: int = STEPS) -> tuple[np.ndarray, np.ndarray]:
    """Return one clip of a red bar that goes one pixel to the right a step, and its actions."""
    frames = np.full((1, steps + 1, SIDE, SIDE, 3), 90, np.uint8)
    for t in range(steps + 1):
        frames[0, t, :, t : t + 4] = (230, 20, 20)
    return frames, np.ones((1, steps, 1), np.float32)


def clips(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (count, STEPS + 1, SIDE, SIDE, 3)).astype(np.uint8)
    return frames, rng.uniform(-1, 1, (count, STEPS, 1)).astype(np.float32)


def test_a_number_for_every_frame_but_the_first(denoiser: Denoiser) -> None:
    """Shapes and types are as promised, numbers are positive, one seed gives the same bits and another seed others."""
    frames, actions = clips(3)
    first = surprise(denoiser, frames, actions, [4, 5, 6])
    assert first.shape == (3, STEPS) and first.dtype == np.float32 and (first > 0).all()
    assert np.array_equal(first, surprise(denoiser, frames, actions, [4, 5, 6]))
    assert (first != surprise(denoiser, frames, actions, [7, 8, 9])).all()
    assert np.array_equal(first[1:2], surprise(denoiser, frames[1:2], actions[1:2], [5]))


def test_clips_of_one_seed_share_their_noise(denoiser: Denoiser) -> None:
    """Clips that agree up to a frame are alike up to it, bit for bit; what comes later never shows earlier."""
    frames, actions = clips(1)
    other_frames, other_actions = frames.copy(), actions.copy()
    other_frames[:, JUMP_AT:] = 255 - other_frames[:, JUMP_AT:]
    other_actions[:, JUMP_AT:] *= -1
    both = surprise(denoiser, np.concatenate([frames, other_frames]), np.concatenate([actions] * 2), [3, 3])
    assert np.array_equal(both[0, : JUMP_AT - 1], both[1, : JUMP_AT - 1])
    assert (both[0, JUMP_AT - 1 :] != both[1, JUMP_AT - 1 :]).all()
    told = surprise(denoiser, np.concatenate([frames] * 2), np.concatenate([actions, other_actions]), [3, 3])
    assert np.array_equal(told[0, :JUMP_AT], told[1, :JUMP_AT])
    assert told[0, JUMP_AT] != told[1, JUMP_AT]
    short = surprise(denoiser, frames[:, : JUMP_AT + 1], actions[:, :JUMP_AT], [3])
    assert np.array_equal(short[0], both[0, :JUMP_AT])


def in_two_streams(denoiser: Denoiser, frames: np.ndarray, actions: np.ndarray, seed: int) -> np.ndarray:
    """Return the surprise (1, T) as training reckons it: every level of every draw in one pass over the whole clip."""
    config, errors = denoiser.network.config, []
    unit = to_unit(torch.from_numpy(frames))
    for noise in shared_noise(seed, DRAWS, (STEPS, SIDE, SIDE, 3)):
        for level in torch.arange(LEVELS) / LEVELS:
            levels = level.expand(1, STEPS)
            draws = Draws(
                context_noise=noise[None, 0], noise=noise[None, 1], level=levels, known=torch.tensor([True]),
                context_level=torch.full((1, STEPS), 1 - config.context_noise),
                num_steps=torch.tensor([config.max_steps]), turn=torch.ones(1),
            )  # fmt: skip
            conds = denoiser.conditions(torch.from_numpy(actions), draws.known, draws)
            noisy = add_noise(unit[:, 1:], draws.noise, levels)
            estimate = denoiser.estimate(Context.of(unit[:, :-1], draws), noisy, conds)
            weight = level_weight(levels, LossConfig())
            errors.append((weight * (estimate - unit[:, 1:]).square()).mean((-1, -2, -3)))
    return torch.stack(errors).mean(0).detach().numpy()


@pytest.mark.parametrize(("architecture", "camera"), [*((name, False) for name in ARCHITECTURES), ("dit", True)])
@pytest.mark.parametrize("window", [16, 3])
def test_a_walk_is_the_pass_of_training(window: int, architecture: str, camera: bool) -> None:
    """Frame by frame the numbers are those of training's two streams, also where the window is shorter than the clip."""
    denoiser = untrained(dataclasses.replace(CONFIG, window=window, architecture=architecture, camera=camera))
    if camera:  # at birth nothing moves
        denoiser.get_parameter("network.head.camera.out.weight").data.normal_(std=0.02)
    frames, actions = clips(1)
    frames[:, 2] = 90  # nothing to see, so that the action alone moves the camera
    walked = surprise(denoiser, frames, actions, [3])
    assert walked == pytest.approx(in_two_streams(denoiser, frames, actions, 3), rel=1e-5)


def test_a_beginning_is_walked_once(denoiser: Denoiser) -> None:
    """Clips that share beginnings are the same bits together, in any order, as alone; so are those after a context."""
    frames, actions = clips(1)
    several, told = np.repeat(frames, 5, axis=0), np.repeat(actions, 5, axis=0)
    several[1, 3] = several[4, 3] = 7
    told[2, 4] = 0.5
    several[4, 5] = 200
    together = surprise(denoiser, several, told, [3, 3, 3, 8, 3])
    order = [4, 2, 0, 3, 1]
    assert np.array_equal(surprise(denoiser, several[order], told[order], [3, 3, 3, 8, 3]), together[order])
    for i, seed in enumerate([3, 3, 3, 8, 3]):
        alone = surprise(denoiser, several[i : i + 1], told[i : i + 1], [seed])
        assert np.array_equal(alone, together[i : i + 1])
    late = surprise(denoiser, several, told, [3, 3, 3, 8, 3], after=4)
    assert np.array_equal(late[:, 4:], together[:, 4:]) and (late[:, :4] == 0).all()


def test_levels_and_draws_count(denoiser: Denoiser) -> None:
    """More levels and more draws of noise are heeded."""
    frames, actions = clips(1)
    one = surprise(denoiser, frames, actions, [2], levels=1, draws=1)
    assert not np.array_equal(one, surprise(denoiser, frames, actions, [2], levels=1, draws=2))
    assert not np.array_equal(one, surprise(denoiser, frames, actions, [2], levels=4, draws=1))


def test_a_model_that_is_told_no_action_heeds_none(denoiser: Denoiser) -> None:
    """Without conditioning other actions change nothing, bit for bit; with it they do."""
    frames, actions = clips(1)
    same = [surprise(denoiser, frames, a, [2], conditioned=False) for a in (actions, -actions)]
    assert np.array_equal(same[0], same[1])
    assert (same[0] != surprise(denoiser, frames, actions, [2])).all()


def test_a_world_model_is_surprised(denoiser: Denoiser) -> None:
    """`WorldModel.surprise` is the denoiser's, heeds `unconditioned`, and names actions of the wrong kind."""
    made = Checkpoint(model=CONFIG, world=WORLD, weights=denoiser.state_dict(), sampler_steps=2)
    model, (frames, actions) = WorldModel(made, dtype=torch.float32), clips(2)
    assert np.array_equal(model.surprise(frames, actions, [1, 1]), surprise(denoiser, frames, actions, [1, 1]))
    blind = surprise(denoiser, frames, actions, [1, 1], conditioned=False)
    assert np.array_equal(model.unconditioned().surprise(frames, actions, [1, 1]), blind)
    with pytest.raises(UsageError, match="right"):
        model.surprise(frames, np.zeros((2, STEPS, 3), np.float32), [1, 1])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"levels": 3}, "levels"),
        ({"levels": 8}, "levels"),
        ({"levels": 0}, "levels"),
        ({"draws": 0}, "draws"),
        ({"seeds": [1, 2]}, "seeds"),
        ({"after": STEPS + 1}, "after"),
        ({"actions": np.zeros((1, STEPS + 1, 1), np.float32)}, "actions"),
    ],
)
def test_wrong_arguments_are_named(denoiser: Denoiser, change: dict, named: str) -> None:
    """Levels off the training grid, no draws, seeds and actions that do not fit the clips."""
    frames, actions = clips(1)
    with pytest.raises(UsageError, match=named):
        surprise(denoiser, **{"frames": frames, "actions": actions, "seeds": [1], **change})


def test_an_impossible_jump_surprises_who_knows_the_clip() -> None:
    """A model trained on one clip expects it better than before, and a bar that jumps less than one that goes on."""
    denoiser = untrained()
    frames, actions = sliding()
    jumped = frames.copy()
    jumped[:, JUMP_AT] = frames[:, 0]
    before = surprise(denoiser, frames, actions, [0])
    clip = Clip(frames=torch.from_numpy(frames), actions=torch.from_numpy(actions))
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=3e-3)
    for step in range(40):
        draws = training_draws(clip, denoiser, LossConfig(), 0.0, (0, step))
        optimizer.zero_grad()
        denoiser.loss(clip, draws, LossConfig())["loss"].backward()
        optimizer.step()
    after, shocked = (surprise(denoiser, each, actions, [0]) for each in (frames, jumped))
    assert after.mean() < 0.3 * before.mean()
    assert shocked[0, JUMP_AT - 1] > 4 * after[0, JUMP_AT - 1]
