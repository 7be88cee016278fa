"""Momentum: what moved between the last two frames goes on moving, unless the network says otherwise.

The motion of every pixel between two frames is seen as Lucas and Kanade see it (1981; a window around each, a few iterations),
without learning, and carried along itself into the frame to come (as motion fields are projected in video coding). A network
that had to infer both from pixels learnt six tenths of the way that a body slides in a step, and nearly nothing after ten steps
of a dream.

Dimension keys: F frames, H x W pixels, c colours, V numbers of a view.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.motion import STILL_PIXELS, seen_from, settle

WINDOW = 5
"""Side in pixels of the window that moves as one."""
ITERATIONS = 3
REGULAR = 0.01
"""What is added to the squared slopes (per pixel, range -1 .. 1): where nothing is to be seen nothing moves."""
REACH = 3
"""Farthest way in pixels that a motion is carried; faster ones stay where they are seen."""
MEETS = 0.75
"""A carried motion belongs to a pixel if it ends within so many pixels of it, down and right."""
EXPLAINS = 0.5
"""A motion is believed where it leaves less than this of the squared difference that standing still leaves."""
LEAST_DIFFERENCE = 1e-3
"""Mean squared difference in a window below which nothing has changed."""


@torch.no_grad()
def seen_motion(now_FHWc: Tensor, before_FHWc: Tensor, view_FV: Tensor) -> Tensor:
    """Return the flow (F, H, W, 2), down and right in pixels, that fetches the pixels of a frame from the one before.

    ``view`` is from where that was seen (`worldsim.motion.turned`), or without numbers: what the camera did is left out. Nothing
    where there was no frame before (zeros), where nothing has changed, and where no motion of the window explains it.
    """
    now, before = (frame.float().permute(0, 3, 1, 2) for frame in (now_FHWc, before_FHWc))
    told = (before != 0).flatten(1).any(dim=1)[:, None, None, None]
    if view_FV.shape[-1]:
        turn, inside = seen_from(view_FV, *now.shape[2:])
        before, told = _fetched(before, settle(turn)), told & inside.permute(0, 3, 1, 2)
    flow = torch.zeros_like(now_FHWc[..., :2], dtype=torch.float32)
    moved, still = before, _window((now - before).square().sum(1, keepdim=True))
    for _ in range(ITERATIONS):
        flow = flow + _correction(now, moved)
        moved = _fetched(before, flow)
    left = _window((now - moved).square().sum(1, keepdim=True))
    believed = told & (still > LEAST_DIFFERENCE) & (left < EXPLAINS * still)
    return flow * believed.permute(0, 2, 3, 1)


def _correction(now: Tensor, moved: Tensor) -> Tensor:
    """Return by how much more (F, H, W, 2) a window moves: one step of Gauss and Newton, at most a pixel."""
    change = now - moved
    bordered = F.pad((now + moved) / 2, (1, 1, 1, 1), mode="replicate")
    down = (bordered[..., 2:, 1:-1] - bordered[..., :-2, 1:-1]) / 2
    right = (bordered[..., 1:-1, 2:] - bordered[..., 1:-1, :-2]) / 2
    pairs = ((down, down), (right, right), (down, right), (down, change), (right, change))
    dd, rr, dr, dc, rc = _window(torch.stack([(a * b).sum(1) for a, b in pairs], dim=1)).unbind(1)
    dd, rr = dd + REGULAR, rr + REGULAR
    area = dd * rr - dr * dr
    return torch.stack([(rr * dc - dr * rc) / area, (dd * rc - dr * dc) / area], dim=-1).clamp(-1, 1)


def _window(image: Tensor) -> Tensor:
    return F.avg_pool2d(image, WINDOW, 1, WINDOW // 2, count_include_pad=False)


def _fetched(image: Tensor, flow_FHW2: Tensor) -> Tensor:
    h, w = image.shape[2:]
    y = torch.arange(h, device=image.device)[:, None] + 0.5 + flow_FHW2[..., 0]
    x = torch.arange(w, device=image.device) + 0.5 + flow_FHW2[..., 1]
    places = torch.stack([x * (2 / w) - 1, y * (2 / h) - 1], dim=-1)
    return F.grid_sample(image, places, mode="bilinear", padding_mode="border", align_corners=False)


@torch.no_grad()
def carried_on(seen_FHW2: Tensor) -> Tensor:
    """Return the flow (F, H, W, 2) into the frame to come if everything moves on as it was seen to.

    A pixel is fetched from where a motion ends in it; of several the fastest counts, since what moves hides what rests. Where
    none ends the motion is the one that was seen there.
    """
    f, h, w, _ = seen_FHW2.shape
    down, right = seen_FHW2.unbind(-1)
    pad = (REACH, REACH, REACH, REACH)
    downs, rights = (F.pad(part, pad) for part in (down, right))
    speed = F.pad(down.square() + right.square(), pad)
    fastest = torch.full_like(down, STILL_PIXELS**2)
    chosen_down, chosen_right = down, right
    for i in range(-REACH, REACH + 1):
        for j in range(-REACH, REACH + 1):
            here = (slice(None), slice(REACH + i, REACH + i + h), slice(REACH + j, REACH + j + w))
            a, b, s = downs[here], rights[here], speed[here]
            ends = ((a - i).abs() < MEETS) & ((b - j).abs() < MEETS) & (s > fastest)
            fastest = torch.where(ends, s, fastest)
            chosen_down, chosen_right = torch.where(ends, a, chosen_down), torch.where(ends, b, chosen_right)
    return torch.stack([chosen_down, chosen_right], dim=-1).view(f, h, w, 2)
