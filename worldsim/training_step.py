"""One optimisation step as a pure function of (seed, step): its data, its noise, its loss. Knows no clock and no files."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from worldsim.dataset import FrameCache
from worldsim.denoiser import Clip, Denoiser, Draws, LossConfig, draw, to_unit

MAX_OWN_DEPTH = 4
"""Most estimates that stand on each other in a clip that shows the model its own."""


def training_clip(cache: FrameCache, windows: np.ndarray, count: int, length: int, seed: tuple[int, ...]) -> Clip:
    """Return ``count`` random windows of ``length`` target frames; the same ones for the same ``seed``."""
    rows = windows[np.random.default_rng(seed).integers(0, len(windows), count)]
    batch = cache.batch(rows[:, 0], rows[:, 1], length + 1)
    return Clip(
        frames=torch.from_numpy(batch.frames),
        actions=torch.from_numpy(batch.actions),
        rewards=torch.from_numpy(batch.rewards),
        terminated=torch.from_numpy(batch.terminated),
        readouts={name: torch.from_numpy(rows) for name, rows in batch.readouts.items()},
    )


def training_draws(
    clip: Clip, denoiser: Denoiser, loss: LossConfig, shortcut_share: float, seed: tuple[int, ...]
) -> tuple[Draws, torch.Generator]:
    """Draw the noise of a step from ``seed``; the generator is returned for what else the step must draw."""
    mixed = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> np.uint64(1))
    generator = torch.Generator().manual_seed(mixed)
    b, t = clip.actions.shape[:2]
    shape = (b, t, *clip.frames.shape[2:])
    return draw(shape, generator, loss, denoiser.network.config.max_steps, shortcut_share), generator


def own_context(
    denoiser: Denoiser, clip: Clip, draws: Draws, generator: torch.Generator, share: float
) -> Tensor | None:
    """Return the context frames with a ``share`` of the clips showing the model's own estimates, or None if none do.

    Where they begin in a clip, and how many of them stand on each other, is drawn anew each time.
    """
    b, t = draws.level.shape
    chosen = torch.rand(b, generator=generator) < share
    first = (torch.rand(b, generator=generator) * t).long()
    depth = int(torch.randint(1, MAX_OWN_DEPTH + 1, (1,), generator=generator))
    if not bool(chosen.any()):
        return None
    rows = chosen.nonzero()[:, 0].to(clip.actions.device)
    first = first.to(clip.actions.device)[rows]
    shown = denoiser.own_context(clip.rows(rows), draws.rows(rows), first, depth)
    context = to_unit(clip.frames[:, :-1])
    return context.index_copy(0, rows, shown)


def fit_readouts(denoiser: Denoiser, readouts: Mapping[str, np.ndarray]) -> None:
    """Set the normalisation of every named readout to the mean and spread of the training split."""
    for name in denoiser.readout_sizes:
        rows = readouts[name]
        getattr(denoiser, f"mean_{name}").copy_(torch.from_numpy(rows.mean(0)))
        getattr(denoiser, f"std_{name}").copy_(torch.from_numpy(rows.std(0)).clamp(min=0.05))
