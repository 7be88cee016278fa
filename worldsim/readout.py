"""What is read off a frame: reward, termination, named state. Knows no meaning of any of it.

Dimension keys: F = all leading axes flattened, H x W pixels, c colours, A action dimensions.
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
_JUDGE = 4
"""Of so many hidden units one stands between an action with what it led to, and what the two are worth."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Read:
    """Single frames, the ones before them, the actions between the two, and what is true of them."""

    before: Tensor
    """(F, H, W, 3) uint8."""
    shown: Tensor
    actions: Tensor
    """(F, A)"""
    rewards: Tensor
    """(F,) for coming to these frames, as ``terminated``."""
    terminated: Tensor
    readouts: Mapping[str, Tensor]

    def to(self, device: torch.device | str) -> Read:
        """Move everything."""
        names = ("before", "shown", "actions", "rewards", "terminated")
        own = {name: getattr(self, name).to(device) for name in names}
        return Read(**own, readouts={name: rows.to(device) for name, rows in self.readouts.items()})


class ReadoutHead(nn.Module):
    """Reads a row of numbers off a committed frame and the one before it, by a small convolutional network.

    It sees the picture, not the trunk's tokens: beside these it learns scenes by heart and reads new ones no better than
    the mean (docs/experiments.md). So it reads what can be seen, and nothing of what the model remembers. Only reward and
    termination, the first two numbers, are told the action as well: what is said of the world's state is seen in it.
    """

    def __init__(self, config: ModelConfig, outputs: int, action_dim: int) -> None:
        super().__init__()
        sizes = [2 * 3 * _SHUFFLE**2, *_EYE]
        self.eye = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in itertools.pairwise(sizes))
        self.hidden = nn.Linear(_EYE[-1] * _VIEW**2, config.readout_width)
        self.out = nn.Linear(config.readout_width, outputs)
        self.judge = _Judge(config.readout_width, action_dim) if config.reads_action else None

    def forward(self, before_FHWc: Tensor, shown_FHWc: Tensor, action_FA: Tensor) -> Tensor:
        """Return raw readout rows (F, outputs) in float32; pictures as floats, -1 .. 1 for black .. white, actions alike."""
        seen = torch.cat([before_FHWc, shown_FHWc], dim=-1).to(self.out.weight.dtype).permute(0, 3, 1, 2)
        seen = F.pixel_unshuffle(seen, _SHUFFLE)
        for layer in self.eye:
            seen = F.relu(layer(seen))
        seen = F.adaptive_avg_pool2d(seen, _VIEW).flatten(1)
        seen = F.relu(self.hidden(seen))
        raw = self.out(seen)
        if self.judge is None:
            return raw.float()
        worth = raw[:, :2] + self.judge(seen, action_FA.to(seen.dtype))
        return torch.cat([worth, raw[:, 2:]], dim=-1).float()


class _Judge(nn.Module):
    """Says what an action adds to reward and to termination, beside what it led to. Two doors, so that few numbers among many are heard."""

    def __init__(self, width: int, action_dim: int) -> None:
        super().__init__()
        self.seen = nn.Linear(width, width // _JUDGE)
        self.done = nn.Linear(action_dim, width // _JUDGE)
        self.out = nn.Linear(width // _JUDGE, 2)

    def forward(self, seen_FW: Tensor, action_FA: Tensor) -> Tensor:
        return self.out(F.relu(self.seen(seen_FW) + self.done(action_FA)))
