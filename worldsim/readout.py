"""What is read off a frame: reward, termination, named state. Knows no meaning of any of it.

Dimension keys: F = all leading axes flattened, H x W pixels, c colours, A action dimensions.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.config import ModelConfig
from worldsim.episode import Readout
from worldsim.errors import UsageError, suggestion

_SHUFFLE = 2
"""The picture enters in blocks of 2 x 2 pixels, and maps of half their grid say where something is."""
_EYE = (32, 48)
"""Channels of the convolutions before the maps; the first halves the sides."""
_POINTS = 32
"""Maps, each of which finds one place in the picture."""
_TURNED = 24
"""Numbers that a point becomes by a linear map that the view gives, such as its place along axes of the world's own."""
_PLACED = 12
"""Numbers that a point becomes once it is known from where it is seen."""
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


def reading_weights(readouts: Sequence[Readout], weights: Mapping[str, float | int]) -> dict[str, Tensor]:
    """Return the weight of every element of every readout, 1 on average in each, by ``weights`` of patterns of READOUT/NAME.

    UsageError for a pattern that fits nothing, and for weights that leave a readout none.
    """
    names = [f"{readout.name}/{name}" for readout in readouts for name in readout.names]
    for pattern, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise UsageError("readout_weights", got=f"{weight} of {pattern!r}", allowed="0 or more", fix="1 is usual")
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            allowed = f"patterns that fit any of the {len(names)} numbers read in this world"
            raise UsageError("readout_weights", got=repr(pattern), allowed=allowed, fix=suggestion(pattern, names))
    found = {}
    for readout in readouts:
        own = [_weight(f"{readout.name}/{name}", weights) for name in readout.names]
        if not sum(own):
            fix = "leave one of its elements some weight"
            raise UsageError("readout_weights", got=f"0 for all of {readout.name!r}", allowed="more in sum", fix=fix)
        found[readout.name] = torch.tensor(own) * len(own) / sum(own)
    return found


def _weight(name: str, weights: Mapping[str, float | int]) -> float:
    fitting = (weight for pattern, weight in weights.items() if fnmatch.fnmatchcase(name, pattern))
    return float(next(fitting, 1))


class ReadoutHead(nn.Module):
    """Reads a row of numbers off a committed frame and the one before it: where things are, and what that means from here.

    Maps over the picture each become a point, by the mean place of their softmax (the spatial soft argmax of Levine et al.
    2016, arXiv 1504.00702), and how sure of it they are. All points together tell the view; under it one and the same small
    network places every point, so that what is learnt of one body's place holds for all. The view also turns points by a
    matrix that it makes: a rotation is a product of both, which is learnt less well by a network that is handed them side by
    side. Pooled features in place of points learn scenes by heart (docs/experiments.md).

    It sees the picture, not the trunk's tokens, and so nothing of what the model remembers. Only reward and termination, the
    first two numbers, are told the action as well: what is said of the world's state is seen in it.
    """

    def __init__(self, config: ModelConfig, outputs: int, action_dim: int) -> None:
        super().__init__()
        width, view = config.readout_width, config.readout_width // 4
        first, second = _EYE
        self.eye = nn.ModuleList(
            [nn.Conv2d(2 * 3 * _SHUFFLE**2, first, 3, stride=2, padding=1), nn.Conv2d(first, second, 3, padding=1)]
        )
        self.maps = nn.Conv2d(second, _POINTS, 1)
        self.view = nn.ModuleList([nn.Linear(_POINTS * 3, view), nn.Linear(view, view)])
        self.turn = nn.Linear(view, 4 * _TURNED)
        self.place = nn.Sequential(nn.Linear(_TURNED + 3 + view, width // 2), nn.ReLU(), nn.Linear(width // 2, _PLACED))
        self.hidden = nn.Linear(_POINTS * (3 + _PLACED) + view, width)
        self.out = nn.Linear(width, outputs)
        self.judge = _Judge(width, action_dim) if config.reads_action else None

    def forward(self, before_FHWc: Tensor, shown_FHWc: Tensor, action_FA: Tensor) -> Tensor:
        """Return raw readout rows (F, outputs) in float32; pictures as floats, -1 .. 1 for black .. white, actions alike."""
        seen = torch.cat([before_FHWc, shown_FHWc], dim=-1).to(self.out.weight.dtype).permute(0, 3, 1, 2)
        seen = F.pixel_unshuffle(seen, _SHUFFLE)
        for layer in self.eye:
            seen = F.relu(layer(seen))
        points = _points(self.maps(seen))
        first, second = self.view
        view = F.relu(first(points.flatten(1)))
        view = view + F.relu(second(view))
        turned = F.pad(points, (0, 1), value=1.0) @ self.turn(view).view(-1, 4, _TURNED)
        placed = self.place(torch.cat([turned, points, view[:, None].expand(-1, _POINTS, -1)], dim=-1))
        seen = F.relu(self.hidden(torch.cat([points.flatten(1), placed.flatten(1), view], dim=-1)))
        raw = self.out(seen)
        if self.judge is None:
            return raw.float()
        worth = raw[:, :2] + self.judge(seen, action_FA.to(seen.dtype))
        return torch.cat([worth, raw[:, 2:]], dim=-1).float()


def _points(maps_FPYX: Tensor) -> Tensor:
    """Return each map's mean place, y and x in -1 .. 1, and its logarithmic mean, how sure it is (F, P, 3)."""
    sides = maps_FPYX.shape[-2:]
    flat = maps_FPYX.float().flatten(2)
    axes = [torch.linspace(-1, 1, side, device=flat.device) for side in sides]
    grid = torch.stack(torch.meshgrid(axes, indexing="ij"), dim=-1).flatten(0, 1)
    sure = flat.logsumexp(-1, keepdim=True) - math.log(math.prod(sides))
    return torch.cat([flat.softmax(-1) @ grid, sure], dim=-1).to(maps_FPYX.dtype)


class _Judge(nn.Module):
    """Says what an action adds to reward and to termination, beside what it led to. Two doors, so that few numbers among many are heard."""

    def __init__(self, width: int, action_dim: int) -> None:
        super().__init__()
        self.seen = nn.Linear(width, width // _JUDGE)
        self.done = nn.Linear(action_dim, width // _JUDGE)
        self.out = nn.Linear(width // _JUDGE, 2)

    def forward(self, seen_FW: Tensor, action_FA: Tensor) -> Tensor:
        return self.out(F.relu(self.seen(seen_FW) + self.done(action_FA)))
