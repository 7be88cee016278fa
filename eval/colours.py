"""Reads bodies off a frame by their colour: which can be read, and where. No learning; knows no model.

Every body of the Arena wears its own saturated colour and all else is grey, so chroma is identity. The frame is
smoothed a little, a pixel belongs to a colour if it is saturated and its chroma points the same way, and the largest
connected patch of a colour is its body. Pixels in the shade belong to it too where they touch it: without them every
body would seem to stand farther off than it does.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float64, Int64, UInt8

from worldsim.envs.scene import COLOURS, PALETTE

MIN_SATURATION = 0.15
"""Least max - min over RGB (levels 0 .. 1) of a pixel that has a colour at all."""
SHADE_SATURATION, SHADE_CHROMA = 0.35, 0.06
"""Least saturation relative to a pixel's brightness, and least max - min, of a pixel in the shade of a body."""
MIN_COSINE = 0.9
"""Least cosine between a pixel's chroma (RGB minus its mean) and that of the palette colour."""
MIN_PIXELS = 5
"""A smaller patch is not read."""
SMOOTHING = 0.6
"""Share of the 3 x 3 mean in the frame that is read; the rest is the raw frame."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColourReading:
    """What can be read off frames, one row of the last axes per palette colour, in `COLOURS` order."""

    found: Bool[np.ndarray, "*batch colours"]
    centroid: Float64[np.ndarray, "*batch colours 2"]
    """Column and row in pixels, weighted by relative saturation; NaN where the colour is not found."""
    pixels: Int64[np.ndarray, "*batch colours"]
    """Size of the largest patch without its shade, also when it is too small to be read."""


def read_colours(frames: UInt8[np.ndarray, "*batch h w 3"]) -> ColourReading:
    """Read all palette colours off all frames."""
    batch = frames.shape[:-3]
    flat = frames.reshape(-1, *frames.shape[-3:])
    pixels = np.zeros((len(flat), len(COLOURS)), dtype=np.int64)
    centroid = np.full((len(flat), len(COLOURS), 2), np.nan)
    for index, frame in enumerate(flat):
        chroma, relative, cosine = _chroma(frame)
        lit = chroma > MIN_SATURATION
        shaded = lit | ((chroma > SHADE_CHROMA) & (relative > SHADE_SATURATION))
        for slot in range(len(COLOURS)):
            alike = cosine[..., slot] > MIN_COSINE
            pixels[index, slot], centroid[index, slot] = _largest_patch(alike & shaded, alike & lit, relative)
    found = pixels >= MIN_PIXELS
    centroid[~found] = np.nan
    return ColourReading(
        found=found.reshape(*batch, len(COLOURS)),
        centroid=centroid.reshape(*batch, len(COLOURS), 2),
        pixels=pixels.reshape(*batch, len(COLOURS)),
    )


def _chroma(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return max - min over RGB (h, w), the same relative to max, and the cosines to the palette's (h, w, colours)."""
    raw = frame.astype(np.float64) / 255
    padded = np.pad(raw, ((1, 1), (1, 1), (0, 0)), mode="edge")
    smooth = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1)).mean(axis=(-1, -2))
    mixed = SMOOTHING * smooth + (1 - SMOOTHING) * raw
    most = mixed.max(axis=-1)
    size = most - mixed.min(axis=-1)
    chroma = mixed - mixed.mean(axis=-1, keepdims=True)
    palette = np.array([PALETTE[colour] for colour in COLOURS])
    palette = palette - palette.mean(axis=-1, keepdims=True)
    lengths = np.linalg.norm(chroma, axis=-1, keepdims=True) * np.linalg.norm(palette, axis=-1)
    return size, size / np.maximum(most, 1e-9), chroma @ palette.T / np.maximum(lengths, 1e-9)


def _largest_patch(patch: np.ndarray, counted: np.ndarray, weight: np.ndarray) -> tuple[int, tuple[float, float]]:
    """Return, of the connected patch with most ``counted`` pixels, how many those are and its weighted centroid."""
    if not counted.any():
        return 0, (np.nan, np.nan)
    labels = np.empty(patch.shape, dtype=np.int32)
    scipy.ndimage.label(patch, output=labels)
    sizes = np.bincount(labels[counted])
    rows, columns = np.nonzero(labels == int(sizes.argmax()))
    weights = weight[rows, columns]
    return int(sizes.max()), (float(np.average(columns, weights=weights)), float(np.average(rows, weights=weights)))
