"""The Diffusion Transformer: block-causal attention over spacetime patches between the ends of the detail path.

After DiT (Peebles & Xie 2023) with the clean-context / noisy-target streams of causal video diffusion. Every token of a
frame attends to all tokens of its frame and of those before.

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

from worldsim.attention import rotate
from worldsim.cache import Layer
from worldsim.config import ModelConfig
from worldsim.detail import normalise, space_to_depth
from worldsim.network import Features, Mix, Network, Phases, Told


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
        self.stem.to_tokens = nn.Linear(config.stem_channels * self.merge**2, config.width)
        self.frame_embed = nn.Linear(cond_dim, config.width)
        self.blocks = nn.ModuleList(Block(config, cond_dim) for _ in range(config.depth))

    def modulations(self, cond: Tensor) -> list[Tensor]:
        """Return shifts, scales and gates of every block."""
        return [block.modulation(cond)[..., None, :] for block in self._blocks()]

    def trunk(self, cells: Tensor, told: Told, phases: Phases, mix: Mix) -> Features:
        """Attend among the patches of the stem's cells; the cells themselves go on as they are."""
        tokens_FRCD = self.stem.to_tokens(space_to_depth(cells, self.merge))
        tokens_FRCD = tokens_FRCD + self.frame_embed(told.cond.flatten(0, -2))[:, None, None]
        x = tokens_FRCD.flatten(1, 2).unflatten(0, told.cond.shape[:-1])  # (..., N, D)
        for layer, (block, modulation) in enumerate(zip(self._blocks(), told.modulations, strict=True)):
            x = block(x, modulation, phases, functools.partial(mix, layer))
        return Features(tokens=x, cells=cells)

    def layers(self, grid: tuple[int, int]) -> list[Layer]:
        """Return heads, tokens and channels of a head, for every block."""
        return [(self.config.heads, grid[0] * grid[1], self.config.head_dim)] * self.config.depth

    def attention_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Return the whole grid: all tokens of a frame attend to each other."""
        return grid

    def _blocks(self) -> Iterator[Block]:
        return (cast(Block, block) for block in self.blocks)
