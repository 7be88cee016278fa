"""Errors of predicted frames where something moves, and the trivial predictions. Knows no model and no world.

Frames are uint8 RGB; errors are squared differences in units where black is -1 and white is 1, averaged over RGB.
Most of a frame stands still, so an error over whole frames flatters whoever copies: only *moving* pixels count. A pixel
of true frame t moves if any of its channels differs by more than `MOVED_GREY_LEVELS` from the last frame of the
context (it has changed since) or from the true frame t - 1 (it is changing now, even if it only returns to what it
was). The mask depends on the truth alone, so it is the same for every predictor (see `worldsim.metrics`).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from worldsim.metrics import MOVED_GREY_LEVELS, moving_error


def changed(
    one: UInt8[np.ndarray, "*batch h w 3"], other: UInt8[np.ndarray, "*batch h w 3"]
) -> Bool[np.ndarray, "*batch h w"]:
    """Return where any channel of two frames differs by more than `MOVED_GREY_LEVELS`."""
    return np.abs(one.astype(np.int16) - other.astype(np.int16)).max(axis=-1) > MOVED_GREY_LEVELS


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelErrors:
    """Summed squared error over the masked pixels of each scene and frame, and how many pixels those are."""

    total: Float64[np.ndarray, "n t"]
    count: Float64[np.ndarray, "n t"]

    def rows(self, rows: slice) -> PixelErrors:
        """Return the errors of some scenes only."""
        return PixelErrors(total=self.total[rows], count=self.count[rows])

    def curve(self) -> Float64[np.ndarray, " t"]:
        """Return the mean error of a masked pixel, frame by frame, all scenes pooled; NaN where nothing is masked."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.total.sum(axis=0) / self.count.sum(axis=0)

    def by_scene(self) -> Float64[np.ndarray, " n"]:
        """Return the mean error of a masked pixel of each scene, all its frames pooled; 0 where nothing is masked."""
        return self.total.sum(axis=1) / np.maximum(self.count.sum(axis=1), 1)


def pixel_errors(
    predicted: UInt8[np.ndarray, "n t h w 3"],
    truth: UInt8[np.ndarray, "n t h w 3"],
    mask: Bool[np.ndarray, "n t h w"],
) -> PixelErrors:
    """Sum the squared error of ``predicted`` over the masked pixels, scene by scene (the float copies stay small)."""
    sums = [moving_error(*scene) for scene in zip(predicted, truth, mask, strict=True)]
    total, count = (np.stack(column).astype(np.float64) for column in zip(*sums, strict=True))
    return PixelErrors(total=total, count=count)


def copy_last(last: UInt8[np.ndarray, "n h w 3"], steps: int) -> UInt8[np.ndarray, "n t h w 3"]:
    """Predict that nothing ever changes: the context's last frame again and again."""
    return np.repeat(last[:, None], steps, axis=1)


def constant_frame(frame: UInt8[np.ndarray, "h w 3"], scenes: int, steps: int) -> UInt8[np.ndarray, "n t h w 3"]:
    """Predict one and the same frame for every scene and step, for example the mean frame."""
    return np.broadcast_to(frame, (scenes, steps, *frame.shape))


def mean_frame(frames: UInt8[np.ndarray, "*batch h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return the mean of many frames, rounded: the best constant prediction."""
    return frames.mean(axis=tuple(range(frames.ndim - 3)), dtype=np.float64).round().astype(np.uint8)


def derangement(count: int, rng: np.random.Generator) -> Int64[np.ndarray, " n"]:
    """Return a random order in which nobody keeps their place (one scene alone keeps it): whose actions to take."""
    order = rng.permutation(count)
    result = np.empty(count, dtype=np.int64)
    result[order] = np.roll(order, 1)
    return result
