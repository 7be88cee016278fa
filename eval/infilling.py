"""Filling in between a shown start and a shown end: does it help to see the whole clip at once?

Two small Diffusion Transformers of the same blocks, the same size and the same trainings denoise a clip of frames together.
In one all frames attend to each other, so that the first sees the last; in the other frames attend to those before them.
Every pixel is a blend of the last frame of the start, moved along an estimated flow, of the first frame of the end, moved
too, where it is shown and may be seen, and of a new value (Deep Voxel Flow, Liu et al. 2017). They compare two masks of
attention and nothing else, and cannot be stepped as a world. Knows no environment.

Dimension keys: B clips, T frames, N tokens of a frame, D width, H heads, K channels of a head, A action dimensions.
"""

from __future__ import annotations

import dataclasses
import functools

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from worldsim.attention import attend, rotary_phases
from worldsim.config import ModelConfig
from worldsim.denoiser import add_noise
from worldsim.detail import FLOW_PIXELS, SHUT, depth_to_space, normalise, space_to_depth
from worldsim.dit import Block
from worldsim.motion import warp
from worldsim.network import FrameCondition

SIZES = ModelConfig(width=128, depth=4, heads=2, patch=8, cond_width=64, window=32)
"""About as many parameters as the smallest world models have."""
Frames = Float[Tensor, "b t h w 3"]
PARTS = (2, 2, 3, 3)
"""Numbers of a pixel: flows into start and end, logits of their shares and of a new value's, and that value."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """How many frames of a clip are shown at its two ends; those between are to be filled in."""

    start: int = 3
    between: int = 6
    end: int = 3

    @property
    def length(self) -> int:
        """Frames of a clip."""
        return self.start + self.between + self.end

    @property
    def hidden(self) -> slice:
        """Frames that are filled in."""
        return slice(self.start, self.start + self.between)

    def mask(self, with_end: Tensor) -> Bool[Tensor, "b t"]:
        """Return which frames are shown, in clips ``with_end`` (B,) also those at the end."""
        times = torch.arange(self.length, device=with_end.device)
        return (times < self.start) | (with_end[:, None] & (times >= self.hidden.stop))


class ClipDenoiser(nn.Module):
    """Estimates the clean frames of a clip, all at once, from shown frames and noisy ones."""

    def __init__(self, action_dim: int, *, both_ways: bool, config: ModelConfig = SIZES) -> None:
        super().__init__()
        self.config, self.both_ways = config, both_ways
        cond_dim, area = config.cond_width + action_dim, config.patch**2
        self.condition = FrameCondition(config, action_dim)
        self.into = nn.Linear(3 * area, config.width)
        self.frame_embed = nn.Linear(cond_dim, config.width)
        self.blocks = nn.ModuleList(Block(config, cond_dim) for _ in range(config.depth))
        self.out = nn.Linear(config.width, sum(PARTS) * area)
        nn.init.normal_(self.out.weight, std=0.02)
        with torch.no_grad():  # at first nothing moves and most of a pixel is copied
            self.out.weight.view(area, sum(PARTS), -1)[:, : sum(PARTS[:2])] = 0
            self.out.bias.zero_().view(area, -1)[:, sum(PARTS[:2]) : sum(PARTS[:3]) - 1] = 1.0

    def forward(
        self, frames: Frames, level: Float[Tensor, "b t"], shown: Bool[Tensor, "b t"], actions: Float[Tensor, "b t-1 a"]
    ) -> Frames:
        """Return the clean frames; ``level`` is 0 (noise) .. 1 (clean) and heeded where frames are not ``shown``."""
        patch, (height, width) = self.config.patch, frames.shape[2:4]
        grid = (height // patch, width // patch)
        into = torch.cat([torch.zeros_like(actions[:, :1]), actions], dim=1)  # the action that leads into each frame
        known = (torch.arange(frames.shape[1], device=frames.device) > 0).expand(shown.shape)
        cond = self.condition(torch.where(shown, 1.0, level), (~shown).long(), into, known)
        patches = space_to_depth(frames.flatten(0, 1), patch).flatten(1, 2)
        x = self.into(patches).unflatten(0, shown.shape)  # (B, T, N, D)
        x = x + self.frame_embed(cond)[..., None, :]
        cos, sin = rotary_phases(torch.arange(frames.shape[1]), grid, self.config.head_dim)
        phases = (cos[:, None].to(frames.device), sin[:, None].to(frames.device))
        mask = None if self.both_ways else _past(frames.shape[1], grid[0] * grid[1]).to(frames.device)
        mix = functools.partial(_attend, mask=mask)
        for block in self.blocks:
            assert isinstance(block, Block)
            x = block(x, block.modulation(cond)[..., None, :], phases, mix)
        pixels = depth_to_space(self.out(normalise(x)).flatten(0, 1).unflatten(1, grid), patch)
        return self.blend(frames, shown, pixels.unflatten(0, shown.shape))

    def blend(self, frames: Frames, shown: Bool[Tensor, "b t"], pixels: Float[Tensor, "b t h w _"]) -> Frames:
        """Return every frame as a blend of the frames beside the gap, moved, and of new values."""
        rows, length = torch.arange(len(shown), device=shown.device), shown.shape[1]
        before = (~shown).int().argmax(dim=1) - 1
        at_end = (~shown).flip(1).int().argmax(dim=1)  # shown frames behind the gap
        after = (length - at_end).clamp(max=length - 1)
        *flows, shares, new = pixels.split(PARTS, dim=-1)
        moved = [
            warp(frames[rows, index].repeat_interleave(length, 0), FLOW_PIXELS * flow.flatten(0, 1)).view_as(frames)
            for index, flow in zip((before, after), flows, strict=True)
        ]
        unseen = (at_end == 0) | (not self.both_ways)
        closed = SHUT * F.pad(unseen.float()[:, None], (1, 1))[:, None, None, None]  # the middle one of three shares
        weights = (shares - closed).softmax(dim=-1)
        return (weights[..., None] * torch.stack([*moved, new], dim=-2)).sum(dim=-2)


@functools.lru_cache(maxsize=4)
def _past(frames: int, tokens: int) -> Tensor:
    """Return what is added to scores so that frames see themselves and those before."""
    times = torch.arange(frames).repeat_interleave(tokens)
    return torch.zeros(len(times), len(times)).masked_fill_(times > times[:, None], float("-inf"))


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attend among all tokens of a clip: (B, T, H, N, K)."""
    queries, keys, values = (x.transpose(1, 2).flatten(2, 3) for x in (q, k, v))
    return attend(queries, keys, values, mask).unflatten(2, (q.shape[1], -1)).transpose(1, 2)


