"""A convolutional pyramid around a transformer: cells are halved level by level until they are tokens, and grown back.

As the U-ViT of simple diffusion (Hoogeboom et al. 2023, arXiv 2301.11093, Sec. 3.4): convolutions see what is near at
every scale, attention what is far. Knows no time and no attention.

Dimension keys: F = all leading axes flattened, h x w cells, E channels of the detail path, R x C token grid, D width, C
channels of the frame condition.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.config import ModelConfig
from worldsim.detail import ConvBlock


def level_channels(config: ModelConfig) -> list[int]:
    """Return the channels of each level from the highest (the detail path's) to the lowest (``width``).

    They grow evenly, in whole heads below the highest.
    """
    count = (config.patch // config.fine_patch).bit_length()
    top, heads = config.stem_channels, config.heads
    reach = [top / config.head_dim + (heads - top / config.head_dim) * level / (count - 1) for level in range(1, count)]
    return [top, *(config.head_dim * max(1, round(wide)) for wide in reach)]


class Pyramid(nn.Module):
    """Residual blocks between the highest level (the stem's own) and the lowest (the tokens), on both ways."""

    def __init__(self, config: ModelConfig, cond_dim: int) -> None:
        super().__init__()
        channels = level_channels(config)
        steps = list(itertools.pairwise(channels))
        self.shrinks = nn.ModuleList(nn.Conv2d(wide, narrow, 3, stride=2, padding=1) for wide, narrow in steps)
        self.levels = nn.ModuleList(ConvBlock(width, cond_dim) for width in channels[1:])
        self.grows = nn.ModuleList(nn.Conv2d(narrow, wide, 3, padding=1) for wide, narrow in steps)
        self.joins = nn.ModuleList(nn.Linear(2 * wide, wide) for wide in channels[:-1])
        self.returns = nn.ModuleList(ConvBlock(width, cond_dim) for width in channels[:-1])

    def down(self, cells_FhwE: Tensor, cond_FC: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return tokens (F, R, C, D) and what every level above them held, for the way back."""
        x, skips = cells_FhwE, []
        for shrink, level in zip(self.shrinks, self.levels, strict=True):
            skips.append(x)
            x = level(shrink(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), cond_FC)
        return x, skips

    def up(self, tokens_FRCD: Tensor, skips: list[Tensor], cond_FC: Tensor) -> Tensor:
        """Return the cells (F, h, w, E) that tokens grow back to."""
        x, left = tokens_FRCD, list(skips)
        for grow, join, level in reversed(list(zip(self.grows, self.joins, self.returns, strict=True))):
            wide = grow(F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="nearest")).permute(0, 2, 3, 1)
            x = level(join(torch.cat([wide, left.pop()], dim=-1)), cond_FC)
        return x
