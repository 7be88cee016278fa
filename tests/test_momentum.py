"""What moves goes on moving: motion seen between two frames, carried into the next, and heeded by a head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from worldsim.config import ModelConfig
from worldsim.detail import Momentum
from worldsim.errors import UsageError
from worldsim.momentum import carried_on, seen_motion
from worldsim.motion import turned

SIDE, HALF = 32, 4
NO_VIEW = torch.zeros(1, 0)


def disc(down: float, right: float, ground: float = 0.0) -> Tensor:
    """Return a frame (1, H, W, 3) of a soft red disc, shaded by itself, on a chequered floor."""
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    inside = (HALF + 0.5 - ((y - down) ** 2 + (x - right) ** 2).sqrt()).clamp(0, 1)[..., None]
    floor = 0.3 * (((y // 8 + (x + ground) // 8) % 2) * 2 - 1)[..., None].expand(-1, -1, 3)
    shade = 0.3 * (torch.sin(1.1 * (y - down)) + torch.cos(1.3 * (x - right)))[..., None]
    return (inside * (torch.tensor([0.4, -0.6, -0.6]) + shade) + (1 - inside) * floor)[None]


def inside(down: float, right: float) -> tuple[slice, slice]:
    """Return the pixels well within the disc."""
    return slice(int(down) - 2, int(down) + 2), slice(int(right) - 2, int(right) + 2)


@pytest.mark.parametrize("way", [(0.0, 0.7), (1.5, 0.0), (-1.2, 2.0), (0.5, -2.5)])
def test_a_motion_is_seen_and_what_rests_rests(way: tuple[float, float]):
    """The flow inside a disc is its way back, within a fifth of a pixel or a tenth; the floor away from it has none."""
    now, before = disc(16, 16), disc(16 - way[0], 16 - way[1])
    seen = seen_motion(now, before, NO_VIEW)[0]
    middle = seen[inside(16, 16)].mean((0, 1))
    assert (middle + torch.tensor(way)).norm() < max(0.2, 0.12 * float(np.hypot(*way)))
    assert (seen[:6] == 0).all() and (seen[:, -6:] == 0).all()


def test_nothing_is_seen_where_nothing_tells():
    """No frame before, or the same frame: no motion; noise is no motion either, nor is a disc that comes from nowhere."""
    now = disc(16, 16)
    assert (seen_motion(now, torch.zeros_like(now), NO_VIEW) == 0).all()
    assert (seen_motion(now, now, NO_VIEW) == 0).all()
    far = seen_motion(now, disc(16, 60), NO_VIEW)[0]
    assert float((far[inside(16, 16)] != 0).float().mean()) < 0.3
    noisy = now + 0.01 * torch.randn(now.shape, generator=torch.Generator().manual_seed(1))
    assert (seen_motion(noisy, now, NO_VIEW) == 0).all()


def test_what_the_camera_did_is_no_motion():
    """A floor that has shifted because the camera turned is seen to rest, and the disc to move as much as it did on it."""
    pixels = 3.0  # the floor goes to the left as the camera turns right
    maps = torch.zeros(1, 11)
    maps[0, 5] = pixels * 2 / SIDE
    view = turned(torch.zeros(1, 9), maps)
    now, before = disc(16, 16 - pixels + 1.5, ground=pixels), disc(16, 16)
    assert float(seen_motion(now, before, NO_VIEW).abs().amax(-1).gt(0.5).float().mean()) > 0.2  # the floor moves
    seen = seen_motion(now, before, view)[0]
    place = inside(16, 16 - pixels + 1.5)
    assert (seen[place].mean((0, 1)) - torch.tensor([0.0, -1.5])).norm() < 0.3
    assert (seen[:6, 6:] == 0).all()
    assert (seen[:, -3:] == 0).all()  # what has just come into the picture has come from nowhere


def test_a_motion_is_carried_with_what_moves():
    """Pixels that the disc comes to have its motion before it is there; those that nothing comes to keep what was seen."""
    seen = torch.zeros(1, 12, 12, 2)
    seen[0, 4:8, 2:6, 1] = -2.0  # moves two pixels to the right
    carried = carried_on(seen)
    assert (carried[0, 4:8, 4:8, 1] == -2).all()
    assert (carried[0, :, 8:] == 0).all() and (carried[0, :4] == 0).all()
    assert (carried[0, 4:8, 2:4, 1] == -2).all()
    slow = seen / 20  # less than counts as a motion
    assert torch.equal(carried_on(slow), slow)


def test_the_faster_of_two_motions_hides_the_other():
    """Where two end in one pixel the faster counts."""
    seen = torch.zeros(1, 3, 8, 2)
    seen[0, 1, 1, 1], seen[0, 1, 4, 1] = -2.0, 1.0
    assert carried_on(seen)[0, 1, 3].tolist() == [0.0, -2.0]


def test_at_first_half_of_a_motion_goes_on():
    """An untrained judge adds half of the carried flow and corrects nothing; a trained one may stop it."""
    judge = Momentum(hidden=4)
    previous, hidden, local = torch.rand(1, 8, 8, 3), torch.rand(1, 8, 8, 4), torch.rand(1, 8, 8, 2)
    drift = torch.randn(1, 8, 8, 4)
    with torch.no_grad():
        assert torch.allclose(judge(previous, hidden, local, drift), 0.5 * drift[..., :2])
        judge.judge[-1].bias[0] = -20.0
        assert judge(previous, hidden, local, drift).abs().max() < 1e-6


def test_a_window_without_two_frames_is_refused():
    """Stacked frames must be two at least, or no motion can be seen."""
    sizes = {"width": 32, "depth": 1, "heads": 2, "architecture": "unet-stacked"}
    with pytest.raises(UsageError, match="window"):
        ModelConfig(**sizes, window=2, momentum=True)
    assert ModelConfig(**sizes, window=3, momentum=True).recent == 2
