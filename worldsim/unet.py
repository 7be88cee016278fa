"""Two convolutional U-Nets between the same ends, to compare with: the past attended to, or stacked in channels.

The first attends over time, place by place, at its lower levels (as video U-Nets do: Ho et al. 2022, arXiv 2204.03458);
the second sees the last frames as further channels of the picture and is told the last actions (as DIAMOND does, Alonso
et al. 2024, arXiv 2405.12399). No place attends to another one: convolutions alone carry things across a frame.

Dimension keys: F = all leading axes flattened, h x w places, E channels of a level, C channels of the frame condition,
G = h * w * heads groups, K channels of a head.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.attention import rotate
from worldsim.cache import Layer
from worldsim.config import ModelConfig
from worldsim.detail import ConvBlock, normalise
from worldsim.network import Features, Mix, Network, Phases, Told
from worldsim.pyramid import level_channels

ATTENDING = 2
"""Lowest levels that attend over time; the highest never does."""

LayerMix = Callable[[Tensor, Tensor, Tensor], Tensor]


class TemporalAttention(nn.Module):
    """Every place attends to itself in earlier frames."""

    def __init__(self, channels: int, head_dim: int) -> None:
        super().__init__()
        self.heads = channels // head_dim
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.gain = nn.Parameter(torch.ones(2, head_dim))
        self.proj = nn.Linear(channels, channels, bias=False)
        with torch.no_grad():
            self.proj.weight.mul_(0.3)

    def forward(self, x_FhwE: Tensor, lead: torch.Size, phases: Phases, mix: LayerMix) -> Tensor:
        """Return cells (F, h, w, E) with what ``mix`` found for queries, keys and values (..., G, 1, K)."""
        f, h, w, e = x_FhwE.shape
        qkv = self.qkv(normalise(x_FhwE)).view(*lead, h * w, 3, self.heads, e // self.heads)
        q, k, v = (part.flatten(-3, -2)[..., None, :] for part in qkv.unbind(-3))  # (..., G, 1, K)
        gain = self.gain.to(q.dtype)
        mixed = mix(rotate(normalise(q) * gain[0], *phases), rotate(normalise(k) * gain[1], *phases), v)
        return x_FhwE + self.proj(mixed.reshape(f, h, w, e))


class Level(nn.Module):
    """Residual blocks at one resolution, then attention over time where there is any."""

    def __init__(self, config: ModelConfig, channels: int, cond_dim: int, *, attends: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ConvBlock(channels, cond_dim) for _ in range(config.depth))
        self.attention = TemporalAttention(channels, config.head_dim) if attends else None

    def forward(self, x_FhwE: Tensor, told: Told, phases: Phases, mix: LayerMix) -> Tensor:
        """Return refined cells (F, h, w, E)."""
        cond_FC = told.cond.flatten(0, -2)
        for block in self.blocks:
            x_FhwE = block(x_FhwE, cond_FC)
        if self.attention is None:
            return x_FhwE
        return self.attention(x_FhwE, told.cond.shape[:-1], phases, mix)


class UNet(Network):
    """Action-conditioned convolutional U-Net."""

    def add_trunk(self, cond_dim: int) -> None:
        """Make the layers of the trunk."""
        config, channels = self.config, level_channels(self.config)
        lowest = len(channels) - 1
        attends = [level > max(0, lowest - ATTENDING) and not config.stacked for level in range(len(channels))]
        steps = list(itertools.pairwise(channels))
        self.levels = nn.ModuleList(
            Level(config, width, cond_dim, attends=own) for width, own in zip(channels, attends, strict=True)
        )
        self.shrinks = nn.ModuleList(nn.Conv2d(wide, narrow, 3, stride=2, padding=1) for wide, narrow in steps)
        self.grows = nn.ModuleList(nn.Conv2d(narrow, wide, 3, padding=1) for wide, narrow in steps)
        self.joins = nn.ModuleList(nn.Linear(2 * wide, wide) for wide in channels[:-1])
        self.returns = nn.ModuleList(
            Level(config, width, cond_dim, attends=own) for width, own in zip(channels[:-1], attends[:-1], strict=True)
        )
        down = [level for level, own in enumerate(attends) if own]
        self.attending = [*down, *reversed([level for level in down if level < lowest])]

    def modulations(self, cond: Tensor) -> list[Tensor]:
        """Return nothing: every block makes its own of the condition."""
        del cond
        return []

    def trunk(self, cells: Tensor, told: Told, phases: Phases, mix: Mix) -> Features:
        """Go down to the patches and back up; the tokens are the lowest level's cells."""
        numbers = iter(range(len(self.attending)))

        def run(level: nn.Module, x: Tensor) -> Tensor:
            number = next(numbers) if level.attention is not None else 0
            return level(x, told, phases, functools.partial(mix, number))

        x, skips = cells, []
        for level, shrink in zip(self.levels, self.shrinks, strict=False):
            x = run(level, x)
            skips.append(x)
            x = shrink(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = run(self.levels[-1], x)
        tokens = x.flatten(1, 2).unflatten(0, told.cond.shape[:-1])
        for level, grow, join in reversed(list(zip(self.returns, self.grows, self.joins, strict=True))):
            wide = grow(F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="nearest")).permute(0, 2, 3, 1)
            x = run(level, join(torch.cat([wide, skips.pop()], dim=-1)))
        return Features(tokens=tokens, cells=x)

    def layers(self, grid: tuple[int, int]) -> list[Layer]:
        """Return groups, one token each, and channels of a head, in the order in which layers attend."""
        channels, head_dim = level_channels(self.config), self.config.head_dim
        places = [grid[0] * grid[1] * 4 ** (len(channels) - 1 - level) for level in range(len(channels))]
        return [(places[level] * channels[level] // head_dim, 1, head_dim) for level in self.attending]

    def attention_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Return one token: every place attends alone."""
        del grid
        return (1, 1)