def fill_loss(
    model: ClipDenoiser, frames: Frames, actions: Tensor, shown: Bool[Tensor, "b t"], generator: torch.Generator
) -> Tensor:
    """Return the squared error of the estimates of hidden frames, all of a clip at one level drawn evenly (x-prediction)."""
    level = torch.rand(len(frames), 1, generator=generator).expand(shown.shape)
    noise = torch.randn(frames.shape, generator=generator)
    estimate = model(_noisy(frames, noise, level, shown), level, shown, actions)
    return (estimate - frames).square().mean(dim=(2, 3, 4))[~shown].mean()


@torch.no_grad()
def fill(
    model: ClipDenoiser, frames: Frames, actions: Tensor, shown: Bool[Tensor, "b t"], seed: int, steps: int = 4
) -> Frames:
    """Return the clips with the frames that are not ``shown`` drawn by ``steps`` Euler steps from noise to clean."""
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(seed))
    x = _noisy(frames, noise, torch.zeros(shown.shape), shown)
    for step in range(steps):
        level = torch.full(shown.shape, step / steps)
        estimate = model(x, level, shown, actions)
        moved = x + (estimate - x) / (steps - step)
        x = torch.where(shown[..., None, None, None], x, moved)
    return x


def _noisy(frames: Tensor, noise: Tensor, level: Tensor, shown: Tensor) -> Tensor:
    """Return ``frames`` with noise where they are not shown."""
    return add_noise(frames, noise, torch.where(shown, 1.0, level))
