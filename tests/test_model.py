"""The network, its loss and the sampler: gradients, overfitting, exactness. Tiny real models, no mocks."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from worldsim import checkpoint as checkpoints
from worldsim.attention import rotary_phases, rotate
from worldsim.config import ARCHITECTURES, PRESETS, ModelConfig, preset
from worldsim.denoiser import Clip, Context, Denoiser, add_noise, step_index, to_uint8, to_unit
from worldsim.detail import FLOW_PIXELS, DetailHead, depth_to_space, space_to_depth
from worldsim.draws import draw
from worldsim.episode import Readout
from worldsim.errors import UsageError
from worldsim.losses import LossConfig, motion_error, pixel_weight
from worldsim.motion import warp
from worldsim.own_context import dream_on
from worldsim.readout import Read
from worldsim.recall import Recall
from worldsim.sampler import sample_euler, uniform_levels
from worldsim.spec import WorldSpec
from worldsim.stream import banded_attention

TINY = ModelConfig(width=64, depth=2, heads=2, stem_channels=16, head_blocks=1, cond_width=32, window=4)
SPEC = WorldSpec(
    env_id="test/Toy-v0",
    frame_shape=(32, 32, 3),
    action_names=("right", "down"),
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    frame_rate_hz=10.0,
    context_steps=2,
    readouts=(Readout(name="state", names=("x", "y"), units=("px", "px")),),
)


def make_denoiser(config: ModelConfig = TINY, seed: int = 0) -> Denoiser:
    """Return a tiny random denoiser."""
    torch.manual_seed(seed)
    return checkpoints.build(config, SPEC)


def make_clip(batch: int = 2, steps: int = 6, seed: int = 0) -> Clip:
    """Return a clip of a red square that moves by its action."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (batch, steps, 2)).astype(np.float32)
    place = np.full((batch, steps + 1, 2), 12.0, np.float32)
    frames = np.full((batch, steps + 1, 32, 32, 3), 110, np.uint8)
    for t in range(steps):
        place[:, t + 1] = np.clip(place[:, t] + 4 * actions[:, t], 0, 24)
    for b in range(batch):
        for t in range(steps + 1):
            x, y = place[b, t].astype(int)
            frames[b, t, y : y + 8, x : x + 8] = (220, 30, 30)
    return Clip(frames=torch.from_numpy(frames), actions=torch.from_numpy(actions))


def draws_for(clip: Clip, config: ModelConfig = TINY, seed: int = 0, shortcut_share: float = 0.0, **loss):
    """Return seeded noise and levels for a clip."""
    b, t = clip.actions.shape[:2]
    seeds = [(seed, row) for row in range(b)]
    return draw((t, *clip.frames.shape[2:]), seeds, LossConfig(**loss), config.max_steps, shortcut_share)


def test_places_apart_see_their_own_past_alone():
    """Where blocks take turns, the last one looks back place by place: it brings nothing from elsewhere."""
    denoiser = make_denoiser(dataclasses.replace(TINY, depth=1, time_every=1)).eval()
    network = denoiser.network
    cells, told = (
        torch.randn(3, 8, 8, 16),
        network.told(*(torch.ones(1, 3), torch.ones(1, 3).long()), torch.zeros(1, 3, 2), torch.ones(1, 3).bool()),
    )

    def last(cells: torch.Tensor) -> torch.Tensor:
        def mix(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))  # (H, T, N, K)
            return banded_attention(q, k, v, 4).transpose(0, 1)[None]

        return network.trunk(cells, told, network.phases(torch.arange(3), (2, 2)), mix).tokens[0, -1]

    changed = cells.clone()
    changed[0, 4:, 4:] += 1.0  # the last of the four patches, in the first frame
    moved = (last(changed) - last(cells)).abs().amax(-1) > 1e-6
    assert moved.tolist() == [False, False, False, True]


