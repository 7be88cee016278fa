"""What a training loss weighs, and its parts, one function each. Knows pictures alone: no network and no noise.

Dimension keys: B clips, T frames, H x W pixels, Y x X pixels with their margin, M numbers of a map.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from worldsim.motion import projective_flow, seen_from, settle, views_after, warp, warp_blurred

NEAR_PIXELS = 4
"""How far from a coloured or changing pixel the loss still weighs more: about a body's way in one step."""

CHANGED = 0.125
"""Least difference between two frames (range -1 .. 1) of a pixel that changes."""

CARRIED_SCALE = 0.05
"""Error (range -1 .. 1) above which what the camera carries along is not squared."""

MOTION_BLOCKS = (4, 8)
"""Sides in pixels of the blocks over which the motion error is also taken."""


def near(values_BTHW: Tensor) -> Tensor:
    """Return the largest of the values within `NEAR_PIXELS` of each pixel (B, T, H, W)."""
    side, border = 2 * NEAR_PIXELS + 1, NEAR_PIXELS
    rows = F.max_pool2d(values_BTHW, (side, 1), stride=1, padding=(border, 0))  # two passes: far cheaper than a square
    return F.max_pool2d(rows, (1, side), stride=1, padding=(0, border))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What the training loss weighs. Every field is saved with the run."""

    chroma_weight: float = 3.0
    """Extra weight per unit of chroma (max - min over RGB, 0 .. 1) near where the frame *before* is coloured.

    Small coloured bodies fade first. The weight must not look at the target itself: that would make the best estimate
    of an uncertain pixel lean towards colour, and dreamed bodies grow without end."""
    ramp: float = 0.5
    """Loss weight at level 0; it rises linearly to 1 at level 1 (the ramp of Dreamer 4, arXiv 2509.24527, Eq. 8)."""
    motion_weight: float = 1.0
    """Weight of the error of the moved previous frame, which teaches the flow, and of what the camera's maps carry along and bring back."""
    blur_weight: float = 2.0
    """Weight of the same error of blurred frames: a flow whose source is a thin line some pixels away has no slope but there."""
    change_share: float = 0.5
    """Share of a frame's weight that lies near the pixels that change, where they come from and where they go to.

    Most pixels of most frames stay, and a pusher is 1 % of them. This weight does look at the target, but it weighs the
    place left and the place taken alike, so that it favours neither."""
    change_balance: float = 0.5
    """Frames weigh by their (weighted) squared change to the power of minus this: 0 lets the frames in which everything
    moves rule, 1 would make all frames count alike. Unbalanced, a moving camera made 93 % of the loss of copying."""
    least_change: float = 0.003
    """Squared change below which frames weigh no more."""
    robust_weight: float = 0.2
    """Weight of a pseudo-Huber term: squared error hardly feels a contrast lost by some per cent a frame."""
    robust_scale: float = 0.01
    """Error (range -1 .. 1) above which the pseudo-Huber term is linear."""
    recall_weight: float = 0.3
    """Weight of the error of what is recalled, which teaches where to look for it."""
    share_weight: float = 0.001
    """Weight of the share of pixels that are not moved there from the frame before but recalled or new.

    In a still scene all of them are alike, and without a preference the blend settles on the recalled frame, which
    brings bodies back to where they were. A price of .01 left stains: an error of a tenth of the range was cheaper."""
    local_weight: float = 0.002
    """Weight of the length of local flows, a pixel, where the camera's motion is estimated too: what it explains is its own."""
    unheard_weight: float = 0.02
    """Weight of the length of what a camera's map says beyond the action alone, which is all there is to go by where nothing is seen.
    Its length and not its square, because a camera that stands at its stop is no reason to think less of what the action does."""
    start_share: float = 0.5
    """Share of targets that are trained at level 0 exactly, the first thing a sampler asks for."""
    context_noise_max: float = 0.05
    """Context frames are trained with noise drawn uniformly from 0 to this, ..."""
    context_clean_share: float = 0.3
    """... but for this share of the clips, whose context carries none."""
    action_dropout: float = 0.1
    """Share of clips whose actions are hidden behind the null embedding."""
    readout_weight: float = 0.1
    """Weight of reward, termination and named readouts beside the image loss."""
    readout_weights: dict[str, float | int] = dataclasses.field(default_factory=dict)
    """Weights of what is read among its like, by patterns of READOUT/NAME such as "state/pusher/*"; the first that fits counts,
    and what none fits weighs 1. What a frame hardly tells, as a velocity, else costs most of what is learnt of the rest."""
    readouts_only: bool = False
    """Whether only the readouts are learnt, on a world that stays as it is to the bit: for another reward, or more state."""


