"""The Diffusion Transformer: block-causal attention over spacetime patches between the ends of the detail path.

After DiT (Peebles & Xie 2023) with the clean-context / noisy-target streams of causal video diffusion. Every token of a
frame attends to all tokens of its frame and of those before; or blocks take turns, most attending within the frame and
some over time, place by place (`ModelConfig.time_every`).

Dimension keys: F = all leading axes flattened, R x C token grid, N = R * C tokens of a frame, D width, H heads, K channels
of a head, E channels of the detail path, C channels of the frame condition.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.attention import attend, rotate
from worldsim.cache import Layer
from worldsim.config import ModelConfig
from worldsim.detail import normalise, space_to_depth
from worldsim.network import Features, Mix, Network, Phases, Told
from worldsim.pyramid import Pyramid


class Block(nn.Module):
    """One transformer block: modulated attention, then a modulated gated MLP (adaLN of DiT; SwiGLU of Shazeer 2020)."""

    def __init__(self, config: ModelConfig, cond_dim: int) -> None:
        super().__init__()
        width, hidden = config.width, 64 * round(config.width * 8 / 3 / 64)
        self.heads = config.heads
        self.modulation = nn.Linear(cond_dim, 6 * width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.gain = nn.Parameter(torch.ones(2, config.head_dim))
        self.proj = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        nn.init.normal_(self.modulation.weight, std=0.02)
        with torch.no_grad():
            self.modulation.bias.zero_().view(6, width)[[2, 5]] = 1.0  # gates start open
            for layer in (self.proj, self.down):
                layer.weight.normal_(std=layer.in_features**-0.5 / math.sqrt(2 * config.depth))

    def forward(
        self, x: Tensor, modulation: Tensor, phases: Phases, mix: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Return refined tokens (..., N, D); ``mix`` attends with queries, keys and values (..., H, N, K)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulation.chunk(6, dim=-1)
        q, k, v = self.split_heads(torch.addcmul(shift_a, normalise(x), 1 + scale_a), phases)
        mixed = mix(q, k, v).transpose(-3, -2).flatten(-2)  # (..., N, D)
        x = torch.addcmul(x, gate_a, self.proj(mixed))
        return torch.addcmul(x, gate_m, self.mlp(torch.addcmul(shift_m, normalise(x), 1 + scale_m)))

    def split_heads(self, x: Tensor, phases: Phases) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries, keys and values (..., H, N, K) of modulated tokens ``x`` (..., N, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).transpose(-2, -4).unbind(-3)  # each (..., H, N, K)
        gain = self.gain.to(q.dtype)
        return rotate(normalise(q) * gain[0], *phases), rotate(normalise(k) * gain[1], *phases), v

    def mlp(self, x: Tensor) -> Tensor:
        """Gated MLP (..., D) -> (..., D)."""
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


class DiT(Network):
    """Action-conditioned block-causal Diffusion Transformer."""

    def add_trunk(self, cond_dim: int) -> None:
        """Make the layers of the trunk."""
        config = self.config
        self.merge = config.patch // config.fine_patch
        self.pyramid = Pyramid(config, cond_dim) if config.pyramid else None
        if self.pyramid is None:
            self.stem.to_tokens = nn.Linear(config.stem_channels * self.merge**2, config.width)
        self.frame_embed = nn.Linear(cond_dim, config.width)
        self.blocks = nn.ModuleList(Block(config, cond_dim) for _ in range(config.depth))

    def modulations(self, cond: Tensor) -> list[Tensor]:
        """Return shifts, scales and gates of every block."""
        return [block.modulation(cond)[..., None, :] for block in self._blocks()]

    def trunk(self, cells: Tensor, told: Told, phases: Phases, mix: Mix) -> Features:
        """Attend among the patches of the stem's cells; these go on as they are, or through the pyramid's other side."""
        cond_FC, skips = told.cond.flatten(0, -2), list[Tensor]()
        if self.pyramid is None:
            tokens_FRCD = self.stem.to_tokens(space_to_depth(cells, self.merge))
        else:
            tokens_FRCD, skips = self.pyramid.down(cells, cond_FC)
        grid = tokens_FRCD.shape[1:3]
        tokens_FRCD = tokens_FRCD + self.frame_embed(cond_FC)[:, None, None]
        x = tokens_FRCD.flatten(1, 2).unflatten(0, told.cond.shape[:-1])  # (..., N, D)
        layer = 0
        for number, (block, modulation) in enumerate(zip(self._blocks(), told.modulations, strict=True)):
            over_time = functools.partial(mix, layer)
            if not self._looks_back(number):
                attention = _within
            else:
                attention = functools.partial(_apart, over_time) if self.config.time_every else over_time
                layer += 1
            x = block(x, modulation, phases, attention)
        if self.pyramid is not None:
            cells = self.pyramid.up(x.flatten(0, -3).unflatten(1, grid), skips, cond_FC)
        return Features(tokens=x, cells=cells)

    def layers(self, grid: tuple[int, int]) -> list[Layer]:
        """Return groups, tokens of a group and channels of a head, for every block that attends over time."""
        heads, places = self.config.heads, grid[0] * grid[1]
        groups, tokens = (heads * places, 1) if self.config.time_every else (heads, places)
        count = sum(self._looks_back(number) for number in range(self.config.depth))
        return [(groups, tokens, self.config.head_dim)] * count

    def attention_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Return the whole grid: all tokens of a frame have a place."""
        return grid

    def _looks_back(self, number: int) -> bool:
        """Return whether a block attends to earlier frames."""
        return not self.config.time_every or (number + 1) % self.config.time_every == 0

    def _blocks(self) -> Iterator[Block]:
        return (cast(Block, block) for block in self.blocks)


def _within(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend within each frame: (..., H, N, K)."""
    return attend(q, k, v, None)


def _apart(mix: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend over time at every place apart: heads and places (..., H, N, K) become groups of one token."""
    mixed = mix(*(x.flatten(-3, -2)[..., None, :] for x in (q, k, v)))
    return mixed.view(q.shape)