@pytest.mark.parametrize("kind", [*({"architecture": name} for name in ARCHITECTURES), {"pyramid": True}], ids=str)
def test_every_parameter_has_a_gradient_within_three_steps(kind: dict[str, Any]):
    """No weight is dead from the start: within three steps each has had a non-zero gradient (decay alone moves none)."""
    denoiser = make_denoiser(dataclasses.replace(TINY, **kind))
    optimizer = torch.optim.SGD(denoiser.parameters(), lr=1e-3)
    alive: set[str] = set()
    said, state = torch.zeros(4), {"state": torch.ones(4, 2)}
    for step in range(3):
        clip = make_clip(batch=4, seed=step)
        draws = draws_for(clip, seed=step, shortcut_share=0.5, action_dropout=0.3)
        optimizer.zero_grad()
        frames = {"before": clip.frames[:, 0], "shown": clip.frames[:, 1]}
        read = Read(**frames, actions=clip.actions[:, 0], rewards=said, terminated=said, readouts=state)
        denoiser(clip, draws, read, LossConfig())["loss"].backward()
        alive |= {n for n, p in denoiser.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
        optimizer.step()
    assert alive == {name for name, _ in denoiser.named_parameters()}


def test_overfits_one_clip():
    """A tiny model can learn one clip by heart: the image loss falls to a tenth of what the mean image would leave."""
    denoiser = make_denoiser()
    clip = make_clip(batch=1, steps=4)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=3e-3)
    config = LossConfig(action_dropout=0.0, chroma_weight=0.0, change_share=0.0, change_balance=0.0, robust_weight=0.0)
    target = to_unit(clip.frames[:, 1:])
    start = float((target - target.mean(1, keepdim=True)).square().mean())
    image = start
    for step in range(300):
        optimizer.zero_grad()
        terms = denoiser.loss(clip, draws_for(clip, seed=step, action_dropout=0.0), config)
        terms["loss"].backward()
        optimizer.step()
        image = float(terms["image"].detach())
        if image < 0.1 * start:
            break
    assert image < 0.1 * start


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_targets_see_only_their_past(architecture: str):
    """The estimate of a frame changes with earlier frames and actions inside the window, and with nothing else."""
    denoiser = make_denoiser(dataclasses.replace(TINY, architecture=architecture)).eval()
    later = architecture != "unet-stacked"  # what is stacked is seen for three frames and never again
    clip = make_clip(batch=1, steps=7)
    draws = draws_for(clip, action_dropout=0.0)
    draws = dataclasses.replace(draws, level=torch.full_like(draws.level, 0.5))

    def estimate(frames: torch.Tensor, actions: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        unit = to_unit(frames)
        seen = Context.of(unit[:, :-1], draws)
        noisy = add_noise(unit[:, 1:], noise, torch.zeros_like(draws.level))  # pure noise hides the targets
        with torch.no_grad():
            return denoiser.estimate(seen, noisy, denoiser.conditions(actions, draws.known, draws))[0]

    base = estimate(clip.frames, clip.actions, draws.noise)
    frames = clip.frames.clone()
    frames[:, 3] = 255 - frames[:, 3]
    moved = (estimate(frames, clip.actions, draws.noise) - base).abs().amax((1, 2, 3)) > 0
    # target i is frame i+1; frame 3 is context of frames 4 .. (directly for `window`, then through later contexts)
    assert moved.tolist() == [False, False, False, True, True, True, later]
    actions = clip.actions.clone()
    actions[:, 3] += 0.5
    moved = (estimate(clip.frames, actions, draws.noise) - base).abs().amax((1, 2, 3)) > 0
    assert moved.tolist() == [False, False, False, True, True, True, later]
    noise = draws.noise.clone()
    noise[:, 2] += 1.0
    moved = (estimate(clip.frames, clip.actions, noise) - base).abs().amax((1, 2, 3)) > 0
    assert moved.tolist() == [False, False, True, False, False, False, False]


def test_null_action_is_not_the_zero_action():
    """Hiding the action and giving a zero action are two different things to the model."""
    denoiser = make_denoiser().eval()
    condition = denoiser.network.condition
    level, index = torch.zeros(1), torch.zeros(1, dtype=torch.long)
    with torch.no_grad():
        hidden = condition(level, index, torch.zeros(1, 2), torch.tensor([False]))
        zero = condition(level, index, torch.zeros(1, 2), torch.tensor([True]))
    assert (hidden - zero).abs().max() > 1e-4


def test_actions_are_shown_on_their_range():
    """An action at its bound stands as 1 beside the embedding, whatever the unit; a hidden one as 0."""
    spec = dataclasses.replace(SPEC, action_low=(-2.0, 0.0), action_high=(2.0, 10.0))
    condition = checkpoints.build(TINY, spec).network.condition
    level, index = torch.zeros(2), torch.zeros(2, dtype=torch.long)
    with torch.no_grad():
        shown = condition(level, index, torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([True, False]))
    assert shown[:, -2:].tolist() == [[1.0, -1.0], [0.0, 0.0]]


def test_shortcut_goal_is_two_half_steps():
    """The shortcut goal is where two Euler steps of half the size lead, written as a clean estimate (Frans et al.)."""
    denoiser = make_denoiser().eval()
    clip = make_clip(batch=2)
    draws = dataclasses.replace(draws_for(clip), num_steps=torch.tensor([2, 2]), level=torch.zeros(2, 6))
    unit = to_unit(clip.frames)
    seen = Context.of(unit[:, :-1], draws)
    noisy = draws.noise
    goal = denoiser.shortcut_goal(seen, noisy, clip.actions, draws)

    def denoise(z: torch.Tensor, level: float) -> torch.Tensor:
        at = dataclasses.replace(draws, num_steps=torch.tensor([4, 4]), level=torch.full((2, 6), level))
        return denoiser.estimate(seen, z, denoiser.conditions(clip.actions, draws.known, at))

    with torch.no_grad():
        z = noisy + (denoise(noisy, 0.0) - noisy) * 0.25
        z = z + (denoise(z, 0.25) - z) * (0.25 / 0.75)
    # one step of half the way from z0 towards the goal lands where the two quarter steps did
    assert torch.allclose(noisy + (goal - noisy) * 0.5, z, atol=1e-5)


def test_sampler_is_exact_on_a_gaussian_with_known_denoiser():
    """With the exact denoiser of N(m, s^2), many Euler steps carry noise to m + s * noise, and one to the mean."""
    mean, spread = 0.7, 0.5

    def denoise(z: torch.Tensor, level: float) -> torch.Tensor:
        variance = level**2 * spread**2 + (1 - level) ** 2
        return mean + level * spread**2 * (z - level * mean) / variance

    noise = torch.linspace(-2, 2, 9)
    assert torch.allclose(sample_euler(denoise, noise, 1), torch.full((9,), mean))
    assert torch.allclose(sample_euler(denoise, noise, 4096), mean + spread * noise, atol=2e-3)
    seen: list[int] = []
    sample_euler(denoise, noise, 4, callback=lambda step, _: seen.append(step))
    assert seen == [0, 1, 2, 3] and uniform_levels(4) == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_patches_round_trip():
    """Gathering cells into patches and spreading them again changes nothing, whatever the aspect ratio."""
    x = torch.arange(2 * 8 * 12 * 3, dtype=torch.float32).view(2, 8, 12, 3)
    assert torch.equal(depth_to_space(space_to_depth(x, 4), 4), x)
    assert space_to_depth(x, 4).shape == (2, 2, 3, 48)


def test_where_nothing_can_be_recalled_nothing_is():
    """A head that would show the recalled picture alone has no share of it in frames that have none, and learns from them all the same."""
    torch.manual_seed(0)
    head = DetailHead(TINY, cond_dim=TINY.cond_width + 2)
    with torch.no_grad():
        head.out.bias.view(TINY.fine_patch**2, -1)[:, 4] = 8.0
    tokens, cells, cond = torch.randn(2, 2, 2, 64), torch.randn(2, 8, 8, 16), torch.randn(2, TINY.cond_width + 2)
    previous, recalled = (torch.rand(2, 2, 32, 32, 3) * 2 - 1).unbind(0)
    recalled.requires_grad_()
    estimate = head(tokens, cells, previous, recalled, torch.tensor([False, True]), cond, cond[:, :0]).estimate
    assert torch.allclose(estimate[0], recalled[0], atol=0.01)
    assert (estimate[1] - recalled[1]).abs().mean() > 0.1
    (slope,) = torch.autograd.grad(estimate[1].sum(), head.out.weight)
    assert bool(slope.isfinite().all()) and bool(slope.any())


def test_what_stays_stays_to_the_bit():
    """A pixel that hardly moves and whose other shares are small is the previous one, whatever else is offered."""
    torch.manual_seed(0)
    head = DetailHead(TINY, cond_dim=TINY.cond_width + 2)
    with torch.no_grad():
        outputs = head.out.bias.view(TINY.fine_patch**2, -1)
        outputs[:, 3] = 4.0
        outputs[:, 10:12] = 0.2 / FLOW_PIXELS / 2**0.5
        head.out.weight.mul_(0.1)
        for parameter in head.retouch.parameters():
            parameter.mul_(0.1)
    tokens, cells, cond = torch.randn(2, 2, 2, 64), torch.randn(2, 8, 8, 16), torch.randn(2, TINY.cond_width + 2)
    previous, recalled = (torch.rand(2, 2, 32, 32, 3) * 2 - 1).unbind(0)
    previous, nothing = to_unit(to_uint8(previous)), torch.zeros(2, dtype=torch.bool)
    with torch.no_grad():
        estimate = head(tokens, cells, previous, recalled, nothing, cond, cond[:, :0]).estimate
        assert torch.equal(to_uint8(estimate), to_uint8(previous))
        outputs[:, 3] = -4.0
        assert not torch.isclose(
            head(tokens, cells, previous, recalled, nothing, cond, cond[:, :0]).estimate, previous
        ).all()
        outputs[:, 3], outputs[:, 10:12] = 4.0, 1 / FLOW_PIXELS
        assert not torch.isclose(
            head(tokens, cells, previous, recalled, nothing, cond, cond[:, :0]).estimate, previous
        ).all()


def test_rare_and_small_motions_count():
    """A pusher's step weighs far more than its area; frames that all move do not drown frames in which little does."""
    frames = torch.full((1, 3, 32, 32, 3), 0.5)
    frames[:, 1, 15:17, 15:17] = -0.5  # little changes into frame 1, everything into frame 2
    frames[:, 2] = -frames[:, 1]
    weight = pixel_weight(frames, LossConfig())[..., 0]
    assert weight.mean() == pytest.approx(1, abs=1e-4)
    change = (frames[:, 1:] - frames[:, :-1]).square().mean(-1)
    little, much = (weight * change).sum((-1, -2))[0]
    assert weight[0, 0, 16, 16] > 5 * weight[0, 0, 2, 2]
    assert 0.02 < little / much < 1 and change[0, 0].sum() / change[0, 1].sum() < 0.005
    unbalanced = pixel_weight(frames, LossConfig(change_balance=0.0))[..., 0]
    ruled, rule = (unbalanced * change).sum((-1, -2))[0]
    assert little / much > 2 * ruled / rule


def test_recall_fetches_what_was_seen_and_nothing_hidden():
    """A query like the key of an earlier frame fetches that frame's pixels, patch by patch; hidden frames never show."""
    recall = Recall(TINY)
    with torch.no_grad():
        recall.query.weight.copy_(torch.eye(32, 64))
        recall.key.weight.copy_(torch.eye(32, 64))
        recall.sharpness.fill_(500.0)
    generator = torch.Generator().manual_seed(0)
    tokens, frames = torch.randn(1, 5, 4, 64, generator=generator), torch.rand(1, 5, 32, 32, 3, generator=generator)
    no_phase = torch.ones(1), torch.zeros(1)
    memory = recall.keys(tokens, no_phase), recall.patches(frames)
    wanted = torch.cat(
        [tokens[:, 3:4, :2], tokens[:, 1:2, 2:]], dim=2
    )  # upper patches of frame 3, lower ones of frame 1
    hidden = torch.zeros(1, 1, 5, dtype=torch.bool)
    with torch.no_grad():
        fetched = recall(wanted, no_phase, memory, hidden, (2, 2))[0, 0]
        hidden[..., 3] = True
        without = recall(wanted, no_phase, memory, hidden, (2, 2))[0, 0]
    torch.testing.assert_close(fetched, torch.cat([frames[0, 3, :16], frames[0, 1, 16:]]), atol=1e-3, rtol=0)
    assert (without[:16] - frames[0, 3, :16]).abs().mean() > 0.1


def test_own_context_is_a_dream():
    """Frames are true before the first dreamt one; each dreamt one is what the network makes of all frames before it."""
    config = dataclasses.replace(TINY, window=8)
    denoiser = make_denoiser(config).eval()
    clip = make_clip(batch=2, steps=6)
    level = torch.full((2, 6), 1 - config.context_noise)
    draws = dataclasses.replace(
        draws_for(clip, config, action_dropout=0.0),
        context_level=level,
        level=torch.zeros(2, 6),
        num_steps=torch.full((2,), 8),
    )
    with torch.no_grad():
        for parameter in denoiser.network.head.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    shown = dream_on(denoiser, clip, draws, 2)
    true = to_unit(clip.frames[:, :-1])
    assert torch.equal(shown[:, :2], true[:, :2])
    assert torch.equal(to_unit(to_uint8(shown)), shown)  # what a dream shows has 256 levels
    conds = denoiser.conditions(clip.actions, draws.known, draws)
    with torch.no_grad():
        estimate = denoiser.estimate(Context.of(shown, draws), draws.noise, conds)
    wanted = to_unit(to_uint8(estimate))[:, 1:5]  # of frames 2 .. 5
    assert (shown[:, 2:] - wanted).abs().max() < 1.5 * 2 / 255
    assert (shown[:, 2:] - true[:, 2:]).abs().max() > 0.1


def test_warp_again_and_again_neither_rings_nor_blurs_to_grey():
    """A hundred shifts to and fro by a third of a pixel bring no value that was not there, and keep an edge an edge."""
    start = torch.zeros(1, 16, 16, 3)
    start[:, 4:12, 4:12] = 0.5
    frame, flow = start, torch.full((1, 16, 16, 2), 1 / 3)
    for turn in range(100):
        frame = warp(frame, flow if turn % 2 else -flow)
    assert frame.min() >= 0 and frame.max() <= 0.5
    assert frame[0, 8, 8].min() > 0.4 and frame[0, 1, 1].max() < 0.1


def test_motion_error_falls_towards_the_true_flow_from_afar():
    """A dark square 8 pixels off: every step of the flow towards it lowers the error, though edges first meet late."""
    frame = torch.ones(1, 32, 32, 3)
    frame[:, 12:20, 4:12] = -1
    target = frame.roll(8, dims=2)
    errors = []
    for pixels in range(0, 9, 2):
        flow = torch.zeros(1, 32, 32, 2)
        flow[..., 1] = -float(pixels)
        errors.append(float(motion_error((warp(frame, flow) - target)[None], torch.ones(1, 1, 32, 32, 1))))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-6


def test_uint8_round_trip():
    """Every grey level survives the way to floats and back."""
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_unit(levels)), levels)