def pixel_weight(frames: Tensor, config: LossConfig, average: Callable[[Tensor], Tensor] = torch.mean) -> Tensor:
    """Weight (B, T, H, W, 1) of each pixel of frames 1 .. T, 1 on average: colour before and change weigh more.

    ``frames`` (B, T+1, H, W, 3), -1 .. 1; ``average`` takes the mean over all frames of a step, of which these may be
    a part.
    """
    before = frames[:, :-1]
    change = frames[:, 1:] - before
    chroma = (before.amax(-1) - before.amin(-1)) / 2
    colour = 1 + config.chroma_weight * near(chroma.clamp(min=0))
    colour = colour / colour.mean((-1, -2), keepdim=True)
    moving = near((change.abs().amax(-1) > CHANGED).float())
    area = moving.mean((-1, -2), keepdim=True)
    share = config.change_share * (area > 0)
    weight = (1 - share) * colour + share * moving / area.clamp(min=1e-6)  # 1 on average in every frame
    size = (weight * change.square().mean(-1)).mean((-1, -2), keepdim=True)
    balance = size.clamp(min=config.least_change) ** -config.change_balance
    return (weight * balance / average(balance))[..., None]


def motion_error(difference: Tensor, weight: Tensor) -> Tensor:
    """Squared error of the moved frames, pixel by pixel and of means over blocks of several sizes.

    The photometric loss of unsupervised optical flow (Yu et al. 2016). It reaches the flow where the gate is shut,
    and the blocks tell of motions longer than the edges in a picture are wide.
    """
    error = (weight * difference.square()).mean()
    blurred = difference.flatten(0, 1).permute(0, 3, 1, 2)
    weight = weight.flatten(0, 1).permute(0, 3, 1, 2)
    for side in MOTION_BLOCKS:
        of_block = F.avg_pool2d(weight, side, side // 2)
        error = error + side / 2 * (of_block * F.avg_pool2d(blurred, side, side // 2).square()).mean()
    return error


def robust_error(difference: Tensor) -> Tensor:
    """Error (F, H, W, 3) of pictures that the camera alone has moved, pixel by pixel and of means over blocks.

    Hardly squared, and all pixels count alike: the camera moves most of them, and what else moves is no matter of its own
    (the dominant motion, estimated robustly as in Black and Anandan 1996).
    """
    blocks = F.avg_pool2d(difference.permute(0, 3, 1, 2), MOTION_BLOCKS[0])
    parts = ((error.square() + CARRIED_SCALE**2).sqrt().mean() - CARRIED_SCALE for error in (difference, blocks))
    return torch.stack(list(parts)).sum()


def carried_error(shown: Tensor, around: Tensor, maps: Tensor) -> Tensor:
    """Error of frames (B, T, H, W, 3) as the surroundings (B, T, Y, X, 4) of the ones before foretell them by maps (B, T, M) alone.

    Where they were seen: a border that goes on tells nothing.
    """
    flow = settle(projective_flow(maps[:, 1:].flatten(0, 1), shown.shape[2], shown.shape[3]))
    colours, seen = warp(around[:, :-1].flatten(0, 1), flow).split([3, 1], dim=-1)
    return robust_error((seen > 0.5) * (colours - shown[:, 1:].flatten(0, 1)))


def view_error(shown: Tensor, maps: Tensor) -> Tensor:
    """Error of the first of frames (B, T, H, W, 3), moved by the maps (B, T, M) up to each later one, where both show the same.

    It is the one that tells how a camera moves while there is nothing to see: by what it shows when it is back.
    """
    views = views_after(maps)[:, 1:, 0]
    flow, both = seen_from(views.flatten(0, 1), shown.shape[2], shown.shape[3])
    first = shown[:, :1].expand_as(shown[:, 1:]).flatten(0, 1)
    moved = warp_blurred(first, flow)
    wanted = warp_blurred(shown[:, 1:].flatten(0, 1), torch.zeros_like(flow))
    return robust_error(both * (moved - wanted))


def blurred_error(around: Tensor, flow: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Squared error of the frames before, blurred and then moved (coarse to fine, as in Bergen et al. 1992)."""
    flow = flow.flatten(0, 1).float()
    moved = warp_blurred(around.flatten(0, 1)[..., :3].float(), flow)
    wanted = warp_blurred(target.flatten(0, 1), torch.zeros_like(flow))
    return (weight.flatten(0, 1) * (moved - wanted).square()).mean()


def level_weight(level: Tensor, config: LossConfig) -> Tensor:
    """Weight (B, T, 1, 1, 1) of each level: one ramp, never a second 1 / (1 - t)^2."""
    return (config.ramp + (1 - config.ramp) * level)[..., None, None, None]
