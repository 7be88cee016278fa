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
SMOOTHING = 0.4
"""Share of the 3 x 3 mean in the frame that is read; the rest is the raw frame."""
_RAW_PARTS = round(9 * (1 - SMOOTHING) / SMOOTHING)
"""What the raw pixel counts beside the sum of its 3 x 3, so that the mixture is a whole number."""
_WHITE = 255 * (9 + _RAW_PARTS)
"""White in a mixture of whole numbers."""
_WITHIN_LAYERS = np.stack(
    [np.zeros((3, 3), bool), scipy.ndimage.generate_binary_structure(2, 1), np.zeros((3, 3), bool)]
)
"""Neighbours of a pixel in a stack of masks: four, all in its own mask."""
_CHUNK = 64
"""Frames read at once: more would not be quicker, but need more memory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColourReading:
    """What can be read off frames, one row of the last axes per palette colour, in `COLOURS` order."""

    found: Bool[np.ndarray, "*batch colours"]
    centroid: Float64[np.ndarray, "*batch colours 2"]
    """Column and row in pixels, weighted by how much of a pixel the colour covers; NaN where it is not found."""
    pixels: Int64[np.ndarray, "*batch colours"]
    """Size of the largest patch without its shade, also when it is too small to be read."""


def read_colours(frames: UInt8[np.ndarray, "*batch h w 3"]) -> ColourReading:
    """Read all palette colours off all frames."""
    batch = frames.shape[:-3]
    flat = frames.reshape(-1, *frames.shape[-3:])
    pixels = np.zeros((len(flat), len(COLOURS)), dtype=np.int64)
    centroid = np.full((len(flat), len(COLOURS), 2), np.nan)
    for first in range(0, len(flat), _CHUNK):
        coloured = _coloured_pixels(flat[first : first + _CHUNK])
        frame, slot, pixels_there, centroid_there = _largest_patches(coloured, frames.shape[-3:-1])
        pixels[first + frame, slot] = pixels_there
        centroid[first + frame, slot] = centroid_there
    found = pixels >= MIN_PIXELS
    centroid[~found] = np.nan
    return ColourReading(
        found=found.reshape(*batch, len(COLOURS)),
        centroid=centroid.reshape(*batch, len(COLOURS), 2),
        pixels=pixels.reshape(*batch, len(COLOURS)),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Coloured:
    """The pixels that have a palette colour, in the shade or not, one entry each; those of two colours have two."""

    frame: np.ndarray
    row: np.ndarray
    column: np.ndarray
    slot: np.ndarray
    """Which colour."""
    lit: np.ndarray
    """Whether out of the shade."""
    weight: np.ndarray
    """How much of the pixel the colour covers."""


def _coloured_pixels(frames: np.ndarray) -> _Coloured:
    """Find them in frames (n, h, w, 3)."""
    raw = np.moveaxis(frames, -1, 0).astype(np.int16)
    padded = np.pad(raw, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    columns = padded[..., :-2] + padded[..., 1:-1] + padded[..., 2:]
    mixed = columns[:, :, :-2] + columns[:, :, 1:-1] + columns[:, :, 2:] + _RAW_PARTS * raw  # white is _WHITE
    size = mixed.max(axis=0) - mixed.min(axis=0)
    place = np.nonzero(size > SHADE_CHROMA * _WHITE)  # few: all that follows is about these
    levels, saturation = mixed[:, *place].T / _WHITE, size[place] / _WHITE
    relative, lit = saturation / levels.max(axis=-1), saturation > MIN_SATURATION
    beside = scipy.ndimage.maximum_filter(size, size=(1, 3, 3))[place] / _WHITE
    chroma = levels - levels.mean(axis=-1, keepdims=True)
    palette = np.array([PALETTE[colour] for colour in COLOURS])
    palette = palette - palette.mean(axis=-1, keepdims=True)
    lengths = np.linalg.norm(chroma, axis=-1, keepdims=True) * np.linalg.norm(palette, axis=-1)
    alike = chroma @ palette.T > MIN_COSINE * lengths
    pixel, slot = np.nonzero(alike & (lit | (relative > SHADE_SATURATION))[:, None])
    frame, row, column = (index[pixel] for index in place)
    # At a rim, both are about the share covered. The first fails before dark grounds, the second where the lighting of
    # a body has an edge: their product has a smaller error than either.
    weight = (relative * saturation / beside)[pixel]
    return _Coloured(frame=frame, row=row, column=column, slot=slot, lit=lit[pixel], weight=weight)


def _largest_patches(
    coloured: _Coloured, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Take, of each colour of each frame, the connected patch with most lit pixels.

    Returns frame, slot, lit pixels and weighted centroid (m, 2) of each; ``shape`` is a frame's height and width.
    """
    layers, layer = np.unique(coloured.frame * len(COLOURS) + coloured.slot, return_inverse=True)
    masks = np.zeros((len(layers), *shape), dtype=bool)
    masks[layer, coloured.row, coloured.column] = True
    labels = np.empty(masks.shape, dtype=np.int32)
    scipy.ndimage.label(masks, structure=_WITHIN_LAYERS, output=labels)
    patches = int(labels.max(initial=0))
    patch = labels[layer, coloured.row, coloured.column] - 1
    lit = np.bincount(patch[coloured.lit], minlength=patches)
    moments = [np.bincount(patch, coloured.weight * values, patches) for values in (1.0, coloured.column, coloured.row)]
    owner = np.zeros(patches, dtype=np.int64)
    owner[patch] = layer
    order = np.lexsort((-lit, owner))
    largest = order[np.unique(owner[order], return_index=True)[1]]
    frame, slot = np.divmod(layers, len(COLOURS))
    return frame, slot, lit[largest], np.stack(moments[1:], axis=-1)[largest] / moments[0][largest, None]
