"""One optimisation step as a pure function of (seed, step): its data, its noise, its loss. Knows no clock and no files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from worldsim.dataset import FrameCache
from worldsim.denoiser import Clip, Denoiser, to_unit
from worldsim.draws import Draws, draw
from worldsim.losses import LossConfig
from worldsim.own_context import MAX_OWN_FRAMES, dream_on
from worldsim.readout import Read

AT_WORK = 0.05
"""An action is at work where it is larger than this, as a share of the largest of its dimension in the recording."""

LEAST_SHARE = 0.02
"""Actions at work in a smaller share of the steps are not made any more frequent."""


LONG_SHARE = 0.25
"""Least share of a recording's frames in episodes from which clips are cut: few long episodes would be learnt by heart."""


def clip_length(offsets: np.ndarray, wanted: int) -> int:
    """Return ``wanted`` target frames, or fewer where too little of the recording is in episodes that long.

    ``offsets`` are those of `FrameCache`: where the frames of each episode begin, and where the last one ends.
    """
    lengths = np.sort(np.diff(offsets))
    share = np.cumsum(lengths) / lengths.sum()
    longest = int(lengths[np.searchsorted(share, 1 - LONG_SHARE)])
    return max(1, min(wanted, longest - 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Frames of a step that are read together, and clips that go through the network together (None: the world is left alone)."""

    share: float
    """Of what this process has of the step."""
    read: Read
    clip: Clip | None = None
    draws: Draws | None = None
    pixels: Tensor | None = None
    """Weights by `pixel_weight`, balanced over the whole step."""


@dataclasses.dataclass(frozen=True)
class ClipSampler:
    """Draws windows of a recording, evenly or so that every action dimension is at work equally often.

    Recordings hold long waits, and some actions are rare; the most is learnt where something is done.
    """

    cache: FrameCache
    length: int
    """Target frames of a clip."""
    windows: np.ndarray
    """Rows (episode's position, first frame) of `FrameCache.windows`."""
    odds: np.ndarray
    """Cumulative probability of each window."""

    @classmethod
    def of(cls, cache: FrameCache, length: int, balanced_share: float) -> ClipSampler:
        """Return a sampler that draws a share of the clips by their actions, the rest evenly."""
        windows = cache.windows(length + 1)
        size = np.abs(cache.actions).reshape(len(cache.actions), -1)
        at_work = size > AT_WORK * size.max(0)
        weight = (at_work / np.maximum(at_work.mean(0), LEAST_SHARE)).mean(1)
        sums = np.concatenate([[0.0], np.cumsum(weight)])
        first = cache.offsets[windows[:, 0]] + windows[:, 1] - windows[:, 0]  # one action less than frames
        balanced = sums[first + length] - sums[first]
        share = balanced_share * (balanced.sum() > 0)
        odds = (1 - share) / len(windows) + share * balanced / max(balanced.sum(), 1e-12)
        return cls(cache, length, windows, np.cumsum(odds))

    def draw(self, clips: range, seed: tuple[int, ...]) -> Clip:
        """Return the clips of these numbers among all of a step; the same ones for the same ``seed``."""
        places = np.random.default_rng(seed).random(clips.stop)[clips.start :] * self.odds[-1]
        return training_clip(self.cache, self.windows[np.searchsorted(self.odds, places, side="right")], self.length)


def training_clip(cache: FrameCache, rows: np.ndarray, length: int) -> Clip:
    """Return the windows ``rows`` (episode's position, first frame) of ``length`` target frames."""
    batch = cache.batch(rows[:, 0], rows[:, 1], length + 1)
    return Clip(frames=torch.from_numpy(batch.frames), actions=torch.from_numpy(batch.actions))


def training_draws(
    clip: Clip, denoiser: Denoiser, loss: LossConfig, shortcut_share: float, seed: tuple[int, ...], first: int = 0
) -> Draws:
    """Draw the noise of clips ``first`` .. of a step; a clip's hangs on ``seed`` and its own number alone."""
    seeds = [(*seed, first + row) for row in range(len(clip.actions))]
    shape = (clip.actions.shape[1], *clip.frames.shape[2:])
    return draw(shape, seeds, loss, denoiser.network.config.max_steps, shortcut_share)


def own_context(denoiser: Denoiser, clip: Clip, draws: Draws, share: float, seed: tuple[int, ...]) -> Tensor | None:
    """Return the context frames with a ``share`` of the clips showing the model's own frames, or None if none do.

    From which frame on is drawn from ``seed``, one place for all clips of the step.
    """
    t = clip.actions.shape[1]
    rows = (draws.turn < share).nonzero()[:, 0]
    if not len(rows) or t < 2:
        return None
    count = int(np.random.default_rng(seed).integers(1, MAX_OWN_FRAMES, endpoint=True))
    first = t - 1 - (count - 1) % (t - 1)  # evenly 1 .. t - 1 where clips are short
    shown = dream_on(denoiser, clip.rows(rows), draws.rows(rows), first)
    context = to_unit(clip.frames[:, :-1])
    return context.index_copy(0, rows, shown)


def draw_read(cache: FrameCache, reads: range, seed: tuple[int, ...]) -> Read:
    """Return the frames of these numbers among all of a step; drawn evenly, none of them the first of its episode."""
    which, when = np.random.default_rng(seed).random((reads.stop, 2))[reads.start :].T
    episodes = np.searchsorted(cache.offsets, which * cache.offsets[-1], side="right") - 1
    lengths = cache.offsets[episodes + 1] - cache.offsets[episodes]
    rows = cache.offsets[episodes] + 1 + (when * (lengths - 1)).astype(np.int64)
    steps = rows - 1 - episodes  # an episode has one action less than frames
    return Read(
        before=torch.from_numpy(np.asarray(cache.frames[rows - 1])),
        shown=torch.from_numpy(np.asarray(cache.frames[rows])),
        actions=torch.from_numpy(np.asarray(cache.actions[steps], np.float32)),
        rewards=torch.from_numpy(cache.rewards[steps]),
        terminated=torch.from_numpy(cache.terminated[steps]),
        readouts={name: torch.from_numpy(values[rows]) for name, values in cache.readouts.items()},
    )


def fit_readouts(denoiser: Denoiser, readouts: Mapping[str, np.ndarray]) -> None:
    """Set the normalisation of every named readout to the mean and spread of the training split."""
    for readout in denoiser.readouts:
        rows = readouts[readout.name]
        getattr(denoiser, f"mean_{readout.name}").copy_(torch.from_numpy(rows.mean(0)))
        getattr(denoiser, f"std_{readout.name}").copy_(torch.from_numpy(rows.std(0)).clamp(min=0.05))
