"""Motion of pixels: frames moved along a flow, the motion of the whole picture that a camera makes, and what it leaves behind.

Surroundings are a frame with a margin of half its height and width on each side: what has left the picture, where it would
be seen now. A camera that turns back finds it there. (A mosaic, as sprite coding keeps it: Irani and Anandan 1998.)

Dimension keys: F frames, H x W pixels, Y x X pixels with their margin, N tokens, D width, C channels of the frame condition,
A action dimensions, M numbers of a map.
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


def warp(frame_FYXc: Tensor, flow_FHW2: Tensor) -> Tensor:
    """Fetch every pixel from ``flow`` (down, right; in pixels) away; the border pixel stands for outside.

    The frame may have a margin around the pixels that are moved, (F, H, W, c): then these come from there too.

    Bicubic, because a dream resamples its frames again and again: bilinear interpolation would blur a little each time.
    Limited to the range of the 3 x 3 pixels around the place (as in the limiters of MacCormack advection, Selle et al.
    2008), because overshoot would grow with each time.
    """
    places = _places(flow_FHW2, *frame_FYXc.shape[1:3])
    image = frame_FYXc.permute(0, 3, 1, 2).contiguous()
    moved = F.grid_sample(image, places, mode="bicubic", padding_mode="border", align_corners=False)
    bordered = F.pad(image, (1, 1, 1, 1), mode="replicate")
    extremes = torch.cat([_largest(bordered), -_largest(-bordered)], dim=1)
    extremes = F.grid_sample(extremes, places, mode="nearest", padding_mode="border", align_corners=False)
    most, least = extremes.chunk(2, dim=1)
    return moved.minimum(most).maximum(least).permute(0, 2, 3, 1)


def warp_blurred(frame_FYXc: Tensor, flow_FHW2: Tensor) -> Tensor:
    """Fetch every pixel as `warp` does, of frames with an even height and width that are blurred first.

    Two box filters of six pixels, at half the resolution: a thin line some five pixels away is found by following the slope.
    """
    image = F.avg_pool2d(frame_FYXc.permute(0, 3, 1, 2), 6, 2, 2, count_include_pad=False)
    image = F.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
    places = _places(flow_FHW2, *frame_FYXc.shape[1:3])
    moved = F.grid_sample(image, places, mode="bilinear", padding_mode="border", align_corners=False)
    return moved.permute(0, 2, 3, 1)


def _largest(image: Tensor) -> Tensor:
    """Return the largest of the 3 x 3 values around each but the border's; far faster than to pool, on a CPU."""
    rows = torch.maximum(torch.maximum(image[..., :-2, :], image[..., 1:-1, :]), image[..., 2:, :])
    return torch.maximum(torch.maximum(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])


def _places(flow_FHW2: Tensor, rows: int, columns: int) -> Tensor:
    """Return where (right, down) pixels are fetched in an image of so many pixels around them, -1 .. 1 from edge to edge."""
    _, h, w, _ = flow_FHW2.shape
    y = torch.arange(h, device=flow_FHW2.device)[:, None] + (0.5 - h / 2) + flow_FHW2[..., 0]
    x = torch.arange(w, device=flow_FHW2.device) + (0.5 - w / 2) + flow_FHW2[..., 1]  # from the middle
    return torch.stack([x * (2 / columns), y * (2 / rows)], dim=-1)


def settle(flow_FHW2: Tensor) -> Tensor:
    """Set flows shorter than `STILL_PIXELS` to nothing; gradients pass as if that had not been done."""
    settled = flow_FHW2 * (flow_FHW2.norm(dim=-1, keepdim=True) >= STILL_PIXELS)
    return flow_FHW2 + (settled - flow_FHW2).detach()


