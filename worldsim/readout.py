"""What is read off a frame: reward, termination, named state. Knows no meaning of any of it.

Dimension keys: F = all leading axes flattened, H x W pixels, c colours.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.config import ModelConfig

_EYE = (32, 48, 64)
"""Channels of the convolutions over the picture; each halves its sides."""
_SHUFFLE, _VIEW = 2, 4
"""The picture enters in blocks of 2 x 2 pixels and leaves as 4 x 4 places."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Read:
    """Single frames, the ones before them, and what is true of them."""

    before: Tensor
    """(F, H, W, 3) uint8."""
    shown: Tensor
    rewards: Tensor
    """(F,) for coming to these frames, as ``terminated``."""
    terminated: Tensor
    readouts: Mapping[str, Tensor]

    def to(self, device: torch.device | str) -> Read:
        """Move everything."""
        own = {name: getattr(self, name).to(device) for name in ("before", "shown", "rewards", "terminated")}
        return Read(**own, readouts={name: rows.to(device) for name, rows in self.readouts.items()})


class ReadoutHead(nn.Module):
    """Reads a row of numbers off a committed frame and the one before it, by a small convolutional network.

    It sees the picture, not the trunk's tokens: beside these it learns scenes by heart and reads new ones no better than
    the mean (docs/experiments.md). So it reads what can be seen, and nothing of what the model remembers.
    """

    def __init__(self, config: ModelConfig, outputs: int) -> None:
        super().__init__()
        sizes = [2 * 3 * _SHUFFLE**2, *_EYE]
        self.eye = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in itertools.pairwise(sizes))
        self.hidden = nn.Linear(_EYE[-1] * _VIEW**2, config.readout_width)
        self.out = nn.Linear(config.readout_width, outputs)

    def forward(self, before_FHWc: Tensor, shown_FHWc: Tensor) -> Tensor:
        """Return raw readout rows (F, outputs) in float32; pictures as floats, -1 .. 1 for black .. white."""
        seen = torch.cat([before_FHWc, shown_FHWc], dim=-1).to(self.out.weight.dtype).permute(0, 3, 1, 2)
        seen = F.pixel_unshuffle(seen, _SHUFFLE)
        for layer in self.eye:
            seen = F.relu(layer(seen))
        seen = F.adaptive_avg_pool2d(seen, _VIEW).flatten(1)
        return self.out(F.relu(self.hidden(seen))).float()
