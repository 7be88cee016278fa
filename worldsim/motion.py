"""Motion of pixels: frames moved along a flow, and the motion of the whole picture that a camera makes.

Dimension keys: F frames, H x W pixels, R x C token grid, D width, C channels of the frame condition, A action dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STILL_PIXELS = 0.25
"""Flows shorter than this count as none, so that a pixel that stays can stay to the bit, frame after frame."""

CAMERA_HIDDEN = 128
"""Hidden units of the network that says how the camera moves."""

CAMERA_SCALE = 0.5
"""Change of a number of the map per unit of output: one optimiser step then moves the picture visibly, and no further."""

NEAREST = 0.25
"""Least depth of a map: beyond, pixels would come from behind the camera."""


def warp(frame_FHWc: Tensor, flow_FHW2: Tensor) -> Tensor:
    """Fetch every pixel from ``flow`` (down, right; in pixels) away; the border pixel stands for outside.

    Bicubic, because a dream resamples its frames again and again: bilinear interpolation would blur a little each time.
    Limited to the range of the 3 x 3 pixels around the place (as in the limiters of MacCormack advection, Selle et al.
    2008), because overshoot would grow with each time.
    """
    _, h, w, _ = frame_FHWc.shape
    y = torch.arange(h, device=frame_FHWc.device)[:, None] + 0.5 + flow_FHW2[..., 0]
    x = torch.arange(w, device=frame_FHWc.device) + 0.5 + flow_FHW2[..., 1]
    places = torch.stack([x * (2 / w) - 1, y * (2 / h) - 1], dim=-1)
    image = frame_FHWc.permute(0, 3, 1, 2)
    moved = F.grid_sample(image, places, mode="bicubic", padding_mode="border", align_corners=False)
    extremes = torch.cat([F.max_pool2d(image, 3, 1, 1), -F.max_pool2d(-image, 3, 1, 1)], dim=1)
    extremes = F.grid_sample(extremes, places, mode="nearest", padding_mode="border", align_corners=False)
    most, least = extremes.chunk(2, dim=1)
    return moved.minimum(most).maximum(least).permute(0, 2, 3, 1)


def settle(flow_FHW2: Tensor) -> Tensor:
    """Set flows shorter than `STILL_PIXELS` to nothing; gradients pass as if that had not been done."""
    settled = flow_FHW2 * (flow_FHW2.norm(dim=-1, keepdim=True) >= STILL_PIXELS)
    return flow_FHW2 + (settled - flow_FHW2).detach()


def projective_flow(maps_F8: Tensor, height: int, width: int) -> Tensor:
    """Return the flow (F, H, W, 2) of maps of the plane, in pixels: where each pixel is fetched, less where it is.

    A map takes (y, x), each -1 .. 1 from edge to edge, to ((1 + a) y + b x + c, d y + (1 + e) x + f) / (1 + g y + h x), as a
    camera does that turns anywhere or sees something flat (Hartley and Zisserman 2004, section 8.4). All zeros: nothing moves.
    """
    y = torch.linspace(-1 + 1 / height, 1 - 1 / height, height, device=maps_F8.device)[:, None].expand(height, width)
    x = torch.linspace(-1 + 1 / width, 1 - 1 / width, width, device=maps_F8.device).expand(height, width)
    a, b, c, d, e, f, g, h = (number[:, None, None] for number in maps_F8.float().unbind(-1))
    depth = (1 + g * y + h * x).clamp(min=NEAREST)
    to_y, to_x = ((1 + a) * y + b * x + c) / depth, (d * y + (1 + e) * x + f) / depth
    return torch.stack([(to_y - y) * (height / 2), (to_x - x) * (width / 2)], dim=-1)


class CameraMotion(nn.Module):
    """Says how the whole picture moves: a `projective_flow` whose eight numbers come from the mean token and the condition.

    As local flows do, they have a free part and one that is linear in the action. (A global motion beside others: Finn et al.
    2016; learnt maps of a picture: spatial transformers, Jaderberg et al. 2015.) At first nothing moves.
    """

    def __init__(self, width: int, cond_dim: int, action_dim: int) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.hidden = nn.Linear(width + cond_dim, CAMERA_HIDDEN)
        self.out = nn.Linear(CAMERA_HIDDEN, 8 * (1 + action_dim))
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, tokens_FRCD: Tensor, cond_FC: Tensor, height: int, width: int) -> Tensor:
        """Return the flow (F, H, W, 2) in pixels, from normalised tokens and the condition that ends in the action."""
        seen = torch.cat([tokens_FRCD.mean((1, 2)), cond_FC.to(tokens_FRCD.dtype)], dim=-1)
        free, steering = self.out(F.silu(self.hidden(seen))).split([8, 8 * self.action_dim], dim=-1)
        action_FA1 = cond_FC[:, -self.action_dim :, None].to(steering.dtype)
        steered = (steering.unflatten(-1, (8, self.action_dim)) @ action_FA1)[..., 0]
        return projective_flow(CAMERA_SCALE * (free + steered), height, width)
