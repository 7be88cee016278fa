"""The network: a block-causal Diffusion Transformer over spacetime patches with a convolutional detail path.

Knows frames, noise levels, step sizes and actions as tensors; knows no noise schedule, no loss and no world.
After DiT (Peebles & Xie 2023) with the clean-context / noisy-target streams of causal video diffusion.

Dimension keys: B batch, S streams (clean, noisy), T frames, F = all leading axes flattened, P recent frames, R x C
token grid, N = R * C tokens of a frame, D width, H heads, K channels of a head, E channels of the detail path.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.attention import rotary_phases, rotate, two_stream_attention
from worldsim.config import ModelConfig
from worldsim.detail import RECENT_FRAMES, DetailHead, DetailStem, normalise
from worldsim.readout import ReadoutHead
from worldsim.recall import Recall


class FrameCondition(nn.Module):
    """Embeds what a whole frame is conditioned on: noise level, sampler step size, and the action that leads into it."""

    frequencies: Tensor
    action_centre: Tensor
    action_reach: Tensor

    def __init__(self, config: ModelConfig, action_dim: int) -> None:
        super().__init__()
        width = config.cond_width
        self.register_buffer("action_centre", torch.zeros(action_dim), persistent=False)
        self.register_buffer("action_reach", torch.ones(action_dim), persistent=False)
        self.register_buffer("frequencies", 2 * math.pi * torch.logspace(-1, 3, 16, base=2), persistent=False)
        self.level = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.step = nn.Embedding(int(math.log2(config.max_steps)) + 2, width)
        self.action = nn.Sequential(nn.Linear(action_dim, width), nn.SiLU(), nn.Linear(width, width))
        self.null_action = nn.Parameter(0.02 * torch.randn(width))
        self.out = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        nn.init.normal_(self.step.weight, std=0.02)

    def set_action_range(self, low: Sequence[float], high: Sequence[float]) -> None:
        """Map actions within ``low`` .. ``high`` to -1 .. 1; dimensions without bounds are taken as they are."""
        lows, highs = torch.tensor(low), torch.tensor(high)
        bounded = torch.isfinite(lows) & torch.isfinite(highs) & (highs > lows)
        self.action_centre = torch.where(bounded, (lows + highs) / 2, 0.0)
        self.action_reach = torch.where(bounded, (highs - lows) / 2, 1.0)

    def forward(self, level: Tensor, step: Tensor, action: Tensor, known: Tensor) -> Tensor:
        """Embed ``level`` (...) in 0 (noise) .. 1 (clean), ``step`` (...) index, ``action`` (..., A) where ``known``.

        Step index 0 marks a context frame; index 1 + log2(n) a sampler of n steps. An unknown action is a learned null
        embedding, which is not the zero action. Returns (..., cond_width + A): the embedding and, beside it, the
        action on its range (-1 .. 1, 0 if unknown), so that every modulation is linear in the action from the first step on.
        """
        angles = level[..., None].float() * self.frequencies.float()
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.null_action.dtype)
        action = ((action - self.action_centre) / self.action_reach).to(self.null_action.dtype)
        action_part = torch.where(known[..., None], self.action(action), self.null_action)
        mixed = self.out(normalise(self.level(waves) + self.step(step) + action_part))
        return torch.cat([mixed, action * known[..., None]], dim=-1)


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

    def split_heads(self, x: Tensor, phases: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries, keys and values (..., H, N, K) of modulated tokens ``x`` (..., N, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).transpose(-2, -4).unbind(-3)  # each (..., H, N, K)
        gain = self.gain.to(q.dtype)
        return rotate(normalise(q) * gain[0], *phases), rotate(normalise(k) * gain[1], *phases), v

    def mlp(self, x: Tensor) -> Tensor:
        """Gated MLP (..., D) -> (..., D)."""
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Copies:
    """What an estimate is made of, (B, T, H, W, 3) in float32."""

    moved: Tensor
    """The frame before, moved along the estimated flow."""
    recalled: Tensor
    """What was seen in the same place earlier."""
    moves: Tensor
    """Share (B, T, H, W, 1) of ``moved`` in the estimate; the rest is recalled or new."""


class DiT(nn.Module):
    """Action-conditioned block-causal Diffusion Transformer. Frames are (H, W, 3) floats, -1 .. 1 for black .. white."""

    def __init__(self, config: ModelConfig, action_dim: int, readout_dim: int) -> None:
        super().__init__()
        self.config = config
        cond_dim = config.cond_width + action_dim
        self.condition = FrameCondition(config, action_dim)
        self.stem = DetailStem(config, cond_dim)
        self.frame_embed = nn.Linear(cond_dim, config.width)
        self.blocks = nn.ModuleList(Block(config, cond_dim) for _ in range(config.depth))
        self.recall = Recall(config)
        self.head = DetailHead(config, cond_dim)
        self.readout = ReadoutHead(config, readout_dim)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights; inputs are cast to it."""
        return self.condition.null_action.dtype

    def trunk(self) -> Iterator[Block]:
        """Return the transformer blocks in order."""
        return (cast(Block, block) for block in self.blocks)

    def tokens(self, frame_FHWc: Tensor, recent_FPHWc: Tensor, cond_FC: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens (F, R, C, D) that enter the trunk and the detail cells for the skip connection."""
        tokens_FRCD, cells = self.stem(frame_FHWc.to(self.dtype), recent_FPHWc.to(self.dtype), cond_FC)
        return tokens_FRCD + self.frame_embed(cond_FC)[:, None, None], cells

    def forward(
        self,
        shown_BTHWc: Tensor,
        clean_BTHWc: Tensor,
        noisy_BTHWc: Tensor,
        clean_cond_BTC: Tensor,
        noisy_cond_BTC: Tensor,
    ) -> tuple[Tensor, Copies, Tensor]:
        """Estimate frames 1 .. T from their noisy forms, each given the clean frames before it, in one pass.

        ``shown`` holds frames 0 .. T-1 as they were seen, ``clean`` the same with their context noise, as they would be
        committed, ``noisy`` the noisy forms of frames 1 .. T. Returns the clean estimates of frames 1 .. T and the
        copies in them, and the readout rows of frames 0 .. T-1 (B, T, readout).
        """
        b, t = clean_BTHWc.shape[:2]
        frames = torch.stack([clean_BTHWc, noisy_BTHWc], dim=1)  # (B, S, T, H, W, 3)
        recent = recent_frames(shown_BTHWc)  # (B, T + 1, P, H, W, 3)
        recent = torch.stack([recent[:, :-1], recent[:, 1:]], dim=1)  # (B, S, T, P, H, W, 3)
        cond = torch.stack([clean_cond_BTC, noisy_cond_BTC], dim=1)  # (B, S, T, C)
        cond_F = cond.flatten(0, 2)
        tokens_FRCD, cells = self.tokens(frames.flatten(0, 2), recent.flatten(0, 2), cond_F)
        grid = (tokens_FRCD.shape[1], tokens_FRCD.shape[2])
        times = torch.arange(t, device=frames.device)
        cos, sin = rotary_phases(torch.stack([times, times + 1]), grid, self.config.head_dim)  # (S, T, N, K / 2)
        phases = cos[:, :, None], sin[:, :, None]
        x = tokens_FRCD.view(b, 2, t, -1, self.config.width)  # (B, S, T, N, D)
        for block in self.trunk():
            x = _trunk_block(block, x, cond, phases, self.config.window)
        memory = self.recall.keys(x[:, 0], (cos[0], sin[0])), self.recall.patches(shown_BTHWc)
        future = (times > times[:, None]) | (times < times[:, None] + 2 - self.config.window)  # target t is frame t + 1
        recalled = self.recall(x[:, 1], (cos[1], sin[1]), memory, future.expand(b, t, t), grid)  # (B, T, H, W, 3)
        x_noisy = x[:, 1].reshape(b * t, *grid, -1)  # (F, R, C, D)
        cells_noisy = cells.view(b, 2, t, *cells.shape[1:])[:, 1].flatten(0, 1)
        sources = shown_BTHWc.flatten(0, 1), recalled.flatten(0, 1)
        made = self.head(x_noisy, cells_noisy, *sources, noisy_cond_BTC.flatten(0, 1))
        estimate, moved, moves = (part.unflatten(0, (b, t)) for part in made)
        copies = Copies(moved=moved, recalled=recalled, moves=moves)
        raw = self.readout(recent[:, 0, :, -1].flatten(0, 1), shown_BTHWc.flatten(0, 1))
        return estimate, copies, raw.unflatten(0, (b, t))


def recent_frames(frames_BTHWc: Tensor) -> Tensor:
    """Return the `RECENT_FRAMES` frames before each of frames 0 .. T, oldest first (B, T + 1, P, H, W, 3).

    Where there was no frame yet there are zeros.
    """
    nothing = frames_BTHWc.new_zeros(1).expand(frames_BTHWc.shape[0], RECENT_FRAMES, *frames_BTHWc.shape[2:])
    padded = torch.cat([nothing, frames_BTHWc], dim=1)
    count = frames_BTHWc.shape[1] + 1
    return torch.stack([padded[:, k : k + count] for k in range(RECENT_FRAMES)], dim=2)


def _trunk_block(block: Block, x: Tensor, cond: Tensor, phases: tuple[Tensor, Tensor], window: int) -> Tensor:
    """Apply one block to both streams at once: x (B, S, T, N, D), cond (B, S, T, C)."""
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = block.modulation(cond)[..., None, :].chunk(6, dim=-1)
    q, k, v = block.split_heads(normalise(x) * (1 + scale_a) + shift_a, phases)  # (B, S, T, H, N, K)
    q, k, v = (y.movedim(3, 1) for y in (q, k, v))  # (B, H, S, T, N, K)
    mixed = two_stream_attention(q, k, v, window)  # (B, H, S, T, N, K)
    x = x + gate_a * block.proj(mixed.movedim(1, 4).flatten(-2))
    return x + gate_m * block.mlp(normalise(x) * (1 + scale_m) + shift_m)