def projective_flow(
    maps_FM: Tensor, height: int, width: int, heights_FHW1: Tensor | None = None, margin: tuple[int, int] = (0, 0)
) -> Tensor:
    """Return the flow (F, H, W, 2) of maps of the plane, in pixels: where each pixel is fetched, less where it is.

    With a ``margin`` (rows, columns) on each side, also of the pixels there: (F, Y, X, 2).

    A map takes (y, x), each -1 .. 1 from edge to edge, to ((1 + a) y + b x + c, d y + (1 + e) x + f) / (1 + g y + h x), as a
    camera does that turns anywhere or sees something flat (Hartley and Zisserman 2004, section 8.4). All zeros: nothing moves.
    What stands off the plane has a height (over its depth): so many times the last three of a map's eleven numbers are added to
    the numerators and to the denominator (plane and parallax, Irani and Anandan 1996). It is the scene's, however the camera moves.
    """
    rows, columns = margin
    y = (torch.arange(-rows, height + rows, device=maps_FM.device)[:, None] + 0.5) * (2 / height) - 1
    x = (torch.arange(-columns, width + columns, device=maps_FM.device) + 0.5) * (2 / width) - 1
    a, b, c, d, e, f, g, h, down, right, away = (number[:, None, None] for number in maps_FM.float().unbind(-1))
    off = 0.0 if heights_FHW1 is None else heights_FHW1[..., 0].float()
    depth = (1 + g * y + h * x + off * away).clamp(min=NEAREST)
    to_y = ((1 + a) * y + b * x + c + off * down) / depth
    to_x = (d * y + (1 + e) * x + f + off * right) / depth
    return torch.stack([(to_y - y) * (height / 2), (to_x - x) * (width / 2)], dim=-1)


def margin_of(height: int, width: int) -> tuple[int, int]:
    """Return the rows and columns that surroundings have on each side of a frame."""
    return height // 2, width // 2


def size_around(height: int, width: int) -> tuple[int, int]:
    """Return height and width of the surroundings of a frame."""
    rows, columns = margin_of(height, width)
    return height + 2 * rows, width + 2 * columns


def surround(frame_FHWc: Tensor) -> Tensor:
    """Return the surroundings (F, Y, X, c) of frames when nothing else was seen yet: their border goes on."""
    rows, columns = margin_of(*frame_FHWc.shape[1:3])
    padded = F.pad(frame_FHWc.permute(0, 3, 1, 2), (columns, columns, rows, rows), mode="replicate")
    return padded.permute(0, 2, 3, 1)


def middle(around_FYXc: Tensor, height: int, width: int) -> Tensor:
    """Return the frame (F, H, W, c) in the middle of its surroundings, or the frame itself where it has none."""
    rows, columns = (around_FYXc.shape[1] - height) // 2, (around_FYXc.shape[2] - width) // 2
    return around_FYXc[:, rows : rows + height, columns : columns + width]


def go_on(around_FYXc: Tensor, maps_FM: Tensor, frame_FHWc: Tensor) -> Tensor:
    """Return the surroundings of the next frame: the last ones, moved as its camera was, with the frame in their middle."""
    height, width = frame_FHWc.shape[1:3]
    rows, columns = margin_of(height, width)
    moved = warp(around_FYXc, settle(projective_flow(maps_FM, height, width, margin=(rows, columns))))
    moved[:, rows : rows + height, columns : columns + width] = frame_FHWc
    return moved


class CameraMotion(nn.Module):
    """Says how the whole picture moves: a `projective_flow` whose eleven numbers come from the mean token and the condition.

    As local flows do, they have a free part and one that is linear in the action. (A global motion beside others: Finn et al.
    2016; learnt maps of a picture: spatial transformers, Jaderberg et al. 2015.) At first nothing moves.
    """

    def __init__(self, width: int, cond_dim: int, action_dim: int) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.hidden = nn.Linear(width + cond_dim, CAMERA_HIDDEN)
        # map of the plane, that per action, parallax, that per action
        self.parts = [8, 8 * action_dim, 3, 3 * action_dim]
        self.out = nn.Linear(CAMERA_HIDDEN, sum(self.parts))
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, tokens_FND: Tensor, cond_FC: Tensor) -> Tensor:
        """Return the maps (F, 11) of `projective_flow`, from normalised tokens and the condition that ends in the action."""
        seen = torch.cat([tokens_FND.mean(1), cond_FC.to(tokens_FND.dtype)], dim=-1)
        plane, plane_steering, parallax, parallax_steering = self.out(F.silu(self.hidden(seen))).split(
            self.parts, dim=-1
        )
        steering = torch.cat([plane_steering, parallax_steering], dim=-1).unflatten(-1, (11, self.action_dim))
        steered = (steering @ cond_FC[:, -self.action_dim :, None].to(steering.dtype))[..., 0]
        return CAMERA_SCALE * (torch.cat([plane, parallax], dim=-1) + steered).float()
