"""Pixel errors that static scenery cannot flatter, and sharpness. Knows frames only.

PSNR over whole frames praises a model that repeats the last frame, since most pixels do not move; so errors are taken
over the pixels that do.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float64, UInt8

MOVED_GREY_LEVELS = 16
"""A pixel has moved if any channel differs by more than this many of 255 grey levels."""


def moving_pixels(
    truth: UInt8[np.ndarray, "*b t h w 3"], start: UInt8[np.ndarray, "*b h w 3"]
) -> Bool[np.ndarray, "*b t h w"]:
    """Return which pixels of the true frames 1 .. T differ from frame 0 (``start``) or from the true frame before."""
    before = np.concatenate([start[..., None, :, :, :], truth[..., :-1, :, :, :]], axis=-4)
    wide, first = truth.astype(np.int16), start[..., None, :, :, :].astype(np.int16)
    since_start = np.abs(wide - first).max(-1) > MOVED_GREY_LEVELS
    since_before = np.abs(wide - before.astype(np.int16)).max(-1) > MOVED_GREY_LEVELS
    return since_start | since_before


def moving_error(
    frames: UInt8[np.ndarray, "*b t h w 3"],
    truth: UInt8[np.ndarray, "*b t h w 3"],
    moving: Bool[np.ndarray, "*b t h w"],
) -> tuple[Float[np.ndarray, "*b t"], Float[np.ndarray, "*b t"]]:
    """Return per frame the summed squared error over moving pixels (range -1 .. 1, mean over RGB) and their number.

    Sums and counts are returned apart, so that a frame in which nothing moves weighs nothing and is never a 0 / 0.
    """
    difference = (frames.astype(np.float32) - truth.astype(np.float32)) / 127.5
    squared = np.square(difference).mean(-1)
    return (squared * moving).sum((-1, -2)), moving.sum((-1, -2)).astype(np.float32)


def laplacian_energy(frames: UInt8[np.ndarray, "*batch h w 3"]) -> Float64[np.ndarray, "*batch"]:
    """Return the mean squared Laplacian (four neighbours, inner pixels, levels 0 .. 1) of each frame: its sharpness."""
    x = frames.astype(np.float32) / 255
    inner = x[..., 1:-1, 1:-1, :]
    around = x[..., :-2, 1:-1, :] + x[..., 2:, 1:-1, :] + x[..., 1:-1, :-2, :] + x[..., 1:-1, 2:, :]
    return np.square(around - 4 * inner).mean(axis=(-1, -2, -3), dtype=np.float64)
