"""The random part of a loss, clip by clip: a clip's noise hangs on its own seed alone. Knows no network and no data.

What a step learns is then the same however its clips are cut into parts and spread over processes.

Dimension keys: B clips, T target frames.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from worldsim.losses import LossConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draws:
    """The random part of one loss evaluation, drawn beforehand so that the loss itself is a pure function."""

    context_noise: Tensor  # (B, T, H, W, 3)
    noise: Tensor  # (B, T, H, W, 3)
    context_level: Tensor  # (B, T)
    level: Tensor  # (B, T) on the grid of the finest sampler
    known: Tensor  # (B,) actions visible?
    num_steps: Tensor  # (B,) sampler the clip is trained for
    turn: Tensor  # (B,) evenly 0 .. 1: the clips below a share are shown the model's own frames

    def rows(self, rows: Tensor) -> Draws:
        """Return the draws of some clips only."""
        return Draws(**{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)})

    def to(self, device: torch.device | str) -> Draws:
        """Return the draws on ``device``."""
        return Draws(**{field.name: getattr(self, field.name).to(device) for field in dataclasses.fields(self)})


def draw(
    shape: tuple[int, ...], seeds: Sequence[Sequence[int]], loss: LossConfig, max_steps: int, shortcut_share: float
) -> Draws:
    """Draw noise and levels for one clip a seed, each with targets of ``shape`` (T, H, W, 3).

    A share ``shortcut_share`` of the clips is trained for fewer than ``max_steps`` sampler steps; their levels lie on
    that sampler's grid (Frans et al. 2024, Sec. 3).
    """
    each = [_draw(shape, generator_of(seed), loss, max_steps, shortcut_share) for seed in seeds]
    return Draws(
        **{
            name: torch.stack([getattr(one, name) for one in each])
            for name in (f.name for f in dataclasses.fields(Draws))
        }
    )


def generator_of(seed: Sequence[int]) -> torch.Generator:
    """Return a CPU generator whose state hangs on all numbers of ``seed``."""
    mixed = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator().manual_seed(mixed)


def _draw(
    shape: tuple[int, ...], generator: torch.Generator, loss: LossConfig, max_steps: int, shortcut_share: float
) -> Draws:
    """Draw for one clip; no field has the clips' axis yet."""
    t = shape[0]
    steps = torch.tensor(max_steps)
    chance = torch.rand((), generator=generator)
    if max_steps > 1:
        fewer = 2 ** torch.randint(0, int(math.log2(max_steps)), (), generator=generator)
        steps = torch.where(chance < shortcut_share, fewer, steps)
    level = (torch.rand(t, generator=generator) * steps).floor() / steps
    level = torch.where(torch.rand(t, generator=generator) < loss.start_share, torch.zeros_like(level), level)
    noisy = torch.rand((), generator=generator) >= loss.context_clean_share
    return Draws(
        context_noise=torch.randn(shape, generator=generator),
        noise=torch.randn(shape, generator=generator),
        context_level=1 - loss.context_noise_max * noisy * torch.rand(t, generator=generator),
        level=level,
        known=torch.rand((), generator=generator) >= loss.action_dropout,
        num_steps=steps,
        turn=torch.rand((), generator=generator),
    )