def test_rotary_scores_depend_on_relative_time_only():
    """Query-key products are the same at frame 5 and at frame 20,005."""
    q, k = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(0)).unbind(0)

    def score(start: int) -> torch.Tensor:
        cos, sin = rotary_phases(torch.tensor([start, start + 3]), (2, 2), 32)
        return rotate(q, cos[0], sin[0]) @ rotate(k, cos[1], sin[1]).T

    assert torch.allclose(score(5), score(20_005), atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_any_multiple_of_the_patch_can_be_trained(architecture: str):
    """Resolution and aspect ratio are free: the same weights take 32 x 32 and 16 x 48 frames."""
    denoiser = make_denoiser(dataclasses.replace(TINY, architecture=architecture))
    clip = make_clip()
    wide = dataclasses.replace(clip, frames=clip.frames[:, :, :16].repeat(1, 1, 1, 2, 1)[:, :, :, :48])
    for each in (clip, wide):
        assert torch.isfinite(denoiser.loss(each, draws_for(each), LossConfig())["loss"])


def test_step_index_counts_doublings():
    """Context has index 0; samplers of 1, 2, 4, 8 steps have 1, 2, 3, 4."""
    assert [step_index(n) for n in (1, 2, 4, 8)] == [1, 2, 3, 4]


def test_unknown_preset_and_bad_sizes_say_what_is_allowed():
    """Wrong settings end in one paragraph that names the argument and the choices."""
    with pytest.raises(UsageError, match=r"did you mean 'small'"):
        preset("smal")
    with pytest.raises(UsageError, match="heads"):
        ModelConfig(width=100, depth=1, heads=3)
    with pytest.raises(UsageError, match="unknown keys"):
        ModelConfig.from_json({**PRESETS["nano"].to_json(), "colour": 1})
