"""Frames of a source as RGB of the recording's size. Knows no file and no action."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from worldsim.envs.import_source import MAX_EPISODE_BYTES, Pictures, broken, check_bytes
from worldsim.errors import UsageError

SIDE_UNIT = 16
"""Frame sides are multiples of this many pixels: the patch of the presets."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameSize:
    """The size of the recording's frames, in pixels."""

    height: int
    width: int

    @classmethod
    def parse(cls, text: str | int) -> FrameSize:
        """Read a side ("64") or height and width ("64x96"); UsageError unless both are multiples of `SIDE_UNIT`."""
        found = re.fullmatch(r"(\d{1,5})(?:[xX](\d{1,5}))?", str(text).strip())
        sides = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if min(sides) < SIDE_UNIT or sides[0] % SIDE_UNIT or sides[1] % SIDE_UNIT:
            allowed = f"a side or HEIGHTxWIDTH in pixels, multiples of {SIDE_UNIT}"
            raise UsageError("size", got=text, allowed=allowed, fix="for example --size 64 or --size 64x96")
        return cls(height=sides[0], width=sides[1])

    @classmethod
    def nearest(cls, pictures: Pictures) -> FrameSize:
        """Return the size that changes ``pictures`` least: none at all if their sides are multiples of `SIDE_UNIT`."""
        height, width = (max(1, round(side / SIDE_UNIT)) * SIDE_UNIT for side in pictures.size)
        return cls(height=height, width=width)

    def resized(self, frames: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "n h2 w2 3"]:
        """Return frames of this size: smaller ones as means over areas, larger ones by Lanczos' filter."""
        if frames.shape[1:3] == (self.height, self.width):
            return frames
        smaller = self.height <= frames.shape[1] and self.width <= frames.shape[2]
        method = Image.Resampling.BOX if smaller else Image.Resampling.LANCZOS
        pictures = (Image.fromarray(np.ascontiguousarray(frame)) for frame in frames)
        return np.stack([np.asarray(picture.resize((self.width, self.height), method)) for picture in pictures])


def as_rgb(block: UInt8[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "n h w 3"]:
    """Return pictures with three colours: grey is repeated, an alpha channel left out."""
    return np.repeat(block, 3, axis=3) if block.shape[3] == 1 else block[..., :3]


def gather(
    blocks: Iterator[np.ndarray], pictures: Pictures, size: FrameSize, keep: range, where: str
) -> UInt8[np.ndarray, "n h w 3"]:
    """Return the frames whose positions are in ``keep``, as RGB of ``size``, reading block after block.

    UsageError if they would not fit into memory, or if the source has other frames than it announced.
    """
    shape = (len(keep), size.height, size.width, 3)
    check_bytes(shape, np.dtype(np.uint8), MAX_EPISODE_BYTES, f"frames of {where}")
    try:
        frames = np.empty(shape, np.uint8)
    except MemoryError as error:
        got = f"{np.prod(shape) / 1e9:.1f} GB of frames"
        raise UsageError(where, got=got, allowed="what fits into memory", fix="give a smaller --size") from error
    seen = taken = 0
    for block in blocks:
        if block.dtype != np.uint8 or block.shape[1:] != (*pictures.size, pictures.channels):
            got = f"{block.dtype} {block.shape[1:]} at frame {seen}"
            allowed = f"uint8 {(*pictures.size, pictures.channels)} as at its beginning"
            raise UsageError(f"frames of {where}", got=got, allowed=allowed, fix="keep one size within an episode")
        wanted = [k for k in range(len(block)) if seen + k in keep]
        seen += len(block)
        if wanted:
            frames[taken : taken + len(wanted)] = size.resized(as_rgb(block[wanted]))
            taken += len(wanted)
    if seen != pictures.count:
        raise broken(where, f"{seen} frames where {pictures.count} were announced")
    return frames
