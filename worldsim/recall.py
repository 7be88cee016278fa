"""Recall: what stood in a patch's place in earlier frames, fetched by attention whose values are pixels.

What comes out from behind something, or back into view, was seen before; the trunk's tokens are too few to hold its
pixels. Knows no noise, no actions and no loss.

Dimension keys: B batch, T target frames, S earlier frames, N tokens of a frame, D width, K channels of a key,
P pixel values of a patch, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldsim.attention import rotate
from worldsim.config import ModelConfig
from worldsim.detail import depth_to_space, normalise, space_to_depth

FIRST_SHARPNESS = 6.0
"""Factor on the cosines of queries and keys at the start of training: all earlier frames count about alike."""


class Recall(nn.Module):
    """Attention over time, patch by patch. Rotary phases tell keys apart by age; phases of space cancel."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.query = nn.Linear(config.width, config.head_dim, bias=False)
        self.key = nn.Linear(config.width, config.head_dim, bias=False)
        self.sharpness = nn.Parameter(torch.tensor([FIRST_SHARPNESS]))  # a row: FSDP2 cuts no single numbers

    def keys(self, tokens: Tensor, phases: tuple[Tensor, Tensor]) -> Tensor:
        """Return the keys (..., N, K) by which a committed frame with these tokens (..., N, D) will be found."""
        return rotate(normalise(self.key(normalise(tokens))), *phases)

    def patches(self, frames: Tensor) -> Tensor:
        """Cut frames (..., H, W, 3) into what is remembered of them (..., N, P), float32."""
        cells = space_to_depth(frames.float().flatten(0, -4), self.patch)
        return cells.view(*frames.shape[:-3], -1, cells.shape[-1])

    def forward(
        self,
        tokens_BTND: Tensor,
        phases: tuple[Tensor, Tensor],
        memory: tuple[Tensor, Tensor],
        hidden_BTS: Tensor,
        grid: tuple[int, int],
    ) -> Tensor:
        """Return the recalled frames (B, T, H, W, 3), float32.

        ``memory`` holds keys (B, S, N, K) and patches (B, S, N, P) of earlier frames; target t must not see those that
        are ``hidden``.
        """
        keys_BSNK, patches_BSNP = memory
        query = rotate(normalise(self.query(normalise(tokens_BTND))), *phases)
        query_BNTK, keys_BNKS = query.transpose(1, 2), keys_BSNK.permute(0, 2, 3, 1)
        scores = (query_BNTK @ keys_BNKS).float() * (self.sharpness.float() / query.shape[-1])
        shares = scores.masked_fill(hidden_BTS[:, None], float("-inf")).softmax(dim=-1)  # (B, N, T, S)
        with torch.autocast(shares.device.type, enabled=False):  # pixels keep their precision
            recalled = shares @ patches_BSNP.transpose(1, 2)  # (B, N, T, P)
        recalled = recalled.transpose(1, 2).unflatten(2, grid)  # (B, T, R, C, P)
        return depth_to_space(recalled.flatten(0, 1), self.patch).unflatten(0, tokens_BTND.shape[:2])
