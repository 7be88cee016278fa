"""A camera that turns: its map, what has left the picture, and from where a frame was seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from worldsim.losses import view_error
from worldsim.motion import (
    comes_back,
    elsewhere,
    go_on,
    middle,
    projective_flow,
    seen_from,
    surround,
    turned,
    views_after,
    warp,
)


def rotated(turn: float, tilt: float, roll: float) -> np.ndarray:
    """Return the rotation of rays (right, down, ahead) from a frame to the one before."""
    yaw = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    pitch = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    rolled = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return yaw @ pitch @ rolled


def map_of(rotation: np.ndarray, height: int, width: int, focal: float) -> torch.Tensor:
    """Return the map (1, 11) of a camera that turns."""
    scale = np.diag([width / 2 / focal, height / 2 / focal, 1])
    matrix = np.linalg.inv(scale) @ rotation @ scale
    matrix = (matrix / matrix[2, 2])[[1, 0, 2]][:, [1, 0, 2]] - np.eye(3)  # (y, x, 1)
    return torch.from_numpy(np.append(matrix.flatten()[:8], [0, 0, 0])[None]).float()


def test_a_turned_camera_is_a_map_of_the_plane():
    """The flow is where a pixel's ray met the picture before the camera turned; axes, halves and signs are all told by it."""
    height, width, focal = 24, 40, 30.0
    rotation = rotated(0.2, -0.1, 0.15)
    rows, columns = np.mgrid[:height, :width] + 0.5
    rays = np.stack([(columns - width / 2) / focal, (rows - height / 2) / focal, np.ones_like(rows)])
    before = np.einsum("ij,jhw->ihw", rotation, rays)
    expected = np.stack(
        [before[1] / before[2] * focal + height / 2 - rows, before[0] / before[2] * focal + width / 2 - columns], -1
    )

    flow = projective_flow(map_of(rotation, height, width, focal), height, width)
    np.testing.assert_allclose(flow[0].numpy(), expected, atol=1e-4)
    assert not projective_flow(torch.zeros(2, 11), height, width).any()


