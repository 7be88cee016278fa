"""Clips of frames: side by side, enlarged, as animated WebP. Knows no model and no world, and needs no plotting."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def side_by_side(
    clips: Sequence[UInt8[np.ndarray, "t h w 3"]], gap: int = 2, grey: int = 128
) -> UInt8[np.ndarray, "t h w2 3"]:
    """Put clips of equal size next to one another, ``gap`` grey pixels between them."""
    t, h, _, _ = clips[0].shape
    bar = np.full((t, h, gap, 3), grey, dtype=np.uint8)
    parts = [part for clip in clips for part in (bar, clip)][1:]
    return np.concatenate(parts, axis=2)


def above_one_another(
    clips: Sequence[UInt8[np.ndarray, "t h w 3"]], gap: int = 2, grey: int = 128
) -> UInt8[np.ndarray, "t h2 w 3"]:
    """Put clips of equal size one above another, ``gap`` grey pixels between them."""
    turned = [clip.swapaxes(1, 2) for clip in clips]
    return side_by_side(turned, gap, grey).swapaxes(1, 2)


def enlarged(frames: UInt8[np.ndarray, "t h w 3"], times: int) -> UInt8[np.ndarray, "t h2 w2 3"]:
    """Return frames with every pixel repeated ``times`` times both ways."""
    return frames.repeat(times, axis=1).repeat(times, axis=2)


def webp(frames: UInt8[np.ndarray, "t h w 3"], frame_ms: int, last_ms: int = 1000, effort: int = 4) -> bytes:
    """Return an endless animated WebP (lossless, pixel for pixel) that rests ``last_ms`` on its last frame.

    ``effort`` 0 is written fastest, 6 smallest.
    """
    pictures = [Image.fromarray(frame) for frame in frames]
    durations = [frame_ms] * (len(pictures) - 1) + [last_ms]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=durations,
        loop=0,
        lossless=True,
        method=effort,
    )
    return buffer.getvalue()
