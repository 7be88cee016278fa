"""The convolutional detail path around the trunk: pixels to tokens, tokens to pixels. Knows no time and no attention.

Dimension keys: F = all leading axes flattened, H x W pixels, h x w cells, R x C token grid, D width, E channels of the
detail path, C channels of the frame condition.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.config import ModelConfig
from worldsim.motion import CameraMotion, comes_back, middle, projective_flow, settle, warp

FLOW_PIXELS = 16.0
"""Pixels of motion per unit of the head's flow output: one optimiser step then moves the flow visibly."""

SHARE_FLOOR = 0.1
"""Smaller shares of a pixel's blend count as none: a share that is only nearly closed would leak a little every frame."""

SHUT = 1e4
"""Logit of a share, with a minus, that has nothing to give."""

CAMERA_WEIGHT = 2.0
"""Logit of how much the camera's motion counts at a pixel, to begin with."""

RETURN_WEIGHT = 4.0
"""What is added, to begin with, to the logit of the moved share where what was seen before comes back into the picture."""

PIXEL_HIDDEN = 4
"""Values that a cell hands to the convolutions over its pixels, beside candidates and shares."""

PIXEL_CHANNELS = 16
"""Channels of the convolutions over pixels."""


def space_to_depth(x: Tensor, side: int) -> Tensor:
    """Gather blocks of side x side cells into channels: (F, h, w, E) -> (F, h / side, w / side, side * side * E)."""
    f, h, w, e = x.shape
    x = x.view(f, h // side, side, w // side, side, e).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(f, h // side, w // side, side * side * e)


def depth_to_space(x: Tensor, side: int) -> Tensor:
    """Undo `space_to_depth`: (F, h, w, side * side * E) -> (F, h * side, w * side, E)."""
    f, h, w, c = x.shape
    x = x.view(f, h, w, side, side, c // side**2).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(f, h * side, w * side, c // side**2)


def normalise(x: Tensor) -> Tensor:
    """Layer normalisation over the last axis without learned scale (the modulation brings it)."""
    return F.layer_norm(x, x.shape[-1:])


class ConvBlock(nn.Module):
    """Residual block of the detail path: two 3 x 3 convolutions with feature-wise modulation by the frame condition."""

    def __init__(self, channels: int, cond_dim: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(cond_dim, 2 * channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.normal_(self.modulation.weight, std=0.02)
        nn.init.zeros_(self.modulation.bias)
        with torch.no_grad():
            self.second.weight.mul_(0.3)

    def forward(self, x_FhwE: Tensor, cond_FC: Tensor) -> Tensor:
        """Return the refined cells (F, h, w, E)."""
        scale, shift = self.modulation(cond_FC)[:, None, None].chunk(2, dim=-1)
        y = F.silu(normalise(x_FhwE) * (1 + scale) + shift)
        y = F.silu(self.first(y.permute(0, 3, 1, 2)))
        return x_FhwE + self.second(y).permute(0, 2, 3, 1)


def decided(shares: Tensor) -> Tensor:
    """Return shares (..., S) without those below `SHARE_FLOOR`, with a sum of 1; gradients pass as if none had been taken away.

    A share that is shut could not open again otherwise.
    """
    kept = F.relu(shares - SHARE_FLOOR)
    return shares + (kept / kept.sum(dim=-1, keepdim=True) - shares).detach()


def pixel_convolutions(inputs: int, outputs: int) -> nn.Sequential:
    """Return two 3 x 3 convolutions at full resolution that add nothing at first."""
    last = nn.Conv2d(PIXEL_CHANNELS, outputs, 3, padding=1)
    for parameter in last.parameters():
        nn.init.zeros_(parameter)
    return nn.Sequential(nn.Conv2d(inputs, PIXEL_CHANNELS, 3, padding=1), nn.SiLU(), last)


class DetailStem(nn.Module):
    """From pixels to cells: the frame, the recent ones before it (`ModelConfig.recent`) and the place, convolved."""

    to_tokens: nn.Linear
    """From the cells of a patch to its token, in a network whose trunk works on tokens."""

    def __init__(self, config: ModelConfig, cond_dim: int) -> None:
        super().__init__()
        self.cell = config.fine_patch
        self.embed = nn.Linear((1 + config.recent) * 3 * self.cell**2 + 2, config.stem_channels)
        self.block = ConvBlock(config.stem_channels, cond_dim)

    def forward(self, frame_FHWc: Tensor, recent_FPHWc: Tensor, cond_FC: Tensor) -> Tensor:
        """Return the cells (F, h, w, E), which the trunk and the head's skip connection read."""
        seen = torch.cat([frame_FHWc, *recent_FPHWc.unbind(1)], dim=-1)
        cells = space_to_depth(seen, self.cell)  # (F, h, w, 3 * (1 + P) * cell^2)
        f, h, w, _ = cells.shape
        y = torch.linspace(-1, 1, h, dtype=cells.dtype, device=cells.device)[:, None, None].expand(h, w, 1)
        x = torch.linspace(-1, 1, w, dtype=cells.dtype, device=cells.device)[None, :, None].expand(h, w, 1)
        place = torch.cat([y, x], dim=-1).expand(f, h, w, 2)
        return self.block(self.embed(torch.cat([cells, place], dim=-1)), cond_FC)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blend:
    """Estimated frames and what they are made of; float32 but for ``local`` and ``flow``."""

    estimate: Tensor
    """(F, H, W, 3)"""
    moved: Tensor
    """The previous frame, moved (F, H, W, 3)."""
    moves: Tensor
    """Its share in the estimate (F, H, W, 1)."""
    local: Tensor
    """Flow (F, H, W, 2), in pixels, without what the camera adds."""
    flow: Tensor
    """Flow (F, H, W, 2), in pixels, along which the previous frame is moved."""


class DetailHead(nn.Module):
    """From tokens back to pixels, with the stem's cells beside them so that fine detail need not pass the trunk.

    Every pixel is a blend, by estimated shares, of the previous frame moved along an estimated flow, of what is
    recalled from earlier frames, and of a new value (as in Finn et al. 2016 and Deep Voxel Flow, Liu et al. 2017). What
    stays is what moves by nothing: with a share of its own, a body whose motion is uncertain would fade between two
    places instead of moving half the way. The previous frame comes as it was shown, without context noise: a copy that
    must also take noise away loses a little contrast with every frame. Whatever copies pixels forward must be trained
    on imperfect ones (`worldsim.own_context`). The flow is a free part and one that is linear in the action (as the
    locally linear dynamics of Watter et al. 2015, at every pixel). Where a camera moves (`ModelConfig.camera`), the motion of
    the whole picture is added to it, weighed at every pixel, and what comes from beyond the border comes from the previous
    frame's surroundings (`worldsim.motion`). Where these were seen before, the camera's motion alone brings them back: of what
    lies outside the network sees nothing that could tell how it moves by itself.
    """

    def __init__(self, config: ModelConfig, cond_dim: int) -> None:
        super().__init__()
        self.cell, self.merge = config.fine_patch, config.patch // config.fine_patch
        self.from_tokens = nn.Linear(config.width, config.stem_channels * self.merge**2)
        self.recalled = nn.Linear(3 * self.cell**2, config.stem_channels)
        self.join = nn.Linear(3 * config.stem_channels, config.stem_channels)
        self.blocks = nn.ModuleList(ConvBlock(config.stem_channels, cond_dim) for _ in range(config.head_blocks))
        self.action_dim = cond_dim - config.cond_width
        self.camera = CameraMotion(config.width, cond_dim, self.action_dim) if config.camera else None
        self.returning = nn.Parameter(torch.tensor([RETURN_WEIGHT])) if config.surrounded else None
        # flow, how much the camera's counts, flow per action, height above what the camera's map is of
        self.motions = [2, int(config.camera), 2 * self.action_dim, int(config.camera)]
        motion = sum(self.motions)
        self.outputs = [3 + 3, PIXEL_HIDDEN, motion]  # new value and shares, hidden, motion
        self.out = nn.Linear(config.stem_channels, sum(self.outputs) * self.cell**2)
        self.follow = pixel_convolutions(3 + PIXEL_HIDDEN + motion, motion)
        self.retouch = pixel_convolutions(3 * 3 + 6 + PIXEL_HIDDEN, 6)
        nn.init.normal_(self.out.weight, std=0.02)
        with torch.no_grad():  # at first nothing moves and half of a pixel is copied
            bias = self.out.bias.zero_().view(self.cell**2, -1)
            bias[:, 3] = 1.0
            self.out.weight.view(self.cell**2, sum(self.outputs), -1)[:, -motion:][:, : motion - self.motions[-1]] = 0
            # heights are there at first, or their parallax could not be learnt; nothing is read off them
            if config.camera:
                next(self.follow.parameters())[:, -1] = 0

    def forward(
        self,
        tokens_FRCD: Tensor,
        cells_FhwE: Tensor,
        around_FYXc: Tensor,
        recalled_FHWc: Tensor,
        nothing_F: Tensor,
        cond_FC: Tensor,
        maps_FM: Tensor,
    ) -> Blend:
        """Return the clean frame estimate and what it is made of.

        ``around`` is the previous frame in its surroundings, or alone where nothing is known of them; ``recalled`` has
        no share where there was ``nothing`` to recall; ``maps`` (F, M) are what its `camera` says, (F, 0) of a head without one.
        """
        previous_FHWc = middle(around_FYXc, *recalled_FHWc.shape[1:3])
        tokens_FRCD = normalise(tokens_FRCD)
        coarse = depth_to_space(self.from_tokens(tokens_FRCD), self.merge)  # (F, h, w, E)
        recalled = self.recalled(space_to_depth(recalled_FHWc, self.cell).to(coarse.dtype))
        cells = self.join(torch.cat([coarse, cells_FhwE, recalled], dim=-1))
        for block in self.blocks:
            cells = block(cells, cond_FC)
        pixels = depth_to_space(self.out(cells), self.cell)
        values, hidden, motion = pixels.split(self.outputs, dim=-1)
        local, weight, heights = self.flow(previous_FHWc, hidden, motion, cond_FC)
        flow, raised = local, torch.zeros_like(local[..., :1])
        if self.camera is not None:
            height, width = previous_FHWc.shape[1:3]
            flow = local + weight * projective_flow(maps_FM, height, width, heights)
            if self.returning is not None:
                plane = projective_flow(maps_FM, height, width)
                back = comes_back(around_FYXc, plane)
                flow, local, raised = torch.where(back, plane, flow), local * ~back, self.returning * back
        moved = warp(around_FYXc[..., :3].float(), settle(flow).float())
        seen = torch.cat([previous_FHWc, moved, recalled_FHWc, values, hidden], dim=-1).to(pixels.dtype)
        values = (values + self.retouch(seen.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)).float()
        new, shares = values.split(3, dim=-1)
        moves, returns, appears = shares.split(1, dim=-1)
        shares = torch.cat([moves + raised, returns - SHUT * nothing_F[:, None, None, None], appears], dim=-1)
        moves, returns, appears = decided(shares.softmax(dim=-1)).split(1, dim=-1)
        estimate = moves * moved + returns * recalled_FHWc + appears * new
        return Blend(estimate=estimate, moved=moved, moves=moves, local=local, flow=flow)

    def flow(
        self, previous_FHWc: Tensor, hidden_FHWe: Tensor, motion_FHWm: Tensor, cond_FC: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the local flow (F, H, W, 2) in pixels, how much the camera's counts and heights (F, H, W, 1).

        All come from ``motion``, corrected where the pixels say so.
        """
        seen = torch.cat([previous_FHWc.to(motion_FHWm.dtype), hidden_FHWe, motion_FHWm], dim=-1)
        motion_FHWm = motion_FHWm + self.follow(seen.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        free, weight, steering, heights = motion_FHWm.split(self.motions, dim=-1)
        steering = steering.reshape(len(steering), -1, self.action_dim)
        steered = (steering @ cond_FC[:, -self.action_dim :, None]).view_as(free)
        return FLOW_PIXELS * (free + steered), (weight + CAMERA_WEIGHT).sigmoid(), heights

    @torch.no_grad()
    def forget_steering(self) -> None:
        """Take back what the local flow has learnt of the actions: a camera that is new can learn its part of it."""
        steering = slice(-sum(self.motions[1:]), -self.motions[-1] or None)  # and how much the camera counts
        for parameter in self.out.parameters():
            parameter.view(self.cell**2, sum(self.outputs), -1)[:, steering] = 0
        for parameter in self.follow[-1].parameters():
            parameter[steering] = 0