def test_what_leaves_the_picture_comes_back():
    """A picture that a camera tips out of sight, by 45 degrees in three steps, is back as it was; by 60, its lower part is not."""
    size, focal = (48, 32), 52.0
    picture = F.interpolate(torch.rand(1, 3, 9, 6), size, mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    around = surround(picture)
    assert torch.equal(middle(around, *size), picture)
    assert torch.equal(around[:, :48, :, :3], around[:, 48:49, :, :3].expand(-1, 48, -1, -1))
    up, down = (map_of(rotated(0.0, np.radians(angle), 0.0), *size, focal) for angle in (15, -15))
    for steps, kept in ((3, 48), (4, 30)):
        seen = around
        for maps in steps * [up] + steps * [down]:
            seen = go_on(seen, maps, warp(seen[..., :3], projective_flow(maps, *size)))
        errors = (middle(seen, *size) - picture).abs().mean((0, 2, 3))
        assert errors[:kept].max() < 0.03 and (kept == 48 or errors[-8:].mean() > 0.2), steps


def test_surroundings_know_what_was_seen():
    """The picture to begin with; what leaves it stays seen until it is carried over the margin, and is told when it comes back."""
    picture, left, right = torch.rand(1, 4, 8, 3), torch.zeros(1, 11), torch.zeros(1, 11)
    left[0, 5], right[0, 5] = 3 / 4, -3 / 4  # by three pixels
    middle_rows = slice(4, 8)

    def seen(around: torch.Tensor) -> list[bool]:
        assert torch.equal(around[0, middle_rows, :, 3] > 0.5, (around[0, 4:5, :, 3] > 0.5).expand(4, -1))
        return (around[0, 4, :, 3] > 0.5).tolist()

    around = surround(picture)
    assert seen(around) == 4 * [False] + 8 * [True] + 4 * [False]
    assert not comes_back(around, projective_flow(left, 4, 8)).any()  # nothing was ever seen out there
    gone = go_on(around, left, picture)
    assert seen(gone) == [False] + 11 * [True] + 4 * [False]
    back = comes_back(gone, projective_flow(right, 4, 8))[0, ..., 0]
    assert back[:, :3].all() and not back[:, 3:].any()
    assert not comes_back(gone, projective_flow(left, 4, 8)).any()
    whole = go_on(gone, left, picture)
    assert seen(whole) == 12 * [True] + 4 * [False]
    assert seen(go_on(whole, right, picture)) == 2 * [False] + 13 * [True] + [False]  # what is outside is coarser


def test_a_camera_that_stands_leaves_surroundings_alone():
    """Beside cameras that turn, too: to the bit, whatever little its map says; a row comes to the same alone."""
    size = (48, 32)
    frames, still = torch.rand(2, *size, 3), 0.0028 * torch.randn(1, 11).sign()
    turns = map_of(rotated(0.1, 0.1, 0.0), *size, 52.0)
    around = go_on(surround(frames[:1]), turns, frames[1:]).repeat(2, 1, 1, 1)

    after = go_on(around, torch.cat([still, turns]), frames)
    expected = around.clone()
    expected[:, 48:96, 16:48, :3] = frames
    assert torch.equal(after[0], expected[0])
    assert not torch.allclose(after[1], expected[1], atol=1e-3)
    assert torch.equal(after[1:], go_on(around[1:], turns, frames[1:]))


def test_a_view_is_how_far_the_camera_has_turned():
    """There and back is the same view, trembling leaves it; parallax is none of it, and the map into the first frame is not heeded."""
    maps = torch.zeros(1, 5, 11)
    maps[0, 0] = 9.0
    maps[0, 1, 5], maps[0, 2, 1], maps[0, 3, 5] = -0.2, 0.01, 0.2
    maps[0, :, 9] = 3.0
    views = views_after(maps)
    assert elsewhere(views)[0].tolist() == [
        [False, False, False, False, False],
        [True, False, False, False, False],
        [True, False, False, False, False],
        [False, True, True, False, False],
        [False, True, True, False, False],
    ]
    assert torch.equal(turned(views[:, 3, :4], maps[:, 4:5]), views[:, 4, :4])
    assert torch.equal(views[:, 2, :2], views[:, 1, :2])
    assert not elsewhere(views[..., :0]).any()  # without a camera


def test_views_are_not_rounded_under_autocast():
    """What is computed in bfloat16 moves a view by less than a hundredth of what makes another of it."""
    maps = 0.2 * torch.randn(2, 12, 11)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = views_after(maps)
    assert torch.allclose(rounded, views_after(maps), atol=1e-5)


def test_a_map_that_hardly_moves_can_be_learnt():
    """A step within the dead band counts as none, but its slope passes, or what says nothing at first would say nothing for ever."""
    maps = torch.zeros(1, 3, 11, requires_grad=True)
    views_after(maps)[0, 2, 0, 2].backward()
    assert maps.grad is not None and maps.grad[0, 1, 2] > 0.5 and maps.grad[0, 2, 2] > 0.5


def test_views_are_exact_however_far_the_camera_has_turned():
    """After several turns the view leads to the first frame as the turn as a whole does, and back again to nothing."""
    size, focal = (24, 40), 30.0
    turns = [rotated(0.3, 0.1, 0.0), rotated(0.1, 0.3, -0.4), rotated(-0.2, 0.1, 0.1)]
    whole = turns[0] @ turns[1] @ turns[2]
    maps = [torch.full((1, 11), 5.0), *(map_of(turn, *size, focal) for turn in (*turns, np.linalg.inv(whole)))]
    views = views_after(torch.stack(maps, dim=1))
    flow, both = seen_from(views[:, 3, 0], *size)
    wanted = projective_flow(map_of(whole, *size, focal), *size)
    assert torch.allclose(flow[both[..., 0]], wanted[both[..., 0]], atol=1e-3) and 0.1 < both.float().mean() < 0.9
    assert torch.allclose(views[:, 4, 0], views[:, 0, 0], atol=1e-5)
    assert not seen_from(views_after(torch.stack([maps[0], *6 * [maps[1]]], dim=1))[:, 6, 0], *size)[
        1
    ].any()  # all of it is gone


def test_how_a_camera_moves_in_the_dark_is_learnt_from_what_it_shows_when_it_is_back():
    """A camera looks away to where nothing can be seen, moves there, and comes back to what it saw, or a little beside it."""
    picture = 4 * F.avg_pool2d(torch.rand(1, 3, 37, 37), 6, 1).permute(0, 2, 3, 1) - 2
    shown = torch.zeros(1, 4, 32, 32, 3)
    shown[:, 0] = shown[:, 3] = picture
    known = torch.zeros(1, 4, 11)
    known[:, 1, 2], known[:, 3, 2] = 2.3, -2.5
    dark = torch.tensor([0.0], requires_grad=True)  # half of a picture is 1; with .2 it comes back to where it was
    place = F.one_hot(torch.tensor(2 * 11 + 2), 4 * 11).view(1, 4, 11)
    optimizer = torch.optim.Adam([dark], lr=0.01)
    errors = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = view_error(shown, known + dark * place)
        loss.backward()
        errors.append(float(loss.detach()))
        optimizer.step()
    assert errors[-1] < 0.3 * errors[0] and float(dark.detach()) == pytest.approx(0.2, abs=0.02)
