"""Motion of pixels and of the whole picture: warps, maps of the plane, and what a camera adds to a model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from worldsim import checkpoint as checkpoints
from worldsim.beginning import first_model, first_weights
from worldsim.config import ARCHITECTURES, ModelConfig
from worldsim.dataset import EpisodeDataset
from worldsim.denoiser import Clip, Context, Denoiser, to_unit
from worldsim.detail import decided
from worldsim.draws import Draws, draw
from worldsim.losses import LossConfig, blurred_error, motion_error, pixel_weight, robust_error
from worldsim.motion import (
    CAMERA_SCALE,
    STILL_PIXELS,
    CameraMotion,
    projective_flow,
    settle,
    shows,
    warp,
    warp_blurred,
)
from worldsim.optim import OptimConfig, make_optimizers
from worldsim.spec import WorldSpec

TINY = ModelConfig(width=64, depth=1, heads=2, stem_channels=16, head_blocks=1, cond_width=32, window=4)


def test_warp_fetches_each_pixel_from_flow_away():
    """Whole pixels are moved exactly, half pixels averaged, and outside the frame the border goes on; axes not mixed."""
    frame = torch.arange(2 * 4 * 6 * 3, dtype=torch.float32).view(2, 4, 6, 3)
    flow = torch.zeros(2, 4, 6, 2)
    assert torch.allclose(warp(frame, flow), frame, atol=1e-4)
    flow[0, ..., 0], flow[1, ..., 1] = 1.0, 2.5
    moved = warp(frame, flow)
    assert torch.allclose(moved[0, :3], frame[0, 1:], atol=1e-4)
    assert torch.allclose(moved[0, 3], frame[0, 3], atol=1e-4)
    assert torch.allclose(moved[1, :, 0], (frame[1, :, 2] + frame[1, :, 3]) / 2, atol=1e-4)
    assert torch.allclose(moved[1, :, 5], frame[1, :, 5], atol=1e-4)


def test_warp_keeps_to_the_pixels_around_the_place():
    """Every value lies between the least and the largest of the 3 x 3 pixels around where it is fetched, border included."""
    rng = torch.Generator().manual_seed(0)
    frame = torch.rand(2, 12, 16, 3, generator=rng)
    flow = 3 * torch.randn(2, 12, 16, 2, generator=rng)
    moved = warp(frame, flow)
    bordered = F.pad(frame.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate").permute(0, 2, 3, 1)
    for f, i, j in np.ndindex(2, 12, 16):
        row, column = (
            int(x.round().clamp(0, n - 1)) for x, n in zip(flow[f, i, j] + torch.tensor([i, j]), (12, 16), strict=True)
        )
        patch = bordered[f, row : row + 3, column : column + 3].flatten(0, 1)
        assert (moved[f, i, j] >= patch.amin(0)).all() and (moved[f, i, j] <= patch.amax(0)).all()


def test_warp_limits_no_more_than_that():
    """What it fetches is the bicubic value, limited to the range that pooling finds around the nearest pixel, to the bit."""
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 16, 16, generator=rng)
    flow = 3 * torch.randn(2, 16, 16, 2, generator=rng)
    at = torch.arange(16) - 7.5
    places = torch.stack([at + flow[..., 1], at[:, None] + flow[..., 0]], dim=-1) / 8
    value = F.grid_sample(image, places, mode="bicubic", padding_mode="border", align_corners=False)
    most, least = (
        sign
        * F.grid_sample(
            F.max_pool2d(sign * image, 3, 1, 1), places, mode="nearest", padding_mode="border", align_corners=False
        )
        for sign in (1, -1)
    )
    expected = value.minimum(most).maximum(least)
    assert not torch.equal(expected, value)
    assert torch.equal(warp(image.permute(0, 2, 3, 1), flow), expected.permute(0, 2, 3, 1))


def test_blurred_frames_move_as_sharp_ones_do():
    """Two pixels along a flow of two pixels; nothing by a flow of nothing; with a margin, from there too.

    A slope, which blurring leaves alone, stays where it is.
    """
    slope = (torch.arange(16.0)[:, None] + 2 * torch.arange(24.0))[None, ..., None].expand(1, 16, 24, 3)
    assert torch.allclose(warp_blurred(slope, torch.zeros(1, 16, 24, 2))[:, 5:-5, 5:-5], slope[:, 5:-5, 5:-5])
    frame = torch.rand(1, 16, 24, 3, generator=torch.Generator().manual_seed(0))
    still = warp_blurred(frame, torch.zeros(1, 16, 24, 2))
    flow = torch.zeros(1, 16, 24, 2)
    flow[..., 0] = 2.0
    assert torch.allclose(warp_blurred(frame, flow)[:, :-4], still[:, 2:-2], atol=1e-5)
    middle_rows = flow[:, 4:12]
    assert torch.allclose(warp_blurred(frame, middle_rows), still[:, 6:14], atol=0.005)


@pytest.mark.parametrize("blurred", [False, True])
def test_a_thin_line_that_grows_is_found_from_afar(blurred: bool):
    """A wall that rises from a line on the floor: where the flow begins with nothing, only the blurred error leads it there."""
    before = torch.full((1, 32, 32, 3), 0.5)
    before[:, 20:22, 8:24] = -0.8
    after = before.clone()
    after[:, 15:22, 8:24] = -0.8
    flow = torch.zeros(1, 32, 32, 2, requires_grad=True)
    optimizer = torch.optim.Adam([flow], lr=0.1)
    even = torch.ones(1, 1, 32, 32, 1)
    for _ in range(150):
        error = motion_error((warp(before, flow) - after)[None], even)
        if blurred:
            error = error + LossConfig().blur_weight * blurred_error(before[None], flow[None], after[None], even)
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    wall = (warp(before, flow) - after).detach()[0, 15:20, 8:24].abs()
    assert wall.max() < 0.02 if blurred else wall.mean() > 0.8


def test_small_flows_settle_and_still_learn():
    """Short flows count as none, others are kept, and both pass their gradients on unchanged."""
    flow = torch.tensor([[[[0.1, -0.1], [0.0, STILL_PIXELS + 2.0]]]], requires_grad=True)
    settled = settle(flow)
    assert torch.equal(settled, torch.tensor([[[[0.0, 0.0], [0.0, STILL_PIXELS + 2.0]]]]))
    settled.sum().backward()
    assert flow.grad is not None and torch.equal(flow.grad, torch.ones_like(flow))


def test_a_camera_that_moves_shows_what_stands_off_the_plane():
    """The flow is where each point was seen before the camera turned and moved, on the plane and off it; signs are told."""
    height, width = 24, 40
    rng = np.random.default_rng(0)
    turn, slope = (
        0.1,
        np.array([0.1, 0.5, 0.6]),
    )  # rays are (right, down, ahead); the plane is what slope @ point = 1 on
    rotation = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    moved = np.array([0.2, -0.1, 0.15])
    rows, columns = np.mgrid[:height, :width] + 0.5
    rays = np.stack([columns / (width / 2) - 1, rows / (height / 2) - 1, np.ones_like(rows)])
    off = rng.uniform(0, 0.4, rows.shape)
    points = rays * (1 - off) / np.einsum("i,ihw->hw", slope, rays)
    before = np.einsum("ij,jhw->ihw", rotation, points) + moved[:, None, None]
    expected = np.stack(
        [(before[1] / before[2] + 1) * height / 2 - rows, (before[0] / before[2] + 1) * width / 2 - columns], -1
    )

    matrix = rotation + np.outer(moved, slope)
    parallax = moved[[1, 0, 2]] / matrix[2, 2]
    matrix = (matrix / matrix[2, 2])[[1, 0, 2]][:, [1, 0, 2]] - np.eye(3)  # (y, x, 1)
    numbers = torch.from_numpy(np.append(matrix.flatten()[:8], parallax)[None]).float()
    flow = projective_flow(numbers, height, width, torch.from_numpy(off / points[2])[None, ..., None].float())
    np.testing.assert_allclose(flow[0].numpy(), expected, atol=1e-3)


def test_a_share_that_is_shut_can_open():
    """Small shares count as none and the rest are made one whole, but the slope is that of shares as they were."""
    logits = torch.tensor([[4.0, 1.0, -3.0]], requires_grad=True)
    shares = decided(logits.softmax(-1))
    assert shares[0].tolist() == pytest.approx([1, 0, 0], abs=1e-6)
    error = (shares * torch.tensor([1.0, 0.0, 2.0])).sum()
    (slope,) = torch.autograd.grad(error, logits)
    (wanted,) = torch.autograd.grad((logits.softmax(-1) * torch.tensor([1.0, 0.0, 2.0])).sum(), logits)
    assert torch.allclose(slope, wanted) and (slope[0, 1:] != 0).all()
    mixed = decided(torch.tensor([[0.5, 0.3, 0.2]]))
    assert mixed[0].tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7])


def test_a_new_camera_says_nothing_and_heeds_actions():
    """At first nothing moves; afterwards the map is a free part and one that is linear in the action."""
    torch.manual_seed(0)
    camera = CameraMotion(8, 5, 2)
    tokens, cond = torch.randn(1, 6, 8).expand(3, 6, 8), torch.randn(1, 5).repeat(3, 1)
    cond[:, -2:] = torch.tensor([[0.0, 0.0], [0.5, -0.5], [1.0, -1.0]])
    before = torch.rand(3, 8, 12, 3)
    assert not projective_flow(camera(tokens, cond, before), 8, 12).any()
    with torch.no_grad():
        camera.out.weight.normal_(std=0.1)
        camera.out.weight[[6, 7, 20, 21, 22, 23]] = 0  # no perspective, in which flows are not linear
        camera.hidden.weight[:, -2:] = 0  # now the action comes in by the linear part alone
        still, half, whole = projective_flow(camera(tokens, cond, before), 8, 12)
        assert still.abs().max() > 0.1 and (whole - still).abs().max() > 0.1
        assert torch.allclose(half, (still + whole) / 2, atol=1e-5)


def test_where_nothing_is_seen_a_camera_moves_as_the_action_alone_tells():
    """Whatever the tokens say after a frame of sky; a strip of floor at its border is enough to be heeded."""
    torch.manual_seed(0)
    camera = CameraMotion(8, 5, 2)
    for parameter in camera.out.parameters():
        torch.nn.init.normal_(parameter)
    tokens, cond = torch.randn(3, 6, 8), torch.randn(3, 5)
    sky = torch.linspace(0.3, 0.4, 64)[:, None, None].expand(3, 64, 64, 3).clone()
    sky[2, -2:, ::8] = -0.5
    assert shows(sky)[:, 0].tolist() == [0, 0, 1]
    maps, alone = camera(tokens, cond, sky), camera.blind(cond)
    assert torch.equal(maps[:2], alone[:2]) and (maps[2] - alone[2]).abs().max() > 0.1
    assert torch.allclose(camera.blind(2 * cond), 2 * alone, atol=1e-5) and alone.abs().min() > 0
    camera.out.weight.data.zero_()  # now nothing is heard of what is seen, and what is left beside the action is the free part
    free = torch.cat([camera.out.bias[:8], camera.out.bias[8 + 8 * 2 :][:3]])
    assert torch.allclose(camera(tokens, cond, sky)[2], alone[2] + CAMERA_SCALE * free, atol=1e-5)


def test_what_a_camera_says_beyond_the_action_has_its_price(stripe_recording: Path):
    """The price falls on what is seen, of frames with noise and without, and not on what the action alone tells."""
    world = EpisodeDataset.open(stripe_recording).spec
    config = dataclasses.replace(TINY, camera=True)
    denoiser, clip = checkpoints.build(config, world), turning(2, 3, 0, world)
    camera = denoiser.network.head.camera
    assert camera is not None
    said, steers = camera.out, slice(8, 8 + 8 * world.action_dim)
    with torch.no_grad():
        said.bias[steers] = 0.1
    price = denoiser.loss(clip, noise_for(clip, config), LossConfig())["unheard"]
    assert price.item() == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        said.bias[2], said.bias[5] = 0.4, -0.3
    denoiser.loss(clip, noise_for(clip, config), LossConfig())["unheard"].backward()
    slope = said.bias.grad
    assert slope is not None and slope[2] > 0.1 and slope[5] < -0.1 and slope[steers].abs().max() < 1e-6
    dear, free = (LossConfig(unheard_weight=weight) for weight in (1.0, 0.0))
    terms, others = (denoiser.loss(clip, noise_for(clip, config), each) for each in (dear, free))
    some = 5 / 6  # before the first frame nothing was seen
    assert terms["unheard"].item() == pytest.approx(some * CAMERA_SCALE * 0.5, abs=1e-5)
    assert (terms["loss"] - others["loss"]).item() == pytest.approx(terms["unheard"].item(), abs=1e-5)


def turning(batch: int, steps: int, seed: int, world: WorldSpec) -> Clip:
    """Return clips of a picture before which a camera rolls, up to a sixth of a radian a frame, as the first action says."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (batch, steps, world.action_dim)).astype(np.float32)
    height, width, _ = world.frame_shape
    picture = torch.from_numpy(rng.uniform(0, 255, (batch, 3, height // 4, width // 4)).astype(np.float32))
    angles = torch.from_numpy(np.concatenate([np.zeros((batch, 1)), np.cumsum(actions[..., 0] / 6, 1)], 1)).float()
    rows = torch.stack([angles.cos(), -angles.sin(), 0 * angles, angles.sin(), angles.cos(), 0 * angles], -1)
    places = F.affine_grid(rows.view(-1, 2, 3), [batch * (steps + 1), 3, height, width], align_corners=False)
    pictures = picture.repeat_interleave(steps + 1, 0)
    frames = F.grid_sample(pictures, 0.6 * places, mode="nearest", padding_mode="reflection", align_corners=False)
    frames = frames.view(batch, steps + 1, 3, height, width).permute(0, 1, 3, 4, 2)
    return Clip(frames=frames.to(torch.uint8), actions=torch.from_numpy(actions))


def noise_for(clip: Clip, config: ModelConfig, seed: int = 0) -> Draws:
    """Return seeded noise and levels for clips."""
    b, t = clip.actions.shape[:2]
    seeds = [(seed, row) for row in range(b)]
    return draw((t, *clip.frames.shape[2:]), seeds, LossConfig(), config.max_steps, 0.0)


@pytest.mark.heavy
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_moves_as_one_is_left_to_the_camera(stripe_recording: Path, architecture: str):
    """The moved frame becomes far better than a copy, on pictures never seen, and the local flow has hardly a part in that."""
    torch.manual_seed(0)
    world = EpisodeDataset.open(stripe_recording).spec
    config = dataclasses.replace(TINY, architecture=architecture, camera=True)
    denoiser = checkpoints.build(config, world)
    optimizers = make_optimizers(denoiser, OptimConfig(), torch.float32)
    for step in range(60):
        clip = turning(6, 4, step, world)
        denoiser.loss(clip, noise_for(clip, config, step), LossConfig())["loss"].backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    clip = turning(16, 4, 1000, world)
    with torch.no_grad():
        terms = denoiser.loss(clip, noise_for(clip, config), LossConfig())
    frames = to_unit(clip.frames)
    weight = pixel_weight(frames, LossConfig())
    copying = motion_error(frames[:, :-1] - frames[:, 1:], weight)
    assert terms["motion"] < 0.4 * copying
    assert terms["local"] < 0.35  # pixels, of about one
    if config.surrounded:
        copying = robust_error((frames[:, :-2] - frames[:, 1:-1]).flatten(0, 1))
        assert terms["carried"] < 0.6 * copying  # and what has left the picture is moved alike


def test_the_operations_of_a_training_are_counted(stripe_recording: Path):
    """A hook on every module, as PyTorch's counter sets one, finds no tensor that it cannot follow back."""
    world = EpisodeDataset.open(stripe_recording).spec
    config = dataclasses.replace(TINY, camera=True)
    denoiser, clip = checkpoints.build(config, world), turning(2, 3, 0, world)
    with FlopCounterMode(display=False) as counter:
        denoiser.loss(clip, noise_for(clip, config), LossConfig())["loss"].backward()
    assert counter.get_total_flops() > 0


def test_a_checkpoint_without_a_camera_gains_one():
    """Told of no action, the grown model goes on as before but for the steering that it forgets; it reads the same.

    Asked for no camera it stays as it is.
    """
    shipped = checkpoints.load("arena-small")
    bare = dataclasses.replace(shipped.model, camera=False)
    before = checkpoints.build(bare, shipped.world).eval()
    for parameter in before.parameters():
        torch.nn.init.normal_(parameter, std=0.03)
    weights = {name: weight.clone() for name, weight in before.state_dict().items()}
    start = dataclasses.replace(shipped, model=bare, weights=weights)
    before.network.head.forget_steering()  # that is learnt anew
    assert first_model("small", start, start.world) == start.model
    model = first_model("small-camera", start, start.world)
    assert model == dataclasses.replace(start.model, camera=True)
    after = first_weights(model, start, start.world, 0).eval()
    frames = torch.randint(0, 256, (1, 2, *start.world.frame_shape), dtype=torch.uint8)
    clip = Clip(frames=frames, actions=torch.zeros(1, 1, start.world.action_dim))
    draws = dataclasses.replace(noise_for(clip, model), known=torch.zeros(1, dtype=torch.bool))

    def goes_on(denoiser: Denoiser) -> torch.Tensor:
        seen = Context.of(to_unit(frames[:, :-1]), draws)
        estimate = denoiser.estimate(seen, draws.noise, denoiser.conditions(clip.actions, draws.known, draws))
        return estimate[:, :, 16:-16, 16:-16]  # what comes from beyond the border is limited otherwise

    def reads(denoiser: Denoiser) -> dict[str, torch.Tensor]:
        unit, known = to_unit(frames[0]), torch.ones(1, dtype=torch.bool)
        return denoiser.read(denoiser.network.read(unit[:-1], unit[1:], clip.actions[0], known))

    with torch.no_grad():
        assert torch.allclose(goes_on(after), goes_on(before), atol=1e-5)
        for name, values in reads(before).items():
            assert torch.equal(reads(after)[name], values)
    again = first_weights(model, dataclasses.replace(start, model=model, weights=after.state_dict()), start.world, 1)
    for mine, theirs in zip(again.state_dict().values(), after.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
