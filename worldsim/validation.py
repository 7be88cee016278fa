"""Validation of a model in training: dreams of held-out windows against the truth. Knows no environment."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from worldsim import rollout as rollouts
from worldsim.dataset import FrameCache
from worldsim.metrics import laplacian_energy, moving_error, moving_pixels
from worldsim.storage import write_atomically

WINDOWS_OF_EPISODE = 4
"""Most windows that an episode is asked for: more of the same hardly tell more."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationSet:
    """Held-out windows with a context of K actions and T true steps after it."""

    frames: UInt8[np.ndarray, "b n h w 3"]
    actions: Float32[np.ndarray, "b s a"]
    context_steps: int

    @classmethod
    def choose(cls, cache: FrameCache, context_steps: int, steps: int, count: int) -> ValidationSet:
        """Take ``count`` windows spread evenly over the split, the same ones every time; fewer of few episodes.

        Where fewer episodes are as long as asked for, windows are as long as so many episodes are.
        """
        count = min(count, WINDOWS_OF_EPISODE * (len(cache.offsets) - 1))
        lengths = np.sort(np.diff(cache.offsets))[::-1]
        length = min(context_steps + steps + 1, max(int(lengths[min(count, len(lengths)) - 1]), 3))
        windows = cache.windows(length)
        rows = windows[np.linspace(0, len(windows) - 1, min(count, len(windows))).astype(int)]
        batch = cache.batch(rows[:, 0], rows[:, 1], length)
        return cls(frames=batch.frames, actions=batch.actions, context_steps=min(context_steps, length - 2))

    @property
    def context(self) -> tuple[np.ndarray, np.ndarray]:
        """Frames (B, K+1, H, W, 3) and actions (B, K, A) that the model is shown."""
        k = self.context_steps
        return np.ascontiguousarray(self.frames[:, : k + 1]), np.ascontiguousarray(self.actions[:, :k])

    @property
    def truth(self) -> np.ndarray:
        """True frames after the context (B, T, H, W, 3)."""
        return self.frames[:, self.context_steps + 1 :]

    @property
    def future_actions(self) -> np.ndarray:
        """Actions after the context (B, T, A)."""
        return np.ascontiguousarray(self.actions[:, self.context_steps :])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation:
    """Scores of one validation, and the frames behind them."""

    scores: dict[str, float]
    dream: UInt8[np.ndarray, "b t h w 3"]


def validate(rollout: rollouts.Rollout, held_out: ValidationSet) -> Validation:
    """Dream every window with the right and with the other windows' actions, and score both on moving pixels.

    Scores: ``error_N`` and ``copy_last_N`` after N = 1, 2, 4, ... frames (mean squared error on moving pixels, range
    -1 .. 1), ``sharpness_N`` (Laplacian energy over the truth's), ``action_sensitivity`` = error with shuffled minus with right actions over all frames.
    """
    seeds = list(range(len(held_out.frames)))
    dream = rollouts.predict(rollout, held_out.context, held_out.future_actions, seeds)
    shuffled_actions = np.roll(held_out.future_actions, 1, axis=0)
    shuffled = rollouts.predict(rollout, held_out.context, shuffled_actions, seeds)
    truth, last = held_out.truth, held_out.frames[:, held_out.context_steps]
    moving = moving_pixels(truth, last)
    copied = np.broadcast_to(last[:, None], truth.shape)
    sums = {
        name: moving_error(frames, truth, moving)
        for name, frames in {"error": dream, "copy_last": copied, "shuffled": shuffled}.items()
    }
    count = np.maximum(sums["error"][1].sum(0), 1)
    curves = {name: total.sum(0) / count for name, (total, _) in sums.items()}
    horizon = truth.shape[1]
    scores = {}
    for n in [2**i for i in range(horizon.bit_length()) if 2**i <= horizon]:
        scores[f"error_{n}"] = float(curves["error"][n - 1])
        scores[f"copy_last_{n}"] = float(curves["copy_last"][n - 1])
        energy = [float(laplacian_energy(frames[:, n - 1]).mean()) for frames in (dream, truth)]
        scores[f"sharpness_{n}"] = energy[0] / max(energy[1], 1e-12)
    scores["action_sensitivity"] = float(curves["shuffled"].mean() - curves["error"].mean())
    return Validation(scores=scores, dream=dream)


def save_strips(path: Path, held_out: ValidationSet, dream: UInt8[np.ndarray, "b t h w 3"], count: int = 6) -> None:
    """Save a PNG of ``count`` windows: the true frames above the dreamed ones, the last context frame at the left."""
    times = sorted({0, 1, 2, 4, 8, 12, 16, 24, 32} & set(range(dream.shape[1] + 1)))
    rows = []
    for index in np.linspace(0, len(dream) - 1, min(count, len(dream))).astype(int):
        last = held_out.frames[index, held_out.context_steps]
        for frames in (held_out.truth[index], dream[index]):
            rows.append(np.concatenate([last if t == 0 else frames[t - 1] for t in times], axis=1))
    picture, content = Image.fromarray(np.concatenate(rows, axis=0)), io.BytesIO()
    picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST).save(content, format="PNG")
    write_atomically(path, content.getvalue())
